// SPDX-License-Identifier: GPL-2.0
// Fails with: E0599

//! A page cannot be taken out of a batch that is not flushed.

use kernel::mm::{
    stale::Stale,
    tlb::{batch::Batch, policy::Flush},
};

fn release<P: Stale, F: Flush>(mut batch: Batch<P, F>) -> Vec<P> {
    batch.drain().map(|(_, page)| page).collect()
}

fn main() {}
