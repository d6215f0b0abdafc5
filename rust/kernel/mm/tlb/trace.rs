// SPDX-License-Identifier: GPL-2.0

//! Trace events, as the pure files and drivers see them: `rust_tlb:*` in
//! [`include/trace/events/rust_tlb.h`](srctree/include/trace/events/rust_tlb.h).
//!
//! An event that is off costs a call of a function that does nothing: once per batch, page table or
//! flush, never once per page.

use super::policy::{
    Flush,
    Report,
    Why, //
};
use crate::{
    mm::mechanism,
    task::Pid, //
};

/// By this a batch is known in the trace.
fn id<F: ?Sized>(policy: &F) -> usize {
    core::ptr::from_ref(policy).addr()
}

/// An empty batch, with room for `nr_pages`, is opened.
pub(super) fn batch_open<F: Flush + ?Sized>(policy: &F, nr_pages: usize) {
    if mechanism::is_traced() {
        mechanism::trace_batch_open(id(policy), policy.kind() as i32, nr_pages);
    }
}

/// Flushes, between two events, if there is something to flush.
pub(super) fn flush<F: Flush + ?Sized>(policy: &mut F, why: Why) -> Report {
    if !mechanism::is_traced() {
        return policy.flush();
    }
    let owed = policy.owed();
    if owed.nr_mms == 0 {
        return policy.flush();
    }
    let (id, kind) = (id(policy), policy.kind() as i32);
    mechanism::trace_flush_begin(id, kind, owed.nr_ptes, owed.nr_mms, why as i32);
    let report = policy.flush();
    mechanism::trace_flush_end(id, report.nr_calls);
    report
}

/// Returns by what a batch is known, if someone watches the release of its pages.
pub(super) fn watched_releases<F: ?Sized>(policy: &F) -> Option<usize> {
    mechanism::is_traced().then(|| id(policy))
}

/// A page left `batch`.
pub(super) fn page_release(batch: usize, pgoff: usize) {
    mechanism::trace_page_release(batch, pgoff);
}

/// The current task has to wait for the flush of page `pgoff`, which `owner` unmapped.
pub fn pending_hit(pgoff: usize, owner: Pid) {
    mechanism::trace_pending_hit(pgoff, owner);
}
