// SPDX-License-Identifier: GPL-2.0

//! What is flushed before a leaf goes in, and when one has gone; and what shows if it is not.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use super::{device, expect_fresh, expect_leaves, fill, mapped, whole};
use crate::abi::{self, strategy, POISON};
use crate::attempts::{caught_every_time, Attempt};
use crate::busy::Busy;
use crate::cpu;
use crate::device::{Device, DEFERRING_STRATEGIES};
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};
use crate::witness::Witness;

/// Whoever changes mappings then finds neither a page nor a table, and returns. Pages of a table are
/// flushed when they are asked for, as ever.
pub fn a_deferred_unmap_flushes_leaves_at_its_end(_: &Options) -> Result<()> {
    for strategy in DEFERRING_STRATEGIES {
        let (device, mapping) = mapped(2)?;
        fill(&mapping, 0..2 * PAGES_PER_TABLE);
        // The first leaf becomes a table.
        device.unmap(&Selection::run(9, 1), strategy, 0)?;
        fill(&mapping, whole());
        for (page, nr_flush_calls) in [(5, 0), (PAGES_PER_TABLE + 5, 1), (6, 0)] {
            let one = Selection::run(page, 1);
            let reply = device.unmap(&one, strategy, abi::UNMAP_DEFER)?;
            let found = (reply.nr_pages, reply.nr_ptes, reply.nr_flush_calls);
            ensure!(found == (1, 1, nr_flush_calls), "page {page}: {reply:?}");
        }
        let counters = device.counters()?;
        ensure!(counters.nr_pending == 3, "{counters:?}");
        let reply = device.flush()?;
        let found = (reply.nr_pages, reply.nr_flush_calls);
        ensure!(found == (3, 1), "{reply:?}");
        expect_fresh(&mapping, [5, 6, PAGES_PER_TABLE + 5])?;
    }
    Ok(())
}

/// CPUs that are busy, beside the one that faults and the one that has yet to flush.
const NR_BUSY: usize = 2;

fn remote_flushes() -> Result<u64> {
    Ok(TlbEvents::read()?.context("no counts")?.remote_flush)
}

/// Rounds in this process while `fault` faults, and, if there is `owed`, somebody has taken a page
/// table out of it, and not flushed yet.
fn rounds_of(fault: impl FnOnce(), owed: Option<(&Device, &Mapping)>) -> Result<u64> {
    let Some((holder, held)) = owed else {
        let before = remote_flushes()?;
        fault();
        return Ok(remote_flushes()? - before);
    };
    thread::scope(|scope| {
        let unmapping = scope.spawn(|| -> Result<()> {
            cpu::pin_worker(NR_BUSY)?;
            fill(held, [0]);
            held_moment::hold_own_tables()?;
            holder.unmap(&Selection::run(0, 1), strategy::BROADCAST, 0)?;
            Ok(())
        });
        while !held_moment::is_held()? {
            if unmapping.is_finished() {
                bail!("it was not held");
            }
            thread::yield_now();
        }
        let before = remote_flushes()?;
        fault();
        let rounds = remote_flushes()? - before;
        let in_time = held_moment::is_held()?;
        held_moment::go_on()?;
        unmapping.join().expect("it does not panic")?;
        ensure!(in_time, "the fault took too long");
        Ok(rounds)
    })
}

/// A page table that was freed here may be in use until then. For another table, nothing has to be
/// flushed.
pub fn what_others_owe_is_flushed_before_a_leaf(_: &Options) -> Result<()> {
    const NR_ROUNDS: u64 = 4;
    if cpu::nr_cpus() < NR_BUSY + 2 {
        return skip(format!("{} CPUs are needed", NR_BUSY + 2));
    }
    if !held_moment::can_be_held() || TlbEvents::read()?.is_none() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS, or no CONFIG_DEBUG_TLBFLUSH");
    }
    let (huge, leaves) = mapped(2 * NR_ROUNDS)?;
    let small = Device::open()?;
    small.setup(abi::SETUP_PFNMAP)?;
    let tables = Mapping::of_tables(&small, NR_ROUNDS * PAGES_PER_TABLE)?;
    let holder = Device::open()?;
    holder.setup(abi::SETUP_FREE_TABLES)?;
    let held = Mapping::of_tables(&holder, PAGES_PER_TABLE)?;
    let _busy = Busy::start(NR_BUSY);

    let owed = Some((&holder, &held));
    let count = |mapping: &Mapping, first: u64, owed| -> Result<u64> {
        let mut rounds = Vec::new();
        for nr in first..first + NR_ROUNDS {
            let fault = || fill(mapping, [nr * PAGES_PER_TABLE]);
            rounds.push(rounds_of(fault, owed)?);
        }
        println!("# rounds: {rounds:?}");
        Ok(most_common(rounds))
    };
    let found = [
        count(&leaves, 0, owed)?,
        count(&leaves, NR_ROUNDS, None)?,
        count(&tables, 0, owed)?,
    ];
    expect_leaves(&huge, 2 * NR_ROUNDS)?;
    ensure!(
        found == [1, 0, 0],
        "rounds for a leaf, for one while nothing is owed, for a table: {found:?}"
    );
    Ok(())
}

/// What is found where a page was that is unmapped, flushed and released.
fn found_after_unmap(passes_leaf: bool) -> Result<u64> {
    let (device, mapping) = mapped(1)?;
    fill(&mapping, whole());
    if passes_leaf {
        held_moment::pass_leaves()?;
    }
    let unmapped = device.unmap(&Selection::run(5, 1), strategy::BROADCAST, 0);
    held_moment::go_on()?;
    unmapped?;
    Ok(mapping.word(5, 0).load(SeqCst))
}

/// A walk that takes it for "no page table" lets go of pages that are mapped.
pub fn a_leaf_that_is_passed_over_shows(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    let found = found_after_unmap(false)?;
    ensure!(found == 0, "{found:#x}, by the rules");
    let found = found_after_unmap(true)?;
    ensure!(found == POISON, "{found:#x}, with the rule broken");
    Ok(())
}

const OLD: u64 = 0x01d;
const NEW: u64 = 0x2e3;
/// Reads of the page that are enough to see which one it is.
const ENOUGH: u64 = 1000;

/// A page that one thread reads all the time, while another one replaces the mapping.
struct Reading<'m> {
    word: &'m AtomicU64,
    is_unmapped: AtomicBool,
    is_replaced: AtomicBool,
    is_over: AtomicBool,
    nr_reads: AtomicU64,
    /// ... of the old page, after it was replaced.
    nr_old: AtomicU64,
    witness: Witness,
}

impl Reading<'_> {
    fn read(&self) -> Result<()> {
        cpu::pin_worker(0)?;
        while !self.is_over.load(SeqCst) {
            let replaced = self.is_replaced.load(SeqCst);
            self.witness.look();
            let is_old = self.word.load(SeqCst) == OLD;
            self.nr_old.fetch_add(u64::from(is_old && replaced), SeqCst);
            self.nr_reads.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    fn await_reads(&self, nr: u64) {
        let goal = self.nr_reads.load(SeqCst) + nr;
        while self.nr_reads.load(SeqCst) < goal {
            thread::yield_now();
        }
    }

    /// Puts other memory in the place of the leaf, on a CPU that has not used the page. Returns whether
    /// the reader's has kept what it knew until that was read.
    fn replace(&self, mapping: &Mapping, page: u64) -> Result<bool> {
        cpu::pin_worker(1)?;
        while !self.is_unmapped.load(SeqCst) {
            thread::yield_now();
        }
        mapping.bury_part(page, PAGES_PER_TABLE)?;
        self.word.store(NEW, SeqCst);
        self.is_replaced.store(true, SeqCst);
        self.await_reads(ENOUGH);
        self.witness.is_kept()
    }
}

/// How often the old page is read by who used it all the time, after a deferred unmap and a munmap of
/// it; and whether nothing else emptied that CPU's TLB.
fn seen_after_replacement(flags: u32) -> Result<(u64, bool)> {
    let device = device(0)?;
    // Between two others, so that no table above goes with it.
    let mapping = Mapping::of_tables(&device, 3 * PAGES_PER_TABLE)?;
    let page = PAGES_PER_TABLE;
    fill(&mapping, [0, 2 * PAGES_PER_TABLE]);
    let reading = Reading {
        word: mapping.word(page, 0),
        is_unmapped: AtomicBool::new(false),
        is_replaced: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        nr_reads: AtomicU64::new(0),
        nr_old: AtomicU64::new(0),
        witness: Witness::new()?,
    };
    let is_kept = thread::scope(|scope| -> Result<bool> {
        cpu::pin_worker(2)?;
        reading.word.store(OLD, SeqCst);
        expect_leaves(&device, 3)?;
        let reader = scope.spawn(|| reading.read());
        let replacer = scope.spawn(|| reading.replace(&mapping, page));
        reading.await_reads(ENOUGH);
        reading.witness.expect()?;
        let flags = abi::UNMAP_DEFER | flags;
        let unmapped = device.unmap(&Selection::run(page, 1), strategy::BROADCAST, flags);
        reading.is_unmapped.store(true, SeqCst);
        let replaced = replacer.join().expect("it does not panic");
        reading.is_over.store(true, SeqCst);
        reader.join().expect("it does not panic")?;
        unmapped?;
        replaced
    });
    Ok((reading.nr_old.load(SeqCst), is_kept?))
}

fn needs_four_cpus() -> Result<()> {
    if cpu::nr_cpus() < 4 {
        return skip("4 CPUs are needed");
    }
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    Ok(())
}

/// The replacement finds nothing to flush, and nothing is left that had to be.
pub fn no_one_returns_before_a_leaf_is_flushed(options: &Options) -> Result<()> {
    needs_four_cpus()?;
    for _ in 0..5 * options.effort {
        let (nr_old, _) = seen_after_replacement(0)?;
        ensure!(nr_old == 0, "{nr_old} reads of a page that is not mapped");
    }
    Ok(())
}

/// With the flush left to later, and nobody told.
pub fn a_leaf_that_is_left_to_later_shows(_: &Options) -> Result<()> {
    const NR_RUNS: u32 = 10;
    needs_four_cpus()?;
    caught_every_time(NR_RUNS, || {
        let (nr_old, is_kept) = seen_after_replacement(abi::UNMAP_BREAK_LEAVES)?;
        let found = || "no read of the old page".into();
        Ok(Attempt::judge(nr_old > 0, is_kept, found))
    })
}
