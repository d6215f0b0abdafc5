// SPDX-License-Identifier: GPL-2.0

//! Pages that are mapped by number (`VM_PFNMAP`): the PTEs hold no reference, nobody else can take
//! one, and the pages are the device's alone.

mod refusals;
mod watched;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};

use crate::abi::{self, strategy, SETUP_PFNMAP};
use crate::barrier::Wait;
use crate::counted::{CountedDevice, MappedBy, Round};
use crate::cpu;
use crate::device::{strategy_name, Device, REAL_STRATEGIES};
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::memory_use::MemoryUse;
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};
use crate::workers::{Shape, Workers};

use refusals::{dontneed_is_refused, others_cannot_take_references, private_mappings_are_refused};
use watched::{
    a_release_before_the_flush_is_seen_every_time, exits_while_pages_are_taken,
    munmap_while_pages_are_taken, the_oracle_is_silent,
};

crate::tests! {
    pages_keep_what_is_written,
    every_strategy_takes_the_pages,
    broadcast_takes_one_round,
    precise_takes_a_round_per_mm,
    a_deferred_batch_is_flushed_once,
    a_refault_flushes_the_deferred_batch,
    contents_come_back,
    a_fork_copies_the_ptes,
    the_process_is_not_charged,
    private_mappings_are_refused,
    dontneed_is_refused,
    others_cannot_take_references,
    the_oracle_is_silent,
    munmap_while_pages_are_taken,
    exits_while_pages_are_taken,
    a_release_before_the_flush_is_seen_every_time within 120,
}

const NR_PAGES: u64 = 32;
const BATCHES: [u32; 2] = [strategy::BROADCAST, strategy::PRECISE];

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

fn new_device() -> Result<Device> {
    let device = Device::open()?;
    device.setup(SETUP_PFNMAP)?;
    Ok(device)
}

fn fill(mapping: &Mapping) {
    for page in 0..mapping.nr_pages() {
        mapping.word(page, 0).store(page + 1, Relaxed);
    }
}

/// A device with all pages mapped and written to.
fn written() -> Result<(Device, Mapping)> {
    let device = new_device()?;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping);
    Ok((device, mapping))
}

/// The pages hold what [`fill`] wrote, those in `fresh` nothing.
fn expect_contents(mapping: &Mapping, fresh: &[u64]) -> Result<()> {
    for page in 0..mapping.nr_pages() {
        let expected = if fresh.contains(&page) { 0 } else { page + 1 };
        let value = mapping.word(page, 0).load(Relaxed);
        ensure!(
            value == expected,
            "page {page} holds {value:#x}, not {expected:#x}"
        );
    }
    Ok(())
}

fn pages_keep_what_is_written(_: &Options) -> Result<()> {
    let device = new_device()?;
    device.populate(0, NR_PAGES / 2)?;
    let one = device.map(NR_PAGES)?;
    let untouched: Vec<u64> = (0..NR_PAGES).collect();
    expect_contents(&one, &untouched)?;
    fill(&one);
    let two = device.map(NR_PAGES)?;
    expect_contents(&two, &[])?;
    drop((one, two));
    // The pages are the device's, mapped or not.
    expect_contents(&device.map(NR_PAGES)?, &[])?;
    let counters = device.counters()?;
    ensure!(counters.nr_pages_held == NR_PAGES, "{counters:?}");
    Ok(())
}

fn every_strategy_takes_the_pages(_: &Options) -> Result<()> {
    for strategy in REAL_STRATEGIES {
        let (device, mapping) = written()?;
        for selection in [
            Selection::run(4, 8),
            Selection::scattered(1, NR_PAGES / 2),
            Selection::List(vec![30, 2, 31, 3, 0, 17]),
            all(),
        ] {
            let nr_pages = selection.pages().len() as u64;
            let reply = device.unmap(&selection, strategy, 0)?;
            ensure!(reply.nr_pages == nr_pages, "{reply:?}");
            if BATCHES.contains(&strategy) {
                let found = (reply.nr_ptes, reply.nr_mms, reply.nr_flush_calls);
                ensure!(found == (nr_pages, 1, 1), "{reply:?}");
            }
            expect_contents(&mapping, &selection.pages())?;
            fill(&mapping);
        }
        let counters = device.counters()?;
        // Nobody can hold a reference.
        ensure!(counters.nr_recycled == counters.nr_unmapped, "{counters:?}");
        ensure!(counters.nr_shared == 0, "{counters:?}");
        ensure!(counters.nr_stale_writes == 0, "{counters:?}");
        device.unmap(&all(), strategy, abi::UNMAP_FREE)?;
        let held = device.counters()?.nr_pages_held;
        // The pool stays.
        ensure!(
            held <= NR_PAGES,
            "{}: {held} pages",
            strategy_name(strategy)
        );
    }
    Ok(())
}

const NR_CPUS: usize = 4;
const NR_MANY: u64 = 512;
/// So many, every other page, are near enough for a precise flush.
const NR_NEAR: u64 = 16;
const NR_ROUNDS: usize = 5;

fn for_each_mapped_by(test: impl Fn(MappedBy) -> Result<()>) -> Result<()> {
    if cpu::nr_cpus() < NR_CPUS {
        return skip(format!("{NR_CPUS} CPUs are needed"));
    }
    if TlbEvents::read()?.is_none() {
        return skip("the kernel has no CONFIG_DEBUG_TLBFLUSH");
    }
    [MappedBy::Threads(NR_CPUS), MappedBy::Processes(NR_CPUS)]
        .into_iter()
        .try_for_each(test)
}

/// Rounds that asked other CPUs, and calls of the device, for every other page.
fn count(mapped_by: MappedBy, strategy: u32, nr_pages: u64) -> Result<(u64, u64)> {
    let counted = CountedDevice::on(new_device()?, mapped_by, 2 * nr_pages)?;
    let pages = Selection::scattered(0, nr_pages);
    let rounds: Vec<Round> = (0..NR_ROUNDS)
        .map(|_| counted.round(&pages, strategy))
        .collect::<Result<_>>()?;
    for round in &rounds {
        ensure!(round.reply.nr_pages == nr_pages, "{:?}", round.reply);
    }
    let common = |value: fn(&Round) -> u64| most_common(rounds.iter().map(value));
    let found = (
        common(|round| round.events.remote_flush),
        common(|round| round.reply.nr_flush_calls),
    );
    println!("# {mapped_by:?}: (rounds, calls) {found:?}");
    Ok(found)
}

fn broadcast_takes_one_round(_: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let found = count(mapped_by, strategy::BROADCAST, NR_MANY)?;
        ensure!(found == (1, 1), "(rounds, calls): {found:?}");
        Ok(())
    })
}

/// The driver's own mm runs nowhere else where processes map, so that its flush is local.
fn precise_takes_a_round_per_mm(_: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let nr_mms = mapped_by.nr_mms() as u64;
        let expected = ((nr_mms - 1).max(1), nr_mms);
        let found = count(mapped_by, strategy::PRECISE, NR_NEAR)?;
        ensure!(
            found == expected,
            "(rounds, calls): {found:?}, not {expected:?}"
        );
        Ok(())
    })
}

fn a_deferred_batch_is_flushed_once(_: &Options) -> Result<()> {
    for strategy in BATCHES {
        let (device, mapping) = written()?;
        for first in [0, 8] {
            let reply = device.unmap(&Selection::run(first, 4), strategy, abi::UNMAP_DEFER)?;
            let found = (reply.nr_pages, reply.nr_flush_calls);
            ensure!(found == (4, 0), "{reply:?}");
        }
        let counters = device.counters()?;
        ensure!(counters.nr_recycled == 0, "too early: {counters:?}");
        let flush = device.flush()?;
        ensure!(
            (flush.nr_pages, flush.nr_flush_calls) == (8, 1),
            "{flush:?}"
        );
        expect_contents(&mapping, &[0, 1, 2, 3, 8, 9, 10, 11])?;
        let counters = device.counters()?;
        ensure!(
            (counters.nr_recycled, counters.nr_pending_hits) == (8, 0),
            "{counters:?}"
        );
    }
    Ok(())
}

fn a_refault_flushes_the_deferred_batch(_: &Options) -> Result<()> {
    for strategy in BATCHES {
        let (device, mapping) = written()?;
        device.unmap(&Selection::run(0, 4), strategy, abi::UNMAP_DEFER)?;
        // Through a new mapping, since this CPU may still use its own translation.
        let value = device.map(NR_PAGES)?.word(2, 0).load(Relaxed);
        ensure!(value == 0, "the old page is mapped again: {value:#x}");
        expect_contents(&mapping, &[0, 1, 2, 3])?;
        let counters = device.counters()?;
        ensure!(
            (counters.nr_recycled, counters.nr_pending_hits) == (4, 1),
            "{counters:?}"
        );
    }
    Ok(())
}

fn contents_come_back(_: &Options) -> Result<()> {
    for strategy in [strategy::PAGE, strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written()?;
        for flags in [0, abi::UNMAP_TWO_PHASE, abi::UNMAP_DEFER] {
            if strategy == strategy::PAGE && flags == abi::UNMAP_DEFER {
                continue;
            }
            let reply = device.unmap(&all(), strategy, flags | abi::UNMAP_WRITE_BACK)?;
            ensure!(reply.nr_written_back == NR_PAGES, "{reply:?}");
            // Or this CPU goes on with its own translations, to the old pages.
            device.flush()?;
            expect_contents(&mapping, &[])?;
        }
        device.unmap(&all(), strategy, 0)?;
        expect_contents(&mapping, &all().pages())?;
    }
    Ok(())
}

/// The child faults on nothing that its parent had mapped, and loses it with its parent.
fn a_fork_copies_the_ptes(_: &Options) -> Result<()> {
    for strategy in BATCHES {
        let (device, mapping) = written()?;
        // Forked with the mapping in it; what each worker maps itself is not looked at.
        let shape = Shape {
            processes: 1,
            threads: 1,
        };
        let workers = Workers::of_processes(&device, 1, shape, Wait::Sleep, |worker| {
            expect_contents(&mapping, &[])?;
            worker.step()?;
            worker.step()?;
            expect_contents(&mapping, &all().pages())
        })?;
        let before = device.counters()?;
        workers.step()?;
        let after = device.counters()?;
        ensure!(
            after.nr_faults == before.nr_faults,
            "the child had to fault"
        );
        let reply = device.unmap(&all(), strategy, 0)?;
        let found = (reply.nr_pages, reply.nr_ptes, reply.nr_mms);
        ensure!(found == (NR_PAGES, 2 * NR_PAGES, 2), "{reply:?}");
        expect_contents(&mapping, &all().pages())?;
        workers.step()?;
        workers.join()?;
    }
    Ok(())
}

/// Resident pages that come with touching so many of the device.
fn charge(device: &Device, nr_pages: u64) -> Result<i64> {
    let mapping = device.map(nr_pages)?;
    let before = MemoryUse::read()?;
    fill(&mapping);
    Ok(MemoryUse::read()?.rss - before.rss)
}

fn the_process_is_not_charged(_: &Options) -> Result<()> {
    const NR_TOUCHED: u64 = 1024;
    // Code that is used for the first time.
    const NOISE: i64 = 64;
    let charged = charge(&Device::open()?, NR_TOUCHED)?;
    ensure!(
        charged >= NR_TOUCHED as i64 - NOISE,
        "{charged} pages of the usual flavour"
    );
    let charged = charge(&new_device()?, NR_TOUCHED)?;
    ensure!(charged.abs() <= NOISE, "{charged} pages");
    Ok(())
}
