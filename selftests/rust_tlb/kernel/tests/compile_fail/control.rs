// SPDX-License-Identifier: GPL-2.0

//! The order that the types allow.

use kernel::mm::{
    stale::Stale,
    tlb::{
        batch::Batch,
        moves::{Move, Moved},
        policy::Flush,
        two_phase::{Quiesced, WriteProtected},
    },
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

/// A move may be flushed by hand, or by being dropped.
fn end<M: Move, F: Flush>(moved: Moved<'_, M, F>, other: Moved<'_, M, F>) -> usize {
    drop(other);
    moved.flush().1.nr_calls
}

fn force<M: Move>(mapping: &M) -> bool {
    let table = mapping.lock(0).unwrap();
    M::pte(&table, 0).is_some_and(|pte| mapping.should_force_flush(pte))
}

fn main() {}
