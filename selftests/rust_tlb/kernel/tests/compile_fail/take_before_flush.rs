// SPDX-License-Identifier: GPL-2.0
// Fails with: E0599

//! A page cannot be taken out of a batch that is not flushed.

use kernel::mm::tlb::{batch::Batch, policy::Flush};

fn release<F: Flush>(mut batch: Batch<u32, F>) -> Vec<u32> {
    batch.drain().map(|(_, page)| page).collect()
}

fn main() {}
