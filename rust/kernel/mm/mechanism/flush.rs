// SPDX-License-Identifier: GPL-2.0

//! Shims for flushes, and for what is owed one; contracts in
//! [`mm/rust_tlb/defer.c`](srctree/mm/rust_tlb/defer.c). Rule H12 is one of
//! [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).

use crate::{
    bindings,
    mm::{
        range::PageRange,
        run::Run,
        Mm, //
    }, //
};

/// What CPUs are owed a flush of. Zeroed, it is nothing.
pub(in crate::mm) type RawBatch = bindings::arch_tlbflush_unmap_batch;

/// Returns the most pages that the machine flushes one by one.
#[inline(never)]
pub(in crate::mm) fn ceiling_pages() -> usize {
    // SAFETY: Reads a variable, in any context.
    unsafe { bindings::tlb_batch_ceiling() }
}

/// Owes `mm` a flush of `range`.
#[inline(never)]
pub(in crate::mm) fn add_pending(batch: &mut RawBatch, mm: &Mm, range: PageRange) {
    let (start, end) = (range.start(), range.end());
    // SAFETY:
    // - `batch` is initialised, and exclusively borrowed.
    // - `mm` is a reference, so it is not freed during the call.
    unsafe { bindings::tlb_batch_add_pending(batch, mm.as_raw(), start, end) }
}

/// As [`add_pending`], of a page table that was taken out and mapped `range`.
#[inline(never)]
pub(in crate::mm) fn add_pending_table(batch: &mut RawBatch, mm: &Mm, range: PageRange) {
    let (start, end) = (range.start(), range.end());
    // SAFETY: As for `add_pending`.
    unsafe { bindings::tlb_batch_add_pending_table(batch, mm.as_raw(), start, end) }
}

/// Tells whoever else changes page tables of `mm` that a flush is owed.
#[inline(never)]
pub(in crate::mm) fn note_batched(mm: &Mm) {
    // SAFETY: `mm` is a reference. What is noted without need costs one flush, and no more.
    unsafe { bindings::tlb_batch_note_batched(mm.as_raw()) }
}

/// Owes `mm` a flush of `runs`.
#[inline(never)]
pub(in crate::mm) fn publish(batch: &mut RawBatch, mm: &Mm, runs: &[Run]) {
    let (words, nr_runs) = (runs.as_ptr().cast::<u64>(), runs.len());
    // SAFETY:
    // - `batch` and `mm` as in `add_pending`.
    // - A `Run` is a word, and so many of them are borrowed.
    unsafe { bindings::tlb_batch_publish(batch, mm.as_raw(), words, nr_runs) }
}

/// Flushes what `batch` is owed.
#[inline(never)]
pub(in crate::mm) fn flush_pending(batch: &mut RawBatch) {
    // SAFETY: `batch` is initialised and exclusively borrowed. In another context than
    // `Flush::flush` documents, it could wait for ever, and lockdep reports; no memory is at risk.
    unsafe { bindings::tlb_batch_flush_pending(batch) }
}

/// Flushes `range` of `mm`, or all of it.
#[inline(never)]
pub(in crate::mm) fn flush_mm(mm: &Mm, range: Option<PageRange>) {
    let (start, end) = range.map_or((0, usize::MAX), |r| (r.start(), r.end()));
    // SAFETY: `mm` is a reference, so it is not freed; without users, its generation goes up and
    // nobody is interrupted (H12). As to the context, see `flush_pending`.
    unsafe { bindings::tlb_batch_flush_mm_range(mm.as_raw(), start, end) }
}
