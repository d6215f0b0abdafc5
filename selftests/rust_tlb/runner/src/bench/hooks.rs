// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `make hooks`: what the ring's hooks cost the kernel's own paths, by a clock that counts instructions.

use std::fs;
use std::process::ExitCode;

use anyhow::{ensure, Result};
use rust_tlb_results::said::Hooks;
use rust_tlb_results::text;
use rust_tlb_results::written::Environment;

use crate::environment;
use crate::output;
use crate::places::Places;
use crate::vm::Machine;

use super::said::Said;
use super::session::{self, Part, Rings};

/// What those may lose who have no ring, in percent.
const AIM: f64 = 0.5;

/// In two pieces: what is looked for at the top of a file would be found here.
const HEAD: &str = concat!(
    ".. SPDX-License",
    "-Identifier: GPL-2.0

==================================================
Batched TLB flushes: what a ring costs the others
==================================================

Made by ``make hooks`` (``build/bench/hooks.rst``): do not edit. What is measured, and why, is in
tlb_batch_ring.rst. Instructions of all CPUs together, once through each path; the least of the rounds.
"
);

/// Measures the same without rings, with rings that nobody has, where others have one, and where
/// every process has one.
///
/// # Errors
///
/// If one of them did not end well, or said something else than the others.
pub fn run(without: &Machine, with: &Machine, places: &Places) -> Result<ExitCode> {
    let parts = [
        session::hooks("not compiled in", without, Rings::Unused),
        session::hooks("compiled in, unused", with, Rings::Unused),
        session::hooks("others may have one", with, Rings::Others),
        session::hooks("every process has one", with, Rings::All),
    ];
    let mut lines = Vec::new();
    for part in &parts {
        lines.push((part.what, measure(part, places)?));
    }
    output::step(
        "instructions once through each path, the least of the rounds, of all CPUs together",
    );
    let text = format!("{}\n\n    {}", table(&lines)?, verdict(&lines));
    println!("\n{text}");
    let folder = places.out.join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("hooks.rst"),
        page(&environment::of(with, places)?, &text),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// As a page of the documentation.
fn page(on: &Environment, text: &str) -> String {
    let (kernel, qemu, cpus) = (&on.kernel, &on.qemu, on.cpus);
    format!("{HEAD}\nLinux {kernel}, {qemu} ({cpus} CPUs).\n\n::\n\n{text}\n")
}

fn measure(part: &Part, places: &Places) -> Result<Vec<Hooks>> {
    let mut said = Said::default();
    part.run(places, &mut said)?;
    Ok(said.hooks)
}

type Line<'a> = (&'a str, Vec<Hooks>);

/// A column for each path; in all lines but the first also how much more it is.
fn table(lines: &[Line<'_>]) -> Result<String> {
    let without = &lines[0].1;
    let heads = without.iter().map(|hooks| hooks.path.clone());
    let heads = [String::from("rings")].into_iter().chain(heads);
    let is_same = |(own, first): (&Hooks, &Hooks)| own.path == first.path;
    for (what, line) in lines {
        ensure!(
            line.len() == without.len() && line.iter().zip(without).all(is_same),
            "{what}: other paths than without: {line:?}"
        );
    }
    let row = |(nr, (what, line)): (usize, &Line<'_>)| {
        let cell = |(hooks, without): (&Hooks, &Hooks)| match nr {
            0 => format!("{:.0}", hooks.ticks.min),
            _ => format!("{:.0} {:+.2}%", hooks.ticks.min, more(hooks, without)),
        };
        let cells = line.iter().zip(without).map(cell);
        [(*what).into()].into_iter().chain(cells).collect()
    };
    Ok(text::table(
        heads.collect(),
        lines.iter().enumerate().map(row),
    ))
}

/// In percent.
fn more(hooks: &Hooks, without: &Hooks) -> f64 {
    (hooks.ticks.min / without.ticks.min - 1.0) * 100.0
}

/// Whether those that have no ring pay no more than was aimed at.
fn verdict(lines: &[Line<'_>]) -> String {
    let (without, unused) = (&lines[0].1, &lines[1].1);
    let pairs = unused.iter().zip(without);
    let dear = pairs.filter(|(hooks, without)| more(hooks, without) > AIM);
    let dear: Vec<_> = dear.map(|(hooks, _)| hooks.path.as_str()).collect();
    match dear[..] {
        [] => format!("aim met: at most {AIM}% more for who has no ring"),
        _ => format!(
            "aim missed: more than {AIM}% more for who has no ring: {}",
            dear.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use rust_tlb_results::spread::Spread;

    use super::*;

    fn line(ticks: [f64; 2]) -> Vec<Hooks> {
        let paths = ["fault", "flush"].into_iter().zip(ticks);
        let hooks = |(path, min): (&str, f64)| Hooks {
            path: path.into(),
            ticks: Spread {
                median: min + 7.0,
                min,
                max: min + 9.0,
            },
        };
        paths.map(hooks).collect()
    }

    fn lines(unused: [f64; 2]) -> [Line<'static>; 3] {
        [
            ("not compiled in", line([2000.0, 1000.0])),
            ("compiled in, unused", line(unused)),
            ("used", line([2200.0, 1000.0])),
        ]
    }

    #[test]
    fn the_least_is_compared_with_none() {
        let table = table(&lines([2004.0, 1000.0])).unwrap();
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "rings fault flush",
            "not compiled in 2000 1000",
            "compiled in, unused 2004 +0.20% 1000 +0.00%",
            "used 2200 +10.00% 1000 +0.00%",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_aim_can_be_met_and_missed() {
        assert!(verdict(&lines([2010.0, 995.0])).starts_with("aim met"));
        let missed = verdict(&lines([2011.0, 1000.0]));
        assert!(
            missed.starts_with("aim missed") && missed.ends_with(": fault"),
            "{missed}"
        );
    }

    #[test]
    fn another_path_is_an_error() {
        let mut lines = lines([2000.0, 1000.0]);
        lines[2].1.pop();
        assert!(table(&lines).is_err());
    }
}
