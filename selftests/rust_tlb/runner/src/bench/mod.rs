// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The bench: boots, has everything measured, and writes what a person and a program can read.
//!
//! - [`session`] runs one part of the guest's bench in a boot of its own, and reads its lines;
//!   [`said`] keeps them.
//! - [`results`] makes of them what is written, [`merge`] makes rows of what two boots measured,
//!   [`targets`] holds them against what was aimed at.
//! - [`moves`] is what `mremap()` costs, [`binder`] what a real driver's shrinker does.
//! - [`events`] compares kernels with trace events and without, [`hooks`] with the ring and without.
//! - [`chart`] draws, [`plots`] chooses what, [`page`] is the HTML, [`tables`] its tables.
//! - [`numbers`] is the page of the documentation.

mod binder;
mod chart;
pub mod events;
pub mod hooks;
mod merge;
mod moves;
mod numbers;
mod page;
mod plots;
mod results;
mod said;
#[cfg(test)]
mod sample;
mod session;
mod tables;
mod targets;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, Result};
use rust_tlb_results::written::Results;

use crate::environment;
use crate::output;
use crate::places::Places;
use crate::vm::Machine;

use said::Said;

/// `make` hands on `QUICK=` when it is not set.
pub fn parse_quick(text: &str) -> Result<bool, String> {
    match text {
        "" | "0" => Ok(false),
        "1" => Ok(true),
        _ => Err("QUICK is 1 or 0".into()),
    }
}

/// Measures, and writes `build/bench/`.
pub fn run(machine: &Machine, places: &Places, quick: bool) -> Result<ExitCode> {
    let start = Instant::now();
    let memory = places.cache.join(format!("bench-seconds-{quick}"));
    announce(&memory, quick);
    let mut said = Said::default();
    let parts = session::parts(machine, quick);
    for part in &parts {
        part.run(places, &mut said)?;
    }
    let environments = parts
        .iter()
        .map(|part| Ok((part.name, environment::of(&part.machine, places)?)))
        .collect::<Result<Vec<_>>>()?;
    let results = results::assemble(environments, quick, start.elapsed(), &said)?;
    fs::write(&memory, start.elapsed().as_secs().to_string())?;
    write(&results, places)?;
    conclude(&results)
}

/// Says how long it will take: as long as the last time, if there was one.
fn announce(memory: &std::path::Path, quick: bool) {
    let last = fs::read_to_string(memory).ok();
    let seconds = last.and_then(|text| text.trim().parse().ok());
    let (seconds, how) = match seconds {
        Some(seconds) => (seconds, "as the last time"),
        None => (session::expected(quick).as_secs(), "on two cores, emulated"),
    };
    let minutes = seconds as f64 / 60.0;
    output::note(&format!("this takes about {minutes:.1} minutes ({how})"));
}

fn write(results: &Results, places: &Places) -> Result<()> {
    let folder = places.out.join("bench");
    fs::create_dir_all(&folder)?;
    let plots = plots::all(results)?;
    for plot in &plots {
        fs::write(folder.join(format!("{}.svg", plot.name)), &plot.svg)?;
    }
    let json = serde_json::to_string_pretty(results)?;
    fs::write(folder.join("results.json"), json.clone() + "\n")?;
    results::validate(&serde_json::from_str(&json)?)?;
    let page = folder.join("index.html");
    fs::write(&page, page::render(results, &plots))?;
    fs::write(folder.join("numbers.rst"), numbers::page(results))?;
    for path in [&folder.join("results.json"), &page] {
        let shown = path.strip_prefix(&places.top).unwrap_or(path);
        println!("      {}", shown.display());
    }
    Ok(())
}

/// A bench whose counters do not agree has measured nothing.
fn conclude(results: &Results) -> Result<ExitCode> {
    println!("{}", targets::as_text(&results.targets));
    let disagreeing = results.checks.iter().find(|check| !check.agree);
    if let Some(check) = disagreeing {
        bail!(
            "the counters do not agree: {}: {} and {}",
            check.what,
            check.ours,
            check.kernels
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_a_switch() {
        assert_eq!(parse_quick(""), Ok(false));
        assert_eq!(parse_quick("0"), Ok(false));
        assert_eq!(parse_quick("1"), Ok(true));
        assert!(parse_quick("yes").is_err());
    }
}
