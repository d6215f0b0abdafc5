// SPDX-License-Identifier: GPL-2.0

//! As `rust/kernel/mm/tlb/trace.rs`, with nobody watching.

use super::policy::{Flush, Report, Why};

pub(super) fn batch_open<F: Flush + ?Sized>(_policy: &F, _nr_pages: usize) {}

pub(super) fn flush<F: Flush + ?Sized>(policy: &mut F, _why: Why) -> Report {
    policy.flush()
}

pub(super) fn watched_releases<F: ?Sized>(_policy: &F) -> Option<usize> {
    None
}

pub(super) fn page_release(_batch: usize, _pgoff: usize) {}
