// SPDX-License-Identifier: GPL-2.0

//! Calls of C that several files make; each other one is where its one caller is.
//!
//! The C functions are built in and not exported. Generic and inlined Rust is compiled into the
//! module that uses it, so whatever calls C is `#[inline(never)]` and not generic: it stays in the
//! kernel crate, and modules link to that (as in `devres.rs`).
//!
//! C header: [`include/linux/tlb_batch.h`](srctree/include/linux/tlb_batch.h), contracts in
//! [`mm/rust_tlb/`](srctree/mm/rust_tlb/): `defer.c` and `page.c`.

use super::{
    range::PageRange,
    Mm, //
};
use crate::{
    bindings,
    page::Page, //
};

#[cfg_attr(not(CONFIG_RUST_TLB_EVENTS), path = "mechanism/no_trace.rs")]
mod trace;

pub(super) use self::trace::*;

/// Lets other tasks run, if they wait. May sleep.
#[inline(never)]
pub(super) fn cond_resched() {
    // SAFETY: Reports a sleep in atomic context, and is otherwise always safe to call.
    unsafe { bindings::tlb_batch_cond_resched() }
}

/// Returns whether the current task is being killed.
#[inline(never)]
pub(super) fn is_being_killed() -> bool {
    // SAFETY: Reads what belongs to the current task.
    unsafe { bindings::tlb_batch_is_being_killed() }
}

/// Returns whether someone else cleared PTEs of `mm` and has yet to flush them (rule H2 of
/// [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst)).
#[inline(never)]
pub(super) fn flush_is_pending(mm: &Mm) -> bool {
    // SAFETY: `mm` is a reference; a counter is read.
    unsafe { bindings::tlb_batch_flush_is_pending(mm.as_raw()) }
}

/// Flushes `range` of `mm`.
#[inline(never)]
pub(super) fn flush_range(mm: &Mm, range: PageRange) {
    // SAFETY: `mm` is a reference. Can be called under page-table locks, with IRQs on.
    unsafe { bindings::tlb_batch_flush_mm_range(mm.as_raw(), range.start(), range.end()) }
}

/// Returns whether nobody else holds a reference to `page`, or to the folio of which it is the first.
#[inline(never)]
pub(super) fn page_exclusive(page: &Page) -> bool {
    // SAFETY: A `Page` is valid and holds a reference.
    unsafe { bindings::tlb_batch_page_exclusive(page.as_ptr()) }
}

/// Returns whether memory of `page`, or of the folio of which it is the first, is known to be bad.
#[inline(never)]
pub(super) fn page_is_bad(page: &Page) -> bool {
    // SAFETY: A `Page` is valid and holds a reference.
    unsafe { bindings::tlb_batch_page_is_bad(page.as_ptr()) }
}
