// SPDX-License-Identifier: GPL-2.0
// Fails with: E0616

//! Neither can it be reached through the storage.

use kernel::mm::tlb::{batch::Batch, policy::Flush};

fn steal<F: Flush>(batch: Batch<u32, F>) -> usize {
    batch.entries.len()
}

fn main() {}
