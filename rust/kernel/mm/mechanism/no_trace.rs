// SPDX-License-Identifier: GPL-2.0

//! What stands in for the shims of the trace events where they are not compiled in.

use crate::mm::{
    range::PageRange,
    Mm, //
};

pub(in crate::mm) const fn is_traced() -> bool {
    false
}

pub(in crate::mm) fn trace_batch_open(_batch: usize, _policy: i32, _nr_pages: usize) {}

pub(in crate::mm) fn trace_range_add(_mm: &Mm, _range: PageRange, _nr_ptes: usize, _why: i32) {}

pub(in crate::mm) fn trace_flush_begin(
    _batch: usize,
    _policy: i32,
    _nr_ptes: usize,
    _nr_mms: usize,
    _why: i32,
) {
}

pub(in crate::mm) fn trace_flush_end(_batch: usize, _nr_calls: usize) {}

pub(in crate::mm) fn trace_page_release(_batch: usize, _pgoff: usize) {}

pub(in crate::mm) fn trace_pending_hit(_pgoff: usize, _owner: i32) {}

pub(in crate::mm) fn trace_move(
    _mm: &Mm,
    _old: PageRange,
    _new: usize,
    _nr_ptes: usize,
    _nr_flushed: usize,
) {
}
