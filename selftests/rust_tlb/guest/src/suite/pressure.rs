// SPDX-License-Identifier: GPL-2.0

//! Memory pressure takes idle pages, and nothing else, in batches: one round per scan.

mod failures;
mod operations;
mod watched;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{bail, ensure, Context, Result};
use rust_tlb_trace::event::Event;

use crate::abi::{self, strategy, IDLE_MARK, IDLE_UNMARK, SETUP_PFNMAP};
use crate::barrier::Wait;
use crate::counted::{CountedDevice, MappedBy};
use crate::cpu;
use crate::device::Device;
use crate::ftrace::Tracing;
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::page_holder::PageHolder;
use crate::reclaim::Shrinkers;
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};
use crate::workers::{Shape, Workers};

use failures::{
    a_fork_may_fail_halfway, each_allocation_may_fail, each_allocation_of_a_bundle_may_fail,
    many_allocations_may_fail, no_allocation_is_needed_to_take_pages,
};
use watched::{idle_pages_of_processes_are_watched, idle_pages_of_threads_are_watched};

crate::tests! {
    pages_are_marked_and_unmarked,
    idle_pages_are_taken,
    idle_pages_that_nobody_maps_are_taken,
    idle_pages_are_taken_from_all_processes,
    idle_pages_that_are_held_are_given_up,
    pages_in_use_are_not_taken,
    pool_pages_are_freed,
    a_pending_batch_is_flushed,
    what_a_pending_batch_frees_is_said,
    a_scope_is_flushed,
    a_scan_takes_one_round,
    idle_pages_of_threads_are_watched,
    idle_pages_of_processes_are_watched,
    no_allocation_is_needed_to_take_pages,
    each_allocation_may_fail within 120,
    each_allocation_of_a_bundle_may_fail within 120,
    many_allocations_may_fail,
    a_fork_may_fail_halfway within 120,
}

const NR_PAGES: u64 = 64;

/// With references of their PTEs, and without.
const FLAVOURS: [u32; 2] = [0, SETUP_PFNMAP];

/// A device with all pages mapped and written to.
fn written(flavour: u32) -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    device.setup(flavour)?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    Ok((device, mapping))
}

/// Marks every other page, from `first`.
fn mark_every_other(device: &Device, first: u64) -> Result<()> {
    for page in (first..NR_PAGES).step_by(2) {
        let marked = device.idle(page, 1, IDLE_MARK)?;
        ensure!((marked.nr_pages, marked.nr_taken) == (1, 0), "{marked:?}");
    }
    Ok(())
}

/// Every other page is fresh, from `first`; the rest holds what [`written`] wrote.
fn expect_every_other_fresh(mapping: &Mapping, first: u64) -> Result<()> {
    for page in 0..NR_PAGES {
        let value = mapping.word(page, 0).load(Relaxed);
        let expected = if page % 2 == first { 0 } else { page + 1 };
        ensure!(value == expected, "page {page} holds {value:#x}");
    }
    Ok(())
}

fn pages_are_marked_and_unmarked(_: &Options) -> Result<()> {
    for flavour in FLAVOURS {
        let (device, mapping) = written(flavour)?;
        let idle = |op| {
            // Half of these are not populated.
            let reply = device.idle(NR_PAGES / 2, NR_PAGES, op)?;
            anyhow::Ok((reply.nr_pages, reply.nr_taken, device.counters()?.nr_idle))
        };
        let half = NR_PAGES / 2;
        for (op, expected) in [
            (IDLE_UNMARK, (0, 0, 0)),
            (IDLE_MARK, (half, 0, half)),
            (IDLE_MARK, (0, 0, half)),
            (IDLE_UNMARK, (half, 0, 0)),
        ] {
            let found = idle(op)?;
            ensure!(found == expected, "op {op}: {found:?}, not {expected:?}");
        }
        let calls = device.counters()?.nr_flush_calls;
        ensure!(calls == 0, "{calls} flushes to mark pages");
        expect_every_other_fresh(&mapping, 2)?;
    }
    Ok(())
}

fn idle_pages_are_taken(_: &Options) -> Result<()> {
    const NR_IDLE: u64 = NR_PAGES / 2;
    let shrinkers = Shrinkers::open()?;
    for flavour in FLAVOURS {
        for first in [0, 1] {
            let (device, mapping) = written(flavour)?;
            mark_every_other(&device, first)?;
            shrinkers.take_idle(&device)?;
            let counters = device.counters()?;
            ensure!(counters.nr_reclaimed == NR_IDLE, "{counters:?}");
            ensure!(counters.nr_pages_held == NR_PAGES - NR_IDLE, "{counters:?}");
            ensure!(counters.nr_scans > 0, "{counters:?}");
            let unmarked = device.idle(0, NR_PAGES, IDLE_UNMARK)?;
            ensure!(unmarked.nr_taken == NR_IDLE, "{unmarked:?}");
            expect_every_other_fresh(&mapping, first)?;
            let counters = device.counters()?;
            ensure!(counters.nr_pages_held == NR_PAGES, "{counters:?}");
            ensure!(counters.nr_stale_writes == 0, "{counters:?}");
        }
    }
    Ok(())
}

fn idle_pages_that_nobody_maps_are_taken(_: &Options) -> Result<()> {
    let shrinkers = Shrinkers::open()?;
    for flavour in FLAVOURS {
        let device = Device::open()?;
        device.setup(flavour)?;
        device.populate(0, NR_PAGES)?;
        device.idle(0, NR_PAGES, IDLE_MARK)?;
        shrinkers.take_idle(&device)?;
        let counters = device.counters()?;
        ensure!(counters.nr_pages_held == 0, "{counters:?}");
        ensure!(counters.nr_ptes == 0, "{counters:?}");
        ensure!(device.populate(0, NR_PAGES)? == NR_PAGES, "they are there");
    }
    Ok(())
}

fn idle_pages_are_taken_from_all_processes(_: &Options) -> Result<()> {
    let shrinkers = Shrinkers::open()?;
    let shape = Shape {
        processes: 3,
        threads: 1,
    };
    for flavour in FLAVOURS {
        let (device, mapping) = written(flavour)?;
        let workers = Workers::of_processes(&device, NR_PAGES, shape, Wait::Sleep, |worker| {
            expect_every_other_fresh(worker.mapping, 2)?;
            worker.step()?;
            worker.step()?;
            expect_every_other_fresh(worker.mapping, 0)
        })?;
        workers.step()?;
        mark_every_other(&device, 0)?;
        shrinkers.take_idle(&device)?;
        workers.step()?;
        expect_every_other_fresh(&mapping, 0)?;
        workers.join()?;
    }
    Ok(())
}

fn idle_pages_that_are_held_are_given_up(_: &Options) -> Result<()> {
    let shrinkers = Shrinkers::open()?;
    let (device, mapping) = written(0)?;
    let holder = PageHolder::take(&mapping)?;
    device.idle(0, NR_PAGES, IDLE_MARK)?;
    shrinkers.take_idle(&device)?;
    let counters = device.counters()?;
    let found = (counters.nr_shared, counters.nr_reclaimed);
    ensure!(found == (NR_PAGES, NR_PAGES), "{counters:?}");
    let fresh = (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Relaxed) == 0);
    ensure!(fresh, "a page that was taken is mapped");
    let kept: Vec<u64> = (1..=NR_PAGES).collect();
    ensure!(holder.read(0)? == kept, "a page changed that was held");
    Ok(())
}

fn pages_in_use_are_not_taken(_: &Options) -> Result<()> {
    let shrinkers = Shrinkers::open()?;
    for flavour in FLAVOURS {
        let (device, mapping) = written(flavour)?;
        device.idle(0, NR_PAGES, IDLE_MARK)?;
        device.idle(0, NR_PAGES, IDLE_UNMARK)?;
        (0..5).try_for_each(|_| shrinkers.run())?;
        expect_every_other_fresh(&mapping, 2)?;
        let counters = device.counters()?;
        let found = (counters.nr_scans, counters.nr_reclaimed);
        ensure!(found == (0, 0), "{counters:?}");
    }
    Ok(())
}

fn pool_pages_are_freed(_: &Options) -> Result<()> {
    let shrinkers = Shrinkers::open()?;
    for flavour in FLAVOURS {
        let (device, mapping) = written(flavour)?;
        device.unmap(
            &Selection::scattered(0, NR_PAGES / 2),
            strategy::BROADCAST,
            0,
        )?;
        let held = device.counters()?.nr_pages_held;
        ensure!(held == NR_PAGES, "{held} pages held");
        for _ in 0..50 {
            shrinkers.run()?;
            if device.counters()?.nr_pages_held == NR_PAGES / 2 {
                break;
            }
        }
        let counters = device.counters()?;
        let found = (counters.nr_pages_held, counters.nr_reclaimed);
        ensure!(found == (NR_PAGES / 2, NR_PAGES / 2), "{counters:?}");
        // Nothing was in the page tables.
        ensure!(counters.nr_scans == 0, "{counters:?}");
        expect_every_other_fresh(&mapping, 0)?;
    }
    Ok(())
}

/// Leaves a flush owed, runs the shrinkers, and returns whether it was they who flushed. It could
/// have become too old before.
fn flushes_pending(shrinkers: &Shrinkers, device: &Device, unmap: abi::Unmap) -> Result<bool> {
    let before = device.counters()?;
    device.populate(0, NR_PAGES)?;
    device.call(&mut { unmap })?;
    shrinkers.run()?;
    let after = device.counters()?;
    if after.nr_flushed_pressure == before.nr_flushed_pressure {
        return Ok(false);
    }
    ensure!(after.nr_pending == 0, "{after:?}");
    ensure!(after.nr_batches == before.nr_batches + 1, "{after:?}");
    Ok(true)
}

/// Bounded, since a shrinker passes over a device that is busy.
fn expect_flush(device: &Device, mapping: &Mapping, unmap: abi::Unmap) -> Result<()> {
    const NR_TRIES: usize = 20;
    let shrinkers = Shrinkers::open()?;
    let mut flushed = false;
    for _ in 0..NR_TRIES {
        flushed = flushed || flushes_pending(&shrinkers, device, unmap)?;
    }
    ensure!(flushed, "not in {NR_TRIES} tries: {:?}", device.counters()?);
    let value = mapping.word(0, 0).load(Relaxed);
    ensure!(value == 0, "the old page holds {value:#x}");
    Ok(())
}

fn a_pending_batch_is_flushed(_: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written(0)?;
        let unmap = Selection::run(0, NR_PAGES).unmap(strategy, abi::UNMAP_DEFER);
        expect_flush(&device, &mapping, unmap)?;
    }
    Ok(())
}

/// What the kernel is told that a scan has freed.
fn nr_freed(events: &[Event]) -> Result<u64> {
    let ours = |event: &&Event| event.detail.contains("[rust_tlb]");
    let freed = |event: &Event| {
        let (_, number) = event.detail.split_once("return val ")?;
        number.split_whitespace().next()?.parse::<u64>().ok()
    };
    let freed: Option<u64> = events.iter().filter(ours).map(freed).sum();
    freed.context("events that say nothing")
}

/// Pages that their batch was to free are freed by the scan that flushes it.
fn what_a_pending_batch_frees_is_said(_: &Options) -> Result<()> {
    const NR_ATTEMPTS: u32 = 20;
    let shrinkers = Shrinkers::open()?;
    let Some(tracing) = Tracing::new(&["vmscan/mm_shrink_slab_end"])? else {
        return skip("the kernel does not say what shrinkers free");
    };
    for _ in 0..NR_ATTEMPTS {
        let (device, _mapping) = written(0)?;
        let pages = Selection::run(0, NR_PAGES);
        let to_free = abi::UNMAP_DEFER | abi::UNMAP_FREE;
        device.unmap(&pages, strategy::PRECISE, to_free)?;
        let ((), events) = tracing.record(|| Ok(shrinkers.run()?))?;
        let counters = device.counters()?;
        // It may have grown old before.
        if counters.nr_flushed_pressure == 1 {
            ensure!(counters.nr_freed == NR_PAGES, "{counters:?}");
            let freed = nr_freed(&events)?;
            ensure!(freed >= NR_PAGES, "{freed} of {NR_PAGES} pages");
            return Ok(());
        }
    }
    bail!("no scan met the batch, {NR_ATTEMPTS} times")
}

fn a_scope_is_flushed(_: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written(0)?;
        device.enter(strategy, None)?;
        let unmap = Selection::run(0, NR_PAGES).unmap(strategy, 0);
        expect_flush(&device, &mapping, unmap)?;
        // It goes on, and owes nothing any more.
        let left = device.leave()?;
        ensure!((left.depth, left.nr_flush_calls) == (0, 0), "{left:?}");
    }
    Ok(())
}

const NR_CPUS: usize = 4;
/// Pages that a shrinker is asked for at a time.
const NR_SCANNED: u64 = 128;

/// Rounds, and scans, that it took to take so many scattered idle pages.
fn count(shrinkers: &Shrinkers, counted: &CountedDevice, nr_idle: u64) -> Result<(u64, u64)> {
    let (nr_scans, events) = counted.counted(|device| {
        for page in (0..2 * nr_idle).step_by(2) {
            device.idle(page, 1, IDLE_MARK)?;
        }
        let before = device.counters()?;
        shrinkers.take_idle(device)?;
        let after = device.counters()?;
        let nr_taken = after.nr_reclaimed - before.nr_reclaimed;
        ensure!(nr_taken == nr_idle, "{after:?}");
        device.idle(0, 2 * nr_idle, IDLE_UNMARK)?;
        Ok(after.nr_scans - before.nr_scans)
    })?;
    Ok((events.remote_flush, nr_scans))
}

fn a_scan_takes_one_round(_: &Options) -> Result<()> {
    const NR_ROUNDS: usize = 5;
    if cpu::nr_cpus() < NR_CPUS {
        return skip(format!("{NR_CPUS} CPUs are needed"));
    }
    if TlbEvents::read()?.is_none() {
        return skip("the kernel has no CONFIG_DEBUG_TLBFLUSH");
    }
    let shrinkers = Shrinkers::open()?;
    for nr_idle in [NR_SCANNED, 4 * NR_SCANNED] {
        let counted = CountedDevice::new(MappedBy::Threads(NR_CPUS), 2 * nr_idle)?;
        let counts: Vec<_> = (0..NR_ROUNDS)
            .map(|_| count(&shrinkers, &counted, nr_idle))
            .collect::<Result<_>>()?;
        println!("# {nr_idle} pages: (rounds, scans) {counts:?}");
        let nr_scans = most_common(counts.iter().map(|count| count.1));
        ensure!(nr_scans <= nr_idle / NR_SCANNED + 1, "{nr_scans} scans");
        let extra = most_common(counts.iter().map(|count| count.0.abs_diff(count.1)));
        ensure!(extra == 0, "rounds other than scans");
        ensure!(counts.iter().all(|count| count.1 > 0), "no scans");
    }
    Ok(())
}
