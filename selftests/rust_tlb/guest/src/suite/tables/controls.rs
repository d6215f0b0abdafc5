// SPDX-License-Identifier: GPL-2.0

//! The rules under which a table is taken out, and what shows if one is broken.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use anyhow::{ensure, Context, Result};

use super::{device, map, needs_faults, touch};
use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::barrier::{Barrier, Wait};
use crate::child::Child;
use crate::cpu;
use crate::device::Device;
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};
use crate::witness::Witness;

/// Unmaps what a process has mapped that has the lock on its mappings, as mremap and fork have it;
/// returns how many tables stay for that, and how many go. And once more without, where the table
/// goes if it has not gone.
fn unmap_while_locked(flags: u32) -> Result<(u64, u64)> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS").map(|()| (0, 0));
    }
    let device = device(0)?;
    let barrier = Barrier::new(2, Wait::Sleep)?;
    let child = Child::fork(|| {
        let mapping = map(&device, 1)?;
        touch(&mapping, [0]);
        held_moment::hold_own_mappings()?;
        touch(&mapping, [0]);
        barrier.wait()?;
        barrier.wait()
    })?;
    let unmap = |flags| device.unmap(&Selection::run(0, 1), strategy::BROADCAST, flags);
    held_moment::await_held()?;
    unmap(flags)?;
    let counters = device.counters()?;
    held_moment::go_on()?;
    barrier.wait()?;
    unmap(0)?;
    barrier.wait()?;
    child.join()?;
    let freed = device.counters()?.nr_tables_freed - counters.nr_tables_freed;
    ensure!(freed == 1, "{freed} tables, when nobody has the lock");
    Ok((counters.nr_tables_busy, counters.nr_tables_freed))
}

/// mremap and fork move and copy PTEs with the `mmap_lock` held for writing: no table goes
/// meanwhile. It goes next time.
pub fn tables_of_a_process_that_maps_stay(_: &Options) -> Result<()> {
    let (busy, freed) = unmap_while_locked(0)?;
    ensure!((busy, freed) == (1, 0), "{busy} stay, {freed} are freed");
    Ok(())
}

pub fn the_lock_is_what_keeps_them(_: &Options) -> Result<()> {
    let (busy, freed) = unmap_while_locked(abi::UNMAP_BREAK_TABLES_LOCK)?;
    ensure!((busy, freed) == (0, 1), "{busy} stay, {freed} are freed");
    Ok(())
}

/// What PRECISE flushes on the CPU that unmaps a page and its table: all, how often, and pages.
fn flushed_for_a_table(flags: u32) -> Result<(u64, u64)> {
    const NR_ROUNDS: u64 = 5;
    let device = device(0)?;
    needs_faults(&device)?;
    let Some(_) = TlbEvents::read()? else {
        return skip("the kernel has no CONFIG_DEBUG_TLBFLUSH").map(|()| (0, 0));
    };
    cpu::pin_worker(0)?;
    let mapping = map(&device, NR_ROUNDS)?;
    let mut found = Vec::new();
    for nr in 0..NR_ROUNDS {
        let page = nr * PAGES_PER_TABLE;
        touch(&mapping, [page]);
        let before = TlbEvents::read()?.context("no counts")?;
        device.unmap(&Selection::run(page, 1), strategy::PRECISE, flags)?;
        let events = TlbEvents::read()?.context("no counts")?.since(before);
        found.push((events.local_flush_all, events.local_flush_one));
    }
    println!("# all, pages: {found:?}");
    let freed = device.counters()?.nr_tables_freed;
    ensure!(freed == NR_ROUNDS, "{freed} tables were freed");
    Ok(most_common(found))
}

/// CPUs may keep what leads to a table for any address of its 2 MiB.
pub fn all_that_a_table_maps_is_flushed(_: &Options) -> Result<()> {
    let (all, pages) = flushed_for_a_table(0)?;
    ensure!((all, pages) == (1, 0), "all: {all} times, {pages} pages");
    Ok(())
}

pub fn a_flush_of_one_page_for_a_table_shows(_: &Options) -> Result<()> {
    let (all, pages) = flushed_for_a_table(abi::UNMAP_BREAK_TABLES_RANGE)?;
    ensure!((all, pages) == (0, 1), "all: {all} times, {pages} pages");
    Ok(())
}

const OLD: u64 = 0x01d;
const NEW: u64 = 0x2e3;
/// Reads of the page that are enough to see which one it is.
const ENOUGH: u64 = 1000;

/// A page that one thread reads all the time, while another one replaces it.
struct Reading<'m> {
    word: &'m AtomicU64,
    is_ready: AtomicBool,
    is_replaced: AtomicBool,
    is_unmapped: AtomicBool,
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

    /// Replaces the page when its table is taken out, lets it be read, and only then flushed.
    /// If the reader had to fault meanwhile, it waits for the unmap, and the replacement for the reader:
    /// that is not in time.
    fn replace(&self, mapping: &Mapping, page: u64) -> Result<Seen> {
        cpu::pin_worker(1)?;
        self.is_ready.store(true, SeqCst);
        while !held_moment::is_held()? && !self.is_unmapped.load(SeqCst) {
            thread::yield_now();
        }
        let known_before = self.witness.is_kept()?;
        mapping.bury_part(page, PAGES_PER_TABLE)?;
        self.word.store(NEW, SeqCst);
        self.is_replaced.store(true, SeqCst);
        self.await_reads(ENOUGH);
        let known_after = self.witness.is_kept()?;
        let in_time = held_moment::is_held()?;
        held_moment::go_on()?;
        Ok(Seen {
            nr_old: 0,
            in_time,
            known_before,
            known_after,
        })
    }
}

/// What a CPU sees that uses a page all the time, while its table waits for the flush and another
/// thread replaces the mapping.
#[derive(Debug)]
struct Seen {
    /// How often the old page, after the replacement was complete.
    nr_old: u64,
    /// That came before the flush of the table.
    in_time: bool,
    /// There was no flush of everything on that CPU: before the replacement began, ...
    known_before: bool,
    /// ... and until it was complete.
    known_after: bool,
}

fn seen_after_replacement(flags: u32) -> Result<Seen> {
    let device = device(0)?;
    // Between two others, so that no table above goes with it.
    let mapping = map(&device, 3)?;
    let page = PAGES_PER_TABLE;
    touch(&mapping, [0, 2 * PAGES_PER_TABLE]);
    let reading = Reading {
        word: mapping.word(page, 0),
        is_ready: AtomicBool::new(false),
        is_replaced: AtomicBool::new(false),
        is_unmapped: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        nr_reads: AtomicU64::new(0),
        nr_old: AtomicU64::new(0),
        witness: Witness::new()?,
    };
    reading.word.store(OLD, SeqCst);
    let seen = thread::scope(|scope| -> Result<Seen> {
        cpu::pin_worker(2)?;
        let reader = scope.spawn(|| reading.read());
        let replacer = scope.spawn(|| reading.replace(&mapping, page));
        while !reading.is_ready.load(SeqCst) {
            thread::yield_now();
        }
        reading.await_reads(ENOUGH);
        reading.witness.expect()?;
        held_moment::hold_own_tables()?;
        let unmapped = device.unmap(&Selection::run(page, 1), strategy::BROADCAST, flags);
        reading.is_unmapped.store(true, SeqCst);
        let replaced = replacer.join().expect("it does not panic");
        reading.is_over.store(true, SeqCst);
        reader.join().expect("it does not panic")?;
        unmapped?;
        replaced
    })?;
    let freed = device.counters()?.nr_tables_freed;
    ensure!(freed == 1, "{freed} tables were freed");
    let nr_old = reading.nr_old.into_inner();
    Ok(Seen { nr_old, ..seen })
}

fn needs_three_cpus() -> Result<()> {
    if cpu::nr_cpus() < 3 {
        return skip("3 CPUs are needed");
    }
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    Ok(())
}

/// The replacement finds no table, and nothing to flush, and flushes all the same.
pub fn no_one_returns_before_the_flush(options: &Options) -> Result<()> {
    needs_three_cpus()?;
    caught_every_time(3 * options.effort, || {
        let seen = seen_after_replacement(0)?;
        let is_fresh = seen.nr_old == 0;
        // Or the old page would have been gone anyway.
        let counts = seen.in_time && seen.known_before;
        let found = || format!("reads of a page that is not mapped there: {seen:?}");
        Ok(Attempt::judge(
            is_fresh && counts,
            !is_fresh || counts,
            found,
        ))
    })
}

pub fn a_flush_that_others_do_not_know_of_shows(_: &Options) -> Result<()> {
    const NR_RUNS: u32 = 20;
    needs_three_cpus()?;
    caught_every_time(NR_RUNS, || {
        let seen = seen_after_replacement(abi::UNMAP_BREAK_TABLES_PENDING)?;
        let (caught, counts) = (seen.nr_old > 0, seen.in_time && seen.known_after);
        Ok(Attempt::judge(caught, counts, || format!("{seen:?}")))
    })
}

/// Whether a page is still mapped after another one of its table was unmapped.
fn is_kept(device: &Device, mapping: &Mapping, flags: u32) -> Result<bool> {
    touch(mapping, [0, 1]);
    device.unmap(&Selection::run(0, 1), strategy::BROADCAST, flags)?;
    let accessed = device.accessed(1, 1, abi::ACCESSED_READ)?;
    Ok(accessed.mapped & 1 != 0)
}

pub fn a_table_that_is_not_looked_at_is_lost(_: &Options) -> Result<()> {
    // Of pages without references: nobody counts what is lost.
    let device = device(abi::SETUP_PFNMAP)?;
    needs_faults(&device)?;
    let mapping = map(&device, 1)?;
    ensure!(is_kept(&device, &mapping, 0)?, "lost, by the rules");
    let broken = abi::UNMAP_BREAK_TABLES_RECHECK;
    ensure!(
        !is_kept(&device, &mapping, broken)?,
        "kept, with the rule broken"
    );
    Ok(())
}
