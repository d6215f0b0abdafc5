// SPDX-License-Identifier: GPL-2.0

//! The demo: the same pages, unmapped by each strategy, and what it costs.
//!
//! A line `ROW {json}` for each scenario and strategy; all other lines are progress.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use clap::Parser;
use rust_tlb_results::demo::Row;
use rust_tlb_results::said::Told;
use rust_tlb_results::spread::Spread;
use rustix::io::Errno;

use rust_tlb_guest::abi::strategy;
use rust_tlb_guest::counted::{CountedDevice, MappedBy, Round};
use rust_tlb_guest::cpu;
use rust_tlb_guest::device::{strategy_name, Device};
use rust_tlb_guest::oracle::Oracle;
use rust_tlb_guest::recorder::Recorder;
use rust_tlb_guest::selection::Selection;
use rust_tlb_guest::tlb_events::most_common;
use rust_tlb_guest::watcher::{Access, Report};
use rust_tlb_guest::workers::Shape;

/// Unmaps the same scattered pages by each strategy, among busy CPUs, and counts.
#[derive(Parser)]
struct Options {
    /// Pages to unmap at a time; every other page of the mapping is one of them
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pages: u64,
    /// Counted rounds for each strategy
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds after which no more rounds are begun for a strategy, if it has had one
    #[arg(long, default_value_t = 2.0)]
    patience: f64,
    /// Seed of the order in which the strategies are measured
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Unmaps under the eyes of the oracle for each strategy
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    oracle_rounds: u32,
    /// Only this strategy
    #[arg(long)]
    strategy: Option<String>,
    /// Only who is called so: threads or processes
    #[arg(long, default_value = "")]
    mapped_by: String,
    /// Only count, which is what RUST_TLB_RECORDER records: nobody looks for stale accesses
    #[arg(long)]
    count_only: bool,
}

const SCENARIOS: [(&str, MappedBy); 2] = [
    ("1 process x 4 threads", MappedBy::Threads(4)),
    ("4 processes", MappedBy::Processes(4)),
];

/// Pages that the oracle watches, and its passes over them after each unmap.
const NR_WATCHED: u64 = 64;
const NR_PASSES: u64 = 200;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust-tlb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    cpu::pin_driver()?;
    ensure!(cpu::nr_cpus() >= 2, "a second CPU is needed");
    let device = Device::open().context("cannot open the device")?;
    let fits = 2 * options.pages < device.describe()?.nr_pages;
    ensure!(fits, "so many scattered pages do not fit into the device");
    let all: Vec<u32> = (0..strategy::NR).collect();
    let strategies = device.strategies(&all)?;
    expect_refused(&device, &all, &strategies)?;
    let strategies = chosen(options, strategies)?;
    let mut rng = fastrand::Rng::with_seed(options.seed);
    for (scenario, mapped_by) in SCENARIOS {
        if !scenario.ends_with(&options.mapped_by) {
            continue;
        }
        let mut order = strategies.clone();
        rng.shuffle(&mut order);
        println!(
            "{scenario}: {} scattered pages, {} rounds each",
            options.pages, options.rounds
        );
        let mut rows = measure_all(options, scenario, mapped_by, &order)?;
        rows.sort_by_key(|&(strategy, _)| strategy);
        for (_, row) in rows {
            println!("{} {}", Row::WORD, serde_json::to_string(&row)?);
        }
    }
    Ok(())
}

/// All, or the one that was asked for.
fn chosen(options: &Options, mut strategies: Vec<u32>) -> Result<Vec<u32>> {
    if let Some(name) = &options.strategy {
        strategies.retain(|&strategy| strategy_name(strategy) == name);
        ensure!(!strategies.is_empty(), "there is no strategy {name}");
    }
    Ok(strategies)
}

/// A kernel as in production cannot be asked to break a rule.
fn expect_refused(device: &Device, all: &[u32], built: &[u32]) -> Result<()> {
    for &strategy in all.iter().filter(|strategy| !built.contains(strategy)) {
        let answer = device.unmap(&Selection::run(0, 1), strategy, 0);
        let name = strategy_name(strategy);
        ensure!(answer == Err(Errno::OPNOTSUPP), "{name}: {answer:?}");
    }
    Ok(())
}

fn measure_all(
    options: &Options,
    scenario: &str,
    mapped_by: MappedBy,
    strategies: &[u32],
) -> Result<Vec<(u32, Row)>> {
    let device = CountedDevice::new(mapped_by, 2 * options.pages)?;
    let mut counted = Vec::new();
    for &strategy in strategies {
        println!("  {}: counting", strategy_name(strategy));
        counted.push((strategy, count(options, &device, strategy)?));
    }
    // The oracle's workers need the CPUs for themselves.
    drop(device);
    let mut rows = Vec::new();
    if options.count_only {
        return Ok(rows);
    }
    for (strategy, rounds) in counted {
        println!("  {}: looking for stale accesses", strategy_name(strategy));
        let report = look(options, mapped_by, strategy)?;
        rows.push((
            strategy,
            row(scenario, mapped_by, strategy, &rounds, report),
        ));
    }
    Ok(rows)
}

/// As many rounds as were asked for, or fewer where a round takes long: a machine with fewer CPUs
/// than the guest has to run all of them in turn for each flush.
fn count(options: &Options, device: &CountedDevice, strategy: u32) -> Result<Vec<Round>> {
    let selection = Selection::scattered(0, options.pages);
    let start = Instant::now();
    let mut recorder = Recorder::from_environment()?;
    let mut rounds = Vec::new();
    // One more, since the first pays for what the strategy before it has left.
    while rounds.len() <= options.rounds as usize {
        let round = recorder.around(|| device.round(&selection, strategy))?;
        ensure!(round.reply.nr_pages == options.pages, "{:?}", round.reply);
        rounds.push(round);
        if start.elapsed().as_secs_f64() > options.patience {
            println!("    after {} rounds, since they take long", rounds.len());
            break;
        }
    }
    if rounds.len() > 1 {
        rounds.remove(0);
    }
    Ok(rounds)
}

/// Watches unmaps by `strategy` with as many threads or processes as map the pages.
fn look(options: &Options, mapped_by: MappedBy, strategy: u32) -> Result<Report> {
    let device = Device::open()?;
    let nr_workers = cpu::nr_cpus() - 1;
    let (processes, threads) = match mapped_by {
        MappedBy::Threads(_) => (1, nr_workers),
        MappedBy::Processes(_) => (nr_workers, 1),
    };
    let shape = Shape { processes, threads };
    let oracle = Oracle::of_processes(&device, NR_WATCHED, shape, Access::Read)?;
    oracle.await_passes(8)?;
    for _ in 0..options.oracle_rounds {
        oracle.unmap(&device, &Selection::run(0, NR_WATCHED), strategy, 0)?;
        oracle.await_passes(NR_PASSES)?;
    }
    oracle.finish(&device)
}

fn row(
    scenario: &str,
    mapped_by: MappedBy,
    strategy: u32,
    rounds: &[Round],
    report: Report,
) -> Row {
    let common = |value: fn(&Round) -> u64| most_common(rounds.iter().map(value));
    let times = Spread::of(rounds.iter().map(ns_per_page));
    Row {
        scenario: scenario.into(),
        strategy: strategy_name(strategy).into(),
        nr_pages: common(|round| round.reply.nr_pages),
        nr_mms: mapped_by.nr_mms() as u64,
        nr_cpus: cpu::nr_cpus() as u64,
        rounds: common(|round| round.events.remote_flush),
        ipis_received: common(|round| round.events.remote_flush_received),
        local_full_flushes: common(|round| round.events.local_flush_all),
        local_page_flushes: common(|round| round.events.local_flush_one),
        stale_accesses: report.nr_findings(),
        ns_per_page: times.median,
        ns_per_page_min: times.min,
        ns_per_page_max: times.max,
        nr_flush_calls: common(|round| round.reply.nr_flush_calls),
        nr_reads: report.nr_accesses,
    }
}

fn ns_per_page(round: &Round) -> f64 {
    round.elapsed.as_nanos() as f64 / round.reply.nr_pages as f64
}
