// SPDX-License-Identifier: GPL-2.0
// Fails with: E0599

//! A page cannot be taken out while its flush is under way.

use kernel::mm::{
    stale::Stale,
    tlb::{batch::Batch, policy::Flush},
};

fn release<P: Stale, F: Flush>(batch: Batch<P, F>) -> Vec<P> {
    batch.send().drain().map(|(_, page)| page).collect()
}

fn main() {}
