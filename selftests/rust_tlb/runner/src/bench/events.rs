// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `make events`: what the trace events cost, by a clock that counts instructions.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use rust_tlb_results::names::Layout;
use rust_tlb_results::said::Row;
use rust_tlb_results::text;

use crate::output;
use crate::places::Places;
use crate::vm::Machine;

use super::said::Said;
use super::session::{self, Part};

/// A strategy that has all the events.
const STRATEGY: &str = "broadcast";
/// Points of the quick bench: pages, and how they lie.
const POINTS: [(u64, Layout); 3] = [
    (1, Layout::Contiguous),
    (512, Layout::Contiguous),
    (512, Layout::Scattered),
];

/// Measures the same unmaps without events, with events that are off, and with events that are on.
///
/// # Errors
///
/// If one of them did not end well.
pub fn run(without: &Machine, with: &Machine, places: &Places) -> Result<ExitCode> {
    let parts = [
        session::events("not compiled in", without, false),
        session::events("compiled in, off", with, false),
        session::events("compiled in, on", with, true),
    ];
    let mut lines = Vec::new();
    for part in &parts {
        lines.push((part.what, measure(part, places)?));
    }
    output::step("guest instructions per page, of 8 busy CPUs together, the least of the rounds, with what is done to a page afterwards");
    let table = table(&lines);
    println!("\n{table}");
    let folder = places.out.join("bench");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("events.txt"), table + "\n")?;
    Ok(ExitCode::SUCCESS)
}

fn measure(part: &Part, places: &Places) -> Result<Vec<f64>> {
    let mut said = Said::default();
    part.run(places, &mut said)?;
    POINTS
        .iter()
        .map(|&(nr_pages, layout)| {
            let row = find(&said.counted, nr_pages, layout)?;
            Ok(row.ticks_per_page.min)
        })
        .collect()
}

fn find(rows: &[Row], nr_pages: u64, layout: Layout) -> Result<&Row> {
    let is_it = |row: &&Row| {
        (row.strategy.as_str(), row.nr_pages, row.layout) == (STRATEGY, nr_pages, layout)
    };
    let found = rows.iter().find(is_it);
    found.with_context(|| format!("{nr_pages} {layout} pages were not measured"))
}

fn table(lines: &[(&str, Vec<f64>)]) -> String {
    let heads = POINTS.map(|(nr_pages, layout)| format!("{nr_pages} {layout}"));
    let heads = [String::from("events")].into_iter().chain(heads);
    let row = |(what, numbers): &(&str, Vec<f64>)| {
        let numbers = numbers.iter().map(|number| format!("{number:.0}"));
        [(*what).into()].into_iter().chain(numbers).collect()
    };
    text::table(heads.collect(), lines.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_is_missing_is_told() {
        let error = find(&[], 512, Layout::Scattered).unwrap_err().to_string();
        assert!(error.contains("512 scattered"), "{error}");
    }

    #[test]
    fn a_line_for_each_way() {
        let lines = [("off", vec![6000.4, 2400.0, 2500.0])];
        let table = table(&lines);
        let words: Vec<_> = table.split_whitespace().collect();
        let heads = "events 1 contiguous 512 contiguous 512 scattered";
        assert_eq!(words.join(" "), format!("{heads} off 6000 2400 2500"));
    }
}
