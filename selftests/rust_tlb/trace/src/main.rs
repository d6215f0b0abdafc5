// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Says what recorded flushes were: reads what ftrace, `trace-cmd report` or `perf script` printed.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use rust_tlb_trace::{flushes, timeline, totals, Recording};

/// Says what recorded TLB flushes were.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One batch of each recording as a timeline, and all of them in a table
    Summary { files: Vec<PathBuf> },
    /// Every round: who asked, how long it waited, how long each CPU was interrupted
    Flushes { files: Vec<PathBuf> },
}

fn main() -> ExitCode {
    match run(&Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust-tlb-trace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Summary { files } => {
            let recordings = read_all(files)?;
            for recording in &recordings {
                println!("  {}", recording.name);
                println!("{}", timeline::draw(&recording.history));
            }
            print!("{}", totals::table(&recordings));
        }
        Command::Flushes { files } => {
            for recording in read_all(files)? {
                let lines = flushes::list(&recording.history);
                lines.iter().for_each(|line| println!("{line}"));
                println!("{}", flushes::histograms(&recording));
            }
        }
    }
    Ok(())
}

/// Standard input, if there is no file.
fn read_all(files: &[PathBuf]) -> Result<Vec<Recording>> {
    if files.is_empty() {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(vec![Recording::read("standard input", &text)]);
    }
    files.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Recording> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Recording::read(name, &String::from_utf8_lossy(&text)))
}
