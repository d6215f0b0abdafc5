// SPDX-License-Identifier: GPL-2.0

//! The order that the types allow.

use kernel::mm::tlb::{
    batch::{Batch, Stale},
    policy::Flush,
    two_phase::{Quiesced, WriteProtected},
};

fn release<P: Stale, F: Flush>(mut batch: Batch<P, F>, page: P) -> Vec<P> {
    assert!(batch.stage().push(7, page).is_ok());
    let mut flushed = batch.flush();
    flushed.drain().map(|(_, page)| page).collect()
}

fn second_phase<P: Stale, F: Flush>(first: WriteProtected<'_, P, F>) -> Quiesced<'_, P, F> {
    first.flush()
}

/// Nothing in a batch is bound to a thread.
fn elsewhere<P: Stale + Send, F: Flush + Send>(batch: Batch<P, F>) -> impl Send {
    batch
}

fn main() {}
