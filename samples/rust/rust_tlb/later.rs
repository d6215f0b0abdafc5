// SPDX-License-Identifier: GPL-2.0

//! Page tables that are freed later: by a worker, a round for those of all processes, or by memory
//! pressure. Between the unmap and then, a mark for each page table's worth of the file is all that
//! is kept: no process is pinned, and when the last mapping is gone, so is what was to be done.

use crate::state::State;
use core::ops::DerefMut;
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::{
        rmap::Vma,
        tlb::{
            tables::Counts,
            walk::FileLocked,
            Why, //
        },
        window::PTRS_PER_PTE, //
    },
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How often the worker tries the tables of a process that is busy, and how long it waits in between.
const MAX_TRIES: usize = 3;
const RETRY_MS: i64 = 10;
/// Marks that one flush is for.
const MAX_MARKS: usize = 512;
/// The same for memory pressure, which allocates nothing.
const MAX_SCANNED: usize = 32;

/// What the worker does: frees all page tables that are marked. Those of a process that is busy are
/// tried again, and then left.
pub(crate) fn free_all<L>(lock: impl Fn() -> L, mappings: &impl FileLocked<Mapping = Vma>)
where
    L: DerefMut<Target = State>,
{
    for nr_tries in 1..=MAX_TRIES {
        if !try_all(&lock, mappings, nr_tries < MAX_TRIES) {
            return;
        }
        fsleep(Delta::from_millis(RETRY_MS));
    }
}

/// Frees the page tables that are marked. If they are tried again, those of processes that were busy
/// are marked anew. Returns whether there are such.
fn try_all<L>(
    lock: &impl Fn() -> L,
    mappings: &impl FileLocked<Mapping = Vma>,
    is_tried_again: bool,
) -> bool
where
    L: DerefMut<Target = State>,
{
    let Ok(mut pgoffs) = KVVec::with_capacity(2 * MAX_MARKS, GFP_KERNEL_ACCOUNT) else {
        return false;
    };
    let (mut from, mut is_busy) = (0, false);
    loop {
        let mut state = lock();
        pgoffs.clear();
        while pgoffs.len() < 2 * MAX_MARKS {
            let Some(first) = state.marks.take(from) else {
                break;
            };
            from = first + PTRS_PER_PTE;
            for pgoff in ends(first) {
                // There is room.
                let _ = pgoffs.push_within_capacity(pgoff);
            }
        }
        if pgoffs.is_empty() {
            return is_busy;
        }
        let counts = free(&mut state, mappings, &pgoffs, Why::Old);
        if counts.nr_busy > 0 && is_tried_again {
            is_busy = true;
            pgoffs.iter().for_each(|pgoff| _ = state.marks.set(*pgoff));
        }
    }
}

/// What memory pressure does, with one flush: nothing is allocated, and `mappings` are locked. Those of
/// a process that is busy are left for the next time. Returns how many tables were freed.
pub(crate) fn free_some(state: &mut State, mappings: &impl FileLocked<Mapping = Vma>) -> usize {
    let mut pgoffs = [0; 2 * MAX_SCANNED];
    let (mut nr, mut from) = (0, 0);
    for both in pgoffs.chunks_exact_mut(2) {
        let Some(first) = state.marks.take(from) else {
            break;
        };
        from = first + PTRS_PER_PTE;
        both.copy_from_slice(&ends(first));
        nr += both.len();
    }
    let pgoffs = pgoffs.get(..nr).unwrap_or(&[]);
    let counts = free(state, mappings, pgoffs, Why::Pressure);
    if counts.nr_busy > 0 {
        pgoffs.iter().for_each(|pgoff| _ = state.marks.set(*pgoff));
    }
    counts.nr_taken
}

/// The first page that a mark is for, and the last: each mapping has one or two tables for them.
fn ends(first: usize) -> [usize; 2] {
    [first, first + (PTRS_PER_PTE - 1)]
}

/// Frees the tables of `pgoffs` that are empty, with one flush.
fn free(
    state: &mut State,
    mappings: &impl FileLocked<Mapping = Vma>,
    pgoffs: &[usize],
    why: Why,
) -> Counts {
    let Some(batch) = state.spare.take() else {
        return Counts::default();
    };
    let is_unused = |first, last| !state.slots.is_used(first, last);
    let taken = batch.take_tables_of(mappings, pgoffs, is_unused);
    let counts = taken.counts();
    state.count_tables(counts);
    let flushed = taken.flush(why);
    state.counters.nr_flush_calls += flushed.report().nr_calls as u64;
    state.spare = Some(flushed.into_empty());
    counts
}
