// SPDX-License-Identifier: GPL-2.0

//! Pages are taken out of leaves, and leaves are looked at, moved and split.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::Arc;
use std::thread;

use anyhow::{ensure, Result};
use rustix::mm::MprotectFlags;

use super::{all, device, expect_filled, expect_fresh, expect_leaves, fill, mapped, whole};
use crate::abi::{self, strategy, POISON};
use crate::barrier::Wait;
use crate::child::Child;
use crate::cpu;
use crate::device::{
    strategy_name, Device, BATCH_STRATEGIES, DEFERRING_STRATEGIES, REAL_STRATEGIES,
};
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::Access;
use crate::workers::{Shape, Workers};

/// Afterwards there is nothing, and it is mapped as a whole again, with other contents. For a batch it
/// is one entry, and one flush.
pub fn every_strategy_takes_all_of_it(_: &Options) -> Result<()> {
    for strategy in REAL_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        for round in 1..=3 {
            expect_fresh(&mapping, whole())?;
            fill(&mapping, whole());
            expect_leaves(&device, round)?;
            let reply = device.unmap(&all(), strategy, abi::UNMAP_FREE)?;
            let name = strategy_name(strategy);
            ensure!(reply.nr_pages == PAGES_PER_TABLE, "{name}: {reply:?}");
            if BATCH_STRATEGIES.contains(&strategy) {
                let found = (reply.nr_ptes, reply.nr_mms, reply.nr_flush_calls);
                ensure!(found == (1, 1, 1), "{name}: {reply:?}");
            }
            let counters = device.counters()?;
            ensure!(counters.nr_pages_held == 0, "{name}: {counters:?}");
            ensure!(counters.nr_shared == 0, "{name}: {counters:?}");
        }
    }
    Ok(())
}

/// The others stay, with their contents: they are mapped again one by one.
pub fn a_batch_takes_one_page_out(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        fill(&mapping, whole());
        let reply = device.unmap(&Selection::run(5, 1), strategy, abi::UNMAP_FREE)?;
        let found = (reply.nr_pages, reply.nr_ptes, reply.nr_flush_calls);
        ensure!(found == (1, 1, 1), "{reply:?}");
        expect_fresh(&mapping, [5])?;
        expect_filled(&mapping, whole().filter(|page| *page != 5))?;
        expect_leaves(&device, 1)?;
    }
    Ok(())
}

/// Of each that has mapped it, and of those that have it by a fork, without a fault.
pub fn a_batch_takes_it_out_of_all_processes(_: &Options) -> Result<()> {
    const NR_CHILDREN: usize = 2;
    for strategy in BATCH_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        fill(&mapping, whole());
        // What the workers maps itself is not looked at.
        let shape = Shape {
            processes: NR_CHILDREN,
            threads: 1,
        };
        let workers = Workers::of_processes(&device, 1, shape, Wait::Sleep, |worker| {
            expect_filled(&mapping, whole())?;
            worker.step()?;
            worker.step()?;
            expect_fresh(&mapping, whole())
        })?;
        let before = device.counters()?;
        workers.step()?;
        let after = device.counters()?;
        ensure!(
            (after.nr_faults, after.nr_huge_faults) == (before.nr_faults, before.nr_huge_faults),
            "a child had to fault: {after:?}"
        );
        let reply = device.unmap(&all(), strategy, 0)?;
        let nr_mms = NR_CHILDREN as u64 + 1;
        let found = (reply.nr_pages, reply.nr_ptes, reply.nr_mms);
        ensure!(found == (PAGES_PER_TABLE, nr_mms, nr_mms), "{reply:?}");
        expect_fresh(&mapping, whole())?;
        workers.step()?;
        workers.join()?;
    }
    Ok(())
}

/// What could be written to until the flush cannot any more, and nothing is left for the second.
pub fn two_phases_take_it_in_the_first(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        fill(&mapping, whole());
        let flags = abi::UNMAP_TWO_PHASE | abi::UNMAP_WRITE_BACK;
        let reply = device.unmap(&all(), strategy, flags)?;
        let found = (reply.nr_ptes, reply.nr_protected, reply.nr_redirtied);
        ensure!(found == (1, 0, 0), "{reply:?}");
        let found = (reply.nr_written_back, reply.nr_flush_calls);
        ensure!(found == (PAGES_PER_TABLE, 1), "{reply:?}");
        expect_filled(&mapping, whole())?;
    }
    Ok(())
}

/// They come back page by page, as copies.
pub fn contents_are_saved(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        fill(&mapping, whole());
        let reply = device.unmap(&Selection::run(3, 9), strategy, abi::UNMAP_WRITE_BACK)?;
        let found = (reply.nr_written_back, reply.nr_flush_calls);
        ensure!(found == (9, 1), "{reply:?}");
        expect_filled(&mapping, whole())?;
    }
    Ok(())
}

/// All of its pages are mapped, and all were accessed or none.
pub fn a_leaf_has_one_accessed_bit(_: &Options) -> Result<()> {
    const NR: u64 = 8;
    const BITS: u64 = (1 << NR) - 1;
    let (device, mapping) = mapped(1)?;
    fill(&mapping, [0]);
    for (first, op, accessed) in [
        (0, abi::ACCESSED_READ, BITS),
        (100, abi::ACCESSED_CLEAR, BITS),
        (0, abi::ACCESSED_READ, 0),
        (500, abi::ACCESSED_READ, 0),
    ] {
        let found = device.accessed(first, NR, op)?;
        let bits = (found.mapped, found.accessed);
        ensure!(bits == (BITS, accessed), "from page {first}: {found:?}");
    }
    expect_leaves(&device, 1)?;
    expect_filled(&mapping, [0])
}

/// Faults for a page each, for a leaf each, and, of the first pages, those that are mapped.
type Met = (u64, u64, u32);

fn met(device: &Device) -> Result<Met> {
    const NR: u64 = 64;
    let counters = device.counters()?;
    let mapped = device.accessed(0, NR, abi::ACCESSED_READ)?.mapped;
    let nr_mapped = mapped.count_ones();
    Ok((counters.nr_faults, counters.nr_huge_faults, nr_mapped))
}

/// What the device has met so far, and what it meets by the next use of all pages.
fn expect_met(device: &Device, mapping: &Mapping, before: Met, after: Met) -> Result<()> {
    let found = met(device)?;
    ensure!(found == before, "{found:?}, not {before:?}");
    expect_filled(mapping, whole())?;
    let found = met(device)?;
    ensure!(found == after, "{found:?}, not {after:?}, after a use");
    Ok(())
}

/// By mremap as a whole, which moves the leaf; to where it does not fit, and back; by mprotect in the
/// middle. The kernel splits a leaf of frame numbers in that it drops it: the pages come one by one.
pub fn a_mapping_may_move_and_be_split(_: &Options) -> Result<()> {
    const ONE_BY_ONE: Met = (PAGES_PER_TABLE, 1, 64);
    let (device, mut mapping) = mapped(1)?;
    fill(&mapping, whole());
    mapping.relocate_aligned(PAGES_PER_TABLE)?;
    expect_met(&device, &mapping, (0, 1, 64), (0, 1, 64))?;
    mapping.relocate_askew(PAGES_PER_TABLE)?;
    expect_met(&device, &mapping, (0, 1, 0), ONE_BY_ONE)?;
    mapping.relocate_aligned(PAGES_PER_TABLE)?;
    expect_met(&device, &mapping, ONE_BY_ONE, ONE_BY_ONE)?;
    device.unmap(&all(), strategy::PRECISE, 0)?;
    expect_fresh(&mapping, whole())?;

    let (device, mapping) = mapped(1)?;
    fill(&mapping, whole());
    mapping.protect_part(0, 9, MprotectFlags::READ)?;
    expect_met(&device, &mapping, (0, 1, 0), ONE_BY_ONE)?;
    device.unmap(&all(), strategy::PRECISE, 0)?;
    expect_fresh(&mapping, whole())?;

    // As a whole, to read-only and back: who writes then may split it.
    let (device, mapping) = mapped(1)?;
    fill(&mapping, whole());
    mapping.protect(MprotectFlags::READ)?;
    expect_filled(&mapping, whole())?;
    mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
    fill(&mapping, whole());
    device.unmap(&all(), strategy::BROADCAST, 0)?;
    expect_fresh(&mapping, whole())
}

/// What the device moves from or to a leaf does not move: it is mapped again by the next use.
pub fn a_move_leaves_leaves_alone(_: &Options) -> Result<()> {
    for flags in [0, abi::MOVE_DEFER] {
        for (first, nr) in [(0, PAGES_PER_TABLE), (7, 9)] {
            let (device, old) = mapped(1)?;
            let new = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
            fill(&old, whole());
            expect_filled(&new, whole())?;
            expect_leaves(&device, 2)?;
            let reply = device.move_part(&old, &new, first, nr, flags)?;
            let found = (reply.nr_ptes, reply.nr_tables, reply.nr_occupied);
            ensure!(found == (0, 0, 0), "{reply:?}");
            expect_filled(&new, whole())?;
            expect_filled(&old, whole())?;
            let reply = device.unmap(&all(), strategy::BROADCAST, 0)?;
            ensure!(reply.nr_pages == PAGES_PER_TABLE, "{reply:?}");
            expect_fresh(&old, whole())?;
            expect_fresh(&new, whole())?;
        }
    }
    Ok(())
}

/// The first page of a leaf.
fn first_of(leaf: u64) -> u64 {
    leaf * PAGES_PER_TABLE
}

/// A fork copies leaves while a batch takes them out: of no page that was released a child has one.
pub fn forks_while_leaves_are_taken(options: &Options) -> Result<()> {
    const NR_LEAVES: u64 = 4;
    let nr_forks = 30 * options.effort;
    let (device, mapping) = mapped(NR_LEAVES)?;
    let is_over = AtomicBool::new(false);
    let look = || {
        for leaf in 0..NR_LEAVES {
            let found = mapping.word(first_of(leaf), 0).load(SeqCst);
            ensure!(found != POISON, "a child maps a page that was released");
        }
        Ok(())
    };
    let fork = || {
        let forked = (0..nr_forks).try_for_each(|_| Child::fork(look)?.join());
        is_over.store(true, SeqCst);
        forked
    };
    thread::scope(|scope| {
        let forking = scope.spawn(fork);
        while !is_over.load(SeqCst) {
            fill(&mapping, (0..NR_LEAVES).map(first_of));
            let pages = Selection::run(0, NR_LEAVES * PAGES_PER_TABLE);
            device.unmap(&pages, strategy::BROADCAST, 0)?;
        }
        forking.join().expect("it does not panic")
    })?;
    let counters = device.counters()?;
    println!("# {nr_forks} forks, {counters:?}");
    ensure!(counters.nr_huge_faults > NR_LEAVES, "hardly any leaves");
    Ok(())
}

/// Pages go one by one and all together, so that there are leaves, and tables, while others read and
/// write.
pub fn the_oracle_is_silent(options: &Options) -> Result<()> {
    // Few enough to stay in TLBs: whoever faults while pages go makes a table.
    const NR_WATCHED: u64 = 8;
    const NR_PASSES: u64 = 100;
    let watched = Selection::run(0, NR_WATCHED);
    let others = Selection::run(NR_WATCHED, PAGES_PER_TABLE - NR_WATCHED);
    for strategy in DEFERRING_STRATEGIES {
        let device = device(abi::SETUP_FREE_TABLES)?;
        let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?.only(NR_WATCHED);
        let workers = cpu::nr_cpus() - 1;
        let oracle = Oracle::of_threads(&Arc::new(mapping), workers, 0, Access::ReadWrite)?;
        oracle.await_passes(NR_PASSES)?;
        for round in 0..8 * u64::from(options.effort) {
            let one = Selection::run(round % NR_WATCHED, 1);
            oracle.unmap(&device, &one, strategy, 0)?;
            oracle.await_passes(NR_PASSES)?;
            device.unmap(&others, strategy, 0)?;
            let flags = [0, abi::UNMAP_DEFER][round as usize % 2];
            oracle.unmap(&device, &watched, strategy, flags)?;
            oracle.await_passes(NR_PASSES)?;
            oracle.flush(&device)?;
            oracle.await_passes(NR_PASSES)?;
        }
        let nr_leaves = device.counters()?.nr_huge_faults;
        let report = oracle.finish(&device)?;
        println!(
            "# {}: {nr_leaves} leaves, {report:?}",
            strategy_name(strategy)
        );
        ensure!(nr_leaves > 1, "hardly any leaves");
        report.expect_silence()?;
    }
    Ok(())
}
