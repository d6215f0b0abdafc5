// SPDX-License-Identifier: GPL-2.0

//! The bench: see the module of that name. Results are lines of a word and a JSON object.

use core::time::Duration;
use std::process::ExitCode;

use anyhow::{ensure, Context, Result};
use clap::{Parser, Subcommand};
use rust_tlb_results::said::{Told, PROGRESS};
use serde::Serialize;

use rust_tlb_guest::bench::check::Check;
use rust_tlb_guest::bench::plan::Effort;
use rust_tlb_guest::bench::way::WAYS;
use rust_tlb_guest::bench::{
    binder, exact, headline, hooks, moves, page_tables, stale, sweep, victims,
};
use rust_tlb_guest::cpu;

/// Measures what it costs to take pages back, in each way that there is.
#[derive(Parser)]
struct Options {
    /// A part of the measurements, with fewer rounds
    #[arg(long)]
    quick: bool,
    /// Seed of the order in which the strategies take turns
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Each strategy over numbers of pages, processes and CPUs
    Sweeps {
        /// Only along this axis
        #[arg(long)]
        axis: Option<String>,
        /// Rounds of each measurement
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// One round, and exact: where only a ring is both
    Exact {
        /// Rounds of each measurement
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Whether stale translations are left
    Stale,
    /// What a move of memory costs
    Moves {
        /// Rounds of each measurement
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// What Rust Binder's shrinker costs
    Binder {
        /// Scans of each kind
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Turns in which transactions are counted
        #[arg(long, default_value_t = 0)]
        turns: usize,
    },
    /// What interrupted threads lose
    Victims,
    /// More mapped pages than memory, read on all CPUs
    Headline {
        /// Where to make the file
        #[arg(long)]
        path: String,
    },
    /// One page per 2 MiB of 50 GiB: what is left of the page tables
    PageTables,
    /// What the kernel's own paths cost where the ring of flushes has hooks
    Hooks {
        /// Rounds of each
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// In processes that have a ring
        #[arg(long)]
        ringed: bool,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.part {
        Part::Sweeps { axis, rounds } => sweeps(&options, axis.as_deref(), *rounds),
        Part::Exact { rounds } => exact(*rounds),
        Part::Stale => look(&options),
        Part::Moves { rounds } => move_memory(*rounds),
        Part::Binder { rounds, turns } => shrink(&options, *rounds, *turns),
        Part::Victims => victims(&options),
        Part::Headline { path } => headline(&options, path),
        Part::PageTables => tables(&options),
        Part::Hooks { rounds, ringed } => pass_hooks(*rounds, *ringed),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust-tlb-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn sweeps(options: &Options, axis: Option<&str>, nr_rounds: usize) -> Result<()> {
    cpu::pin_driver()?;
    ensure!(cpu::nr_cpus() >= 2, "a second CPU is needed");
    let effort = Effort {
        quick: options.quick,
        nr_cpus: cpu::nr_cpus(),
        nr_rounds,
    };
    let mut plan = effort.plan();
    plan.retain(|sweep| axis.is_none_or(|axis| axis == sweep.axis));
    let nr_points: usize = plan.iter().map(|sweep| sweep.pages.len()).sum();
    let mut nr_done = 0;
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut check = Check::default();
    for sweep in &plan {
        sweep::run(sweep, effort, &mut rng, &mut check, |pages, rows| {
            rows.iter().try_for_each(tell)?;
            nr_done += 1;
            let (nr, layout) = (pages.nr, pages.layout());
            progress(
                nr_done,
                nr_points,
                &format!("{}: {nr} {layout}", sweep.axis),
            );
            Ok(())
        })
        .with_context(|| format!("{sweep:?}"))?;
    }
    check.verdicts().iter().try_for_each(tell)
}

fn exact(nr_rounds: usize) -> Result<()> {
    cpu::pin_driver()?;
    ensure!(cpu::nr_cpus() >= 4, "four CPUs are needed");
    exact::run(cpu::nr_cpus(), nr_rounds, tell)
}

fn look(options: &Options) -> Result<()> {
    cpu::pin_driver()?;
    let nr_unmaps = match options.quick {
        true => 2,
        false => 10,
    };
    stale::run(nr_unmaps, |seen| tell(&seen))
}

fn move_memory(nr_rounds: usize) -> Result<()> {
    cpu::pin_driver()?;
    moves::run(nr_rounds, tell)
}

fn shrink(options: &Options, nr_rounds: usize, nr_turns: usize) -> Result<()> {
    cpu::pin_driver()?;
    ensure!(cpu::nr_cpus() >= 2, "a second CPU is needed");
    let effort = binder::Effort {
        nr_rounds,
        nr_turns,
        turn: match options.quick {
            true => Duration::from_millis(300),
            false => Duration::from_secs(1),
        },
    };
    binder::run(effort, tell)
}

fn victims(options: &Options) -> Result<()> {
    cpu::pin_driver()?;
    ensure!(cpu::nr_cpus() >= 2, "a second CPU is needed");
    let (nr_turns, length) = match options.quick {
        true => (2, Duration::from_millis(300)),
        false => (9, Duration::from_secs(1)),
    };
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut nr_done = 0;
    victims::run(nr_turns, length, &mut rng, |turn| {
        tell(&turn)?;
        nr_done += 1;
        progress(nr_done, nr_turns * WAYS.len(), &turn.strategy);
        Ok(())
    })
}

fn headline(options: &Options, path: &str) -> Result<()> {
    cpu::pin_driver()?;
    let size = match options.quick {
        true => headline::Size {
            memories: 1.5,
            limit: Duration::from_secs(4),
            nr_turns: 1,
        },
        false => headline::Size {
            memories: 3.0,
            limit: Duration::from_secs(30),
            nr_turns: 5,
        },
    };
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut nr_done = 0;
    headline::run(path, size, &mut rng, |turn| {
        tell(&turn)?;
        nr_done += 1;
        progress(nr_done, size.nr_turns * headline::WAYS.len(), &turn.way);
        Ok(())
    })
}

fn tables(options: &Options) -> Result<()> {
    cpu::pin_driver()?;
    page_tables::run(options.quick, |row| tell(&row))
}

fn pass_hooks(nr_rounds: usize, ringed: bool) -> Result<()> {
    cpu::pin_driver()?;
    ensure!(cpu::nr_cpus() >= 2, "a second CPU is needed");
    hooks::run(ringed, nr_rounds, tell)
}

fn tell<T: Told + Serialize>(result: &T) -> Result<()> {
    println!("{} {}", T::WORD, serde_json::to_string(result)?);
    Ok(())
}

fn progress(nr_done: usize, nr: usize, what: &str) {
    println!("{PROGRESS} {nr_done} {nr} {what}");
}
