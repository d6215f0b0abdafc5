// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The main job: the same pages, unmapped by each strategy, and what each cost.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::guest;
use crate::output;
use crate::places::Places;
use crate::table;
use crate::vm::{Ending, Machine, Said, Session};

const BINARY: &str = "rust-tlb-demo";
/// The demo writes a JSON object a row behind this.
const ROW: &str = "ROW ";
const LIMIT: Duration = Duration::from_secs(300);
/// What every row has; the guest may add more.
const FIELDS: &[&str] = &[
    "scenario",
    "strategy",
    "nr_pages",
    "nr_mms",
    "nr_cpus",
    "rounds",
    "ipis_received",
    "local_full_flushes",
    "local_page_flushes",
    "stale_accesses",
    "ns_per_page",
];

pub type Row = Map<String, Value>;

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
        match line.strip_prefix(ROW).map(read_row) {
            Some(Ok(row)) => rows.push(row),
            Some(Err(error)) => bad = Some(error),
            None => output::note(line),
        }
    })?;
    let clean = output::show_kernel_problems(&ended);
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
        environment: Environment::of(machine, places)?,
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
    let row: Row = serde_json::from_str(text).with_context(|| format!("in the row {text}"))?;
    match FIELDS.iter().find(|field| !row.contains_key(**field)) {
        Some(field) => bail!("the row {text} has no {field}"),
        None => Ok(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_field_is_refused() {
        let fields: Vec<String> = FIELDS.iter().map(|name| format!("\"{name}\":1")).collect();
        let row = format!("{{{}}}", fields.join(","));
        assert!(read_row(&row).is_ok());
        let error = read_row(&row.replace("rounds", "bounds")).unwrap_err();
        assert!(error.to_string().ends_with("has no rounds"));
        assert!(read_row("{").is_err());
    }
}
