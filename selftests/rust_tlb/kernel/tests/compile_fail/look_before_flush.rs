// SPDX-License-Identifier: GPL-2.0
// Fails with: E0616

//! Neither can it be reached through the storage.

use kernel::mm::{
    stale::Stale,
    tlb::{batch::Batch, policy::Flush},
};

fn steal<P: Stale, F: Flush>(batch: Batch<P, F>) -> usize {
    batch.inner.entries.list.len()
}

fn main() {}
