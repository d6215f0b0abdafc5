// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `make trace`, `make perf` and `make bpftrace`: what flushes are made of, recorded and summed up.

use std::fmt::Write;
use std::fs;
use std::process::ExitCode;

use anyhow::{ensure, Result};
use rust_tlb_trace::counts::Counts;
use rust_tlb_trace::{counts, flushes, timeline, totals, Recording};

use crate::output;
use crate::places::Places;
use crate::recording::{shown, Recorded, Recorder};
use crate::vm::Machine;

const FTRACE: Recorder = Recorder {
    name: "ftrace",
    script: &["trace.sh", "--switched"],
    nr_pages: 8,
    nr_rounds: 5,
};
const PERF_STAT: Recorder = Recorder {
    name: "perf-stat",
    script: &["perf.sh", "stat", "--switched"],
    nr_pages: 8,
    nr_rounds: 10,
};
const PERF_RECORD: Recorder = Recorder {
    name: "perf",
    script: &["perf.sh", "record", "--switched"],
    nr_pages: 8,
    nr_rounds: 10,
};
const BPFTRACE: Recorder = Recorder {
    name: "bpftrace",
    script: &["bpftrace.sh", "run", "all"],
    nr_pages: 8,
    nr_rounds: 10,
};

/// The strategies whose timeline is shown; all of them are in the file.
const DRAWN: [&str; 2] = ["broadcast", "precise"];
/// Rounds of each strategy that are listed; all of them are in the file.
const LISTED: usize = 3;

/// Records by ftrace: a timeline of one batch, and totals.
pub fn trace(machine: &Machine, places: &Places) -> Result<ExitCode> {
    let recordings = read(&FTRACE.record(machine, places)?)?;
    output::step("what a flush is made of: 8 scattered pages, mapped by 4 processes");
    let mut all = String::new();
    for recording in &recordings {
        let drawn = format!(
            "\n  {}\n\n{}",
            recording.name,
            timeline::draw(&recording.history)
        );
        if DRAWN.contains(&recording.name.as_str()) {
            print!("{drawn}");
        }
        all += &drawn;
    }
    let table = totals::table(&recordings);
    println!("\n{table}");
    write!(all, "\n{table}")?;
    keep("trace-summary.txt", &all, places)
}

/// Counts and records by perf: a table of events, and how long everybody waited.
pub fn perf(machine: &Machine, places: &Places) -> Result<ExitCode> {
    let counted = PERF_STAT.record(machine, places)?;
    let counted: Vec<(&str, Counts)> = counted
        .iter()
        .map(|recorded| (recorded.strategy, Counts::read(&recorded.text)))
        .collect();
    for (strategy, counts) in &counted {
        let nr = counts.of("rust_tlb:rust_tlb_page_release");
        ensure!(nr.is_some(), "perf counted nothing for {strategy}");
    }
    let recordings = read(&PERF_RECORD.record(machine, places)?)?;
    output::step("what perf counted: unmaps of 8 scattered pages, mapped by 4 processes");
    let table = counts::table(&counted);
    println!("\n{table}");
    println!("Rounds: who asked, how long it waited, how long each CPU was interrupted (us)\n");
    let mut all = table;
    for recording in &recordings {
        let lines = flushes::list(&recording.history);
        let histograms = flushes::histograms(recording);
        let head = lines[..lines.len().min(LISTED)].join("\n");
        println!("  {}\n{head}\n{histograms}", recording.name);
        write!(
            all,
            "\n  {}\n{}\n{histograms}",
            recording.name,
            lines.join("\n")
        )?;
    }
    keep("perf-summary.txt", &all, places)
}

/// Asks by bpftrace's programs, and hands on what they answer.
pub fn bpftrace(machine: &Machine, places: &Places) -> Result<ExitCode> {
    let recorded = BPFTRACE.record(machine, places)?;
    output::step(
        "what bpftrace's programs say: unmaps of 8 scattered pages, mapped by 4 processes",
    );
    let mut all = String::new();
    for recorded in &recorded {
        ensure!(
            recorded.text.contains("@reason[4]: "),
            "bpftrace saw no flush of {}",
            recorded.strategy
        );
        write!(
            all,
            "\n  {}\n\n{}\n",
            recorded.strategy,
            recorded.text.trim()
        )?;
    }
    print!("{all}");
    keep("bpftrace-summary.txt", &all, places)
}

fn read(recorded: &[Recorded]) -> Result<Vec<Recording>> {
    let read = |recorded: &Recorded| {
        let recording = Recording::read(recorded.strategy, &recorded.text);
        let nr_rounds = recording.history.rounds.len();
        ensure!(nr_rounds > 0, "no flush in {}", recorded.path.display());
        Ok(recording)
    };
    recorded.iter().map(read).collect()
}

fn keep(name: &str, text: &str, places: &Places) -> Result<ExitCode> {
    let path = places.out.join("trace").join(name);
    fs::write(&path, text)?;
    println!(
        "All of it: {}; what was recorded lies beside it",
        shown(&path, places)
    );
    Ok(ExitCode::SUCCESS)
}
