// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The main job: the same pages, unmapped by each strategy, and what each cost.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use rust_tlb_results::demo::Row;
use rust_tlb_results::said::Told;
use rust_tlb_results::written::Environment;
use serde::Serialize;

use crate::environment;
use crate::guest;
use crate::listener::Said;
use crate::output;
use crate::places::Places;
use crate::table;
use crate::vm::{Ending, Machine, Session};

const BINARY: &str = "rust-tlb-demo";
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Serialize)]
struct Report<'a> {
    environment: Environment,
    rows: &'a [Row],
}

/// Runs the demo, prints the table, writes `run.json`.
pub fn run(machine: &Machine, places: &Places) -> Result<ExitCode> {
    let module = machine.kernel.module();
    let binary = places.bin.join(BINARY).display().to_string();
    let session = Session {
        name: "boot".into(),
        script: guest::command_script(Some(&module), &[binary]),
        limit: LIMIT,
    };
    let mut rows = Vec::new();
    let mut bad = None;
    let ended = machine.run(&session, places, &mut |said| {
        let Said::Guest(line) = said else { return };
        match line.split_once(' ') {
            Some((Row::WORD, text)) => match read_row(text) {
                Ok(row) => rows.push(row),
                Err(error) => bad = Some(error),
            },
            _ => output::note(line),
        }
    })?;
    let clean = ended.show_problems();
    if let Some(error) = bad {
        return Err(error);
    }
    if ended.ending != Ending::Exited(0) {
        bail!("{BINARY} did not end well ({:?})", ended.ending);
    }
    if rows.is_empty() {
        bail!("{BINARY} printed no row");
    }
    conclude(machine, places, &rows)?;
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn conclude(machine: &Machine, places: &Places, rows: &[Row]) -> Result<()> {
    output::step("what each strategy cost");
    println!("{}", table::render(rows));
    let report = Report {
        environment: environment::of(machine, places)?,
        rows,
    };
    let path = places.out.join("run.json");
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    let shown = path.strip_prefix(&places.top).unwrap_or(&path);
    println!(
        "The rows, and what they were measured on: {}",
        shown.display()
    );
    Ok(())
}

fn read_row(text: &str) -> Result<Row> {
    serde_json::from_str(text).with_context(|| format!("in the row {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_field_is_refused() {
        let row = r#"{"scenario":"4 processes","strategy":"zap","nr_pages":8,"nr_mms":4,"nr_cpus":4,
            "rounds":8,"ipis_received":8,"local_full_flushes":0,"local_page_flushes":0,
            "stale_accesses":0,"ns_per_page":1.5,"ns_per_page_min":1.0,"ns_per_page_max":2.0,
            "nr_flush_calls":8,"nr_reads":9}"#;
        assert_eq!(read_row(row).unwrap().ns_per_page, 1.5);
        let error = read_row(&row.replace("rounds", "bounds")).unwrap_err();
        assert!(format!("{error:#}").contains("bounds"), "{error:#}");
        assert!(read_row("{").is_err());
    }
}
