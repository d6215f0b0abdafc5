// SPDX-License-Identifier: GPL-2.0

//! Under the eyes of the stale-access oracle: silence for everything that flushes, and an alarm
//! for what does not.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use anyhow::{ensure, Result};

use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::ktap::{skip, Options};
use crate::mapping::WORDS_PER_PAGE;
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::{Access, Report};
use crate::workers::Shape;

crate::tests! {
    page_is_silent,
    zap_is_silent,
    unmap_mapping_is_silent,
    broadcast_is_silent,
    precise_is_silent,
    gather_is_silent,
    deferred_broadcast_is_silent,
    deferred_precise_is_silent,
    no_flush_is_read_every_time,
    no_flush_is_written_every_time,
    no_flush_is_seen_by_other_processes_every_time,
    no_deferred_flush_is_seen_every_time,
}

/// Pages that are watched; every other one is unmapped.
const NR_PAGES: u64 = 32;

/// The driver's own word in each page; the workers' are the first ones.
const DRIVERS_WORD: usize = WORDS_PER_PAGE - 1;

/// Passes of each worker after each unmap.
const NR_PASSES: u64 = 300;
const NR_ROUNDS: u32 = 4;

/// Accesses of a watch, at least.
const MIN_ACCESSES: u64 = 100_000;

const NR_ALARMS: u32 = 20;

fn workers() -> usize {
    cpu::nr_cpus() - 1
}

/// Who watches, on all CPUs but the driver's.
#[derive(Clone, Copy, Debug)]
enum Watch {
    /// Threads of the driver's process.
    Threads,
    /// Threads of another process.
    OneProcess,
    /// A process each.
    Processes,
}

fn start(watch: Watch, device: &Device, access: Access) -> Result<Oracle> {
    let shape = |processes, threads| Shape { processes, threads };
    let oracle = match watch {
        Watch::Threads => {
            let mapping = Arc::new(device.map(NR_PAGES)?);
            Oracle::of_threads(&mapping, workers(), 0, access)
        }
        Watch::OneProcess => Oracle::of_processes(device, NR_PAGES, shape(1, workers()), access),
        Watch::Processes => Oracle::of_processes(device, NR_PAGES, shape(workers(), 1), access),
    }?;
    oracle.await_passes(8)?;
    Ok(oracle)
}

/// Every other page, and now and then all of them.
fn selection(round: u32) -> Selection {
    match round % 4 {
        3 => Selection::run(0, NR_PAGES),
        odd => Selection::scattered(u64::from(odd % 2), NR_PAGES / 2),
    }
}

fn page_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::PAGE)
}

fn zap_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::ZAP)
}

fn unmap_mapping_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::UNMAP_MAPPING)
}

fn broadcast_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::BROADCAST)
}

fn precise_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::PRECISE)
}

fn gather_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::GATHER)
}

fn is_silent(options: &Options, strategy: u32) -> Result<()> {
    for (watch, access) in [
        (Watch::Threads, Access::Read),
        (Watch::Threads, Access::ReadWrite),
        (Watch::Threads, Access::Write),
        (Watch::Processes, Access::ReadWrite),
    ] {
        let report = unmap_rounds(options, watch, access, strategy)?;
        println!(
            "# {} {watch:?} {access:?}: {report:?}",
            strategy_name(strategy)
        );
        report.expect_silence()?;
        ensure!(report.nr_accesses >= MIN_ACCESSES, "too few accesses");
    }
    Ok(())
}

fn unmap_rounds(options: &Options, watch: Watch, access: Access, strategy: u32) -> Result<Report> {
    let device = Device::open()?;
    let oracle = start(watch, &device, access)?;
    for round in 0..NR_ROUNDS * options.effort {
        let flags = if round % 2 == 0 { 0 } else { abi::UNMAP_FREE };
        let selection = selection(round);
        let reply = oracle.unmap(&device, &selection, strategy, flags)?;
        ensure!(
            reply.nr_pages == selection.pages().len() as u64,
            "{reply:?}"
        );
        oracle.await_passes(NR_PASSES)?;
    }
    oracle.finish(&device)
}

fn deferred_broadcast_is_silent(options: &Options) -> Result<()> {
    deferral_is_silent(options, strategy::BROADCAST)
}

fn deferred_precise_is_silent(options: &Options) -> Result<()> {
    deferral_is_silent(options, strategy::PRECISE)
}

/// The flush is owed while the workers go on: the first that faults on an unmapped page must not
/// get a fresh one while the others still use the old one.
fn deferral_is_silent(options: &Options, strategy: u32) -> Result<()> {
    for watch in [Watch::Threads, Watch::Processes] {
        let device = Device::open()?;
        let oracle = start(watch, &device, Access::ReadWrite)?;
        for round in 0..NR_ROUNDS * options.effort {
            defer_and_refault(&device, &oracle, &selection(round), strategy)?;
            oracle.await_passes(NR_PASSES / 2)?;
            oracle.flush(&device)?;
            oracle.await_passes(NR_PASSES / 2)?;
        }
        let report = oracle.finish(&device)?;
        println!(
            "# deferred {} {watch:?}: {report:?}",
            strategy_name(strategy)
        );
        report.expect_silence()?;
        let hits = device.counters()?.nr_pending_hits;
        ensure!(hits > 0, "no fault has met a pending batch");
    }
    Ok(())
}

/// Unmaps with the flush left to later, lets the workers go on, and faults on one of the pages.
/// From then on nobody may reach the old one.
fn defer_and_refault(
    device: &Device,
    oracle: &Oracle,
    selection: &Selection,
    strategy: u32,
) -> Result<()> {
    let page = selection.pages()[0];
    // A word that no worker uses tells the old page from a fresh one.
    device
        .map(NR_PAGES)?
        .word(page, DRIVERS_WORD)
        .store(1, Relaxed);
    oracle.unmap(device, selection, strategy, abi::UNMAP_DEFER)?;
    oracle.await_passes(NR_PASSES / 2)?;
    // A new mapping, since this CPU too may still use the old translation.
    let value = device.map(NR_PAGES)?.word(page, DRIVERS_WORD).load(Relaxed);
    ensure!(value == 0, "the old page was mapped again");
    oracle.saw_fresh(page);
    Ok(())
}

fn no_flush_is_read_every_time(_: &Options) -> Result<()> {
    always_alarms(Watch::OneProcess, Access::Read, 0, |report| report.nr_stale)
}

fn no_flush_is_written_every_time(_: &Options) -> Result<()> {
    always_alarms(Watch::OneProcess, Access::Write, 0, |report| {
        report.nr_stale_writes
    })
}

fn no_flush_is_seen_by_other_processes_every_time(_: &Options) -> Result<()> {
    always_alarms(Watch::Processes, Access::ReadWrite, 0, |report| {
        report.nr_stale
    })
}

fn no_deferred_flush_is_seen_every_time(_: &Options) -> Result<()> {
    always_alarms(
        Watch::OneProcess,
        Access::Read,
        abi::UNMAP_DEFER,
        |report| report.nr_stale,
    )
}

/// The negative control: the alarm is raised in 20 of 20 runs.
fn always_alarms(
    watch: Watch,
    access: Access,
    flags: u32,
    alarms: fn(&Report) -> u64,
) -> Result<()> {
    if Device::open()?.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    caught_every_time(NR_ALARMS, || {
        let (report, undisturbed) = unmap_without_flush(watch, access, flags)?;
        let caught = alarms(&report) > 0;
        Ok(Attempt::judge(caught, undisturbed, || {
            format!("{report:?}")
        }))
    })
}

/// Never with [`abi::UNMAP_FREE`], and not with threads of our own, who would keep their stale
/// translations: a stale write must not reach memory of someone else.
fn unmap_without_flush(watch: Watch, access: Access, flags: u32) -> Result<(Report, bool)> {
    let device = Device::open()?;
    let oracle = start(watch, &device, access)?;
    let all = Selection::run(0, NR_PAGES);
    let stillness = oracle.await_residency(&device)?;
    if flags & abi::UNMAP_DEFER != 0 {
        defer_and_refault(&device, &oracle, &all, strategy::NONE)?;
    } else {
        oracle.unmap(&device, &all, strategy::NONE, flags)?;
    }
    oracle.await_passes(NR_PASSES / 2)?;
    let undisturbed = stillness.map_or(Ok(false), |s| s.lasted())?;
    Ok((oracle.finish(&device)?, undisturbed))
}
