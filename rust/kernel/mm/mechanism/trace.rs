// SPDX-License-Identifier: GPL-2.0

//! Shims for the trace events of [`include/trace/events/rust_tlb.h`].
//!
//! [`include/trace/events/rust_tlb.h`]: srctree/include/trace/events/rust_tlb.h

use crate::{
    bindings,
    mm::{
        range::PageRange,
        Mm, //
    },
    prelude::*,
    tracepoint::declare_trace, //
};

declare_trace! {
    /// # Safety
    ///
    /// Always safe to call.
    unsafe fn rust_tlb_batch_open(batch: c_ulong, policy: c_int, nr_pages: c_ulong);
    /// # Safety
    ///
    /// `mm` must be valid.
    unsafe fn rust_tlb_range_add(
        mm: *const bindings::mm_struct,
        start: c_ulong,
        end: c_ulong,
        nr_ptes: c_ulong,
        why: c_int,
    );
    /// # Safety
    ///
    /// Always safe to call.
    unsafe fn rust_tlb_flush_begin(
        batch: c_ulong,
        policy: c_int,
        nr_ptes: c_ulong,
        nr_mms: c_ulong,
        why: c_int,
    );
    /// # Safety
    ///
    /// Always safe to call.
    unsafe fn rust_tlb_flush_end(batch: c_ulong, nr_calls: c_ulong);
    /// # Safety
    ///
    /// Always safe to call.
    unsafe fn rust_tlb_page_release(batch: c_ulong, pgoff: c_ulong);
    /// # Safety
    ///
    /// Always safe to call.
    unsafe fn rust_tlb_pending_hit(pgoff: c_ulong, owner: c_int);
    /// # Safety
    ///
    /// `mm` must be valid.
    unsafe fn rust_tlb_move(
        mm: *const bindings::mm_struct,
        old: c_ulong,
        new: c_ulong,
        nr_ptes: c_ulong,
        nr_flushed: c_ulong,
    );
}

/// Returns whether any event of a batch is traced.
#[inline(never)]
pub(in crate::mm) fn is_traced() -> bool {
    // SAFETY: Reads a counter, in any context.
    unsafe { bindings::tlb_batch_is_traced() }
}

#[inline(never)]
pub(in crate::mm) fn trace_batch_open(batch: usize, policy: i32, nr_pages: usize) {
    // SAFETY: Always safe to call.
    unsafe { rust_tlb_batch_open(batch, policy, nr_pages) }
}

#[inline(never)]
pub(in crate::mm) fn trace_range_add(mm: &Mm, range: PageRange, nr_ptes: usize, why: i32) {
    // SAFETY: `mm` is a reference.
    unsafe { rust_tlb_range_add(mm.as_raw(), range.start(), range.end(), nr_ptes, why) }
}

#[inline(never)]
pub(in crate::mm) fn trace_flush_begin(
    batch: usize,
    policy: i32,
    nr_ptes: usize,
    nr_mms: usize,
    why: i32,
) {
    // SAFETY: Always safe to call.
    unsafe { rust_tlb_flush_begin(batch, policy, nr_ptes, nr_mms, why) }
}

#[inline(never)]
pub(in crate::mm) fn trace_flush_end(batch: usize, nr_calls: usize) {
    // SAFETY: Always safe to call.
    unsafe { rust_tlb_flush_end(batch, nr_calls) }
}

#[inline(never)]
pub(in crate::mm) fn trace_page_release(batch: usize, pgoff: usize) {
    // SAFETY: Always safe to call.
    unsafe { rust_tlb_page_release(batch, pgoff) }
}

#[inline(never)]
pub(in crate::mm) fn trace_pending_hit(pgoff: usize, owner: i32) {
    // SAFETY: Always safe to call.
    unsafe { rust_tlb_pending_hit(pgoff, owner) }
}

#[inline(never)]
pub(in crate::mm) fn trace_move(
    mm: &Mm,
    old: PageRange,
    new: usize,
    nr_ptes: usize,
    nr_flushed: usize,
) {
    // SAFETY: `mm` is a reference.
    unsafe { rust_tlb_move(mm.as_raw(), old.start(), new, nr_ptes, nr_flushed) }
}
