// SPDX-License-Identifier: GPL-2.0
// Fails with: E0505

//! A batch cannot be flushed while pages are on their way into it.

use kernel::mm::tlb::{batch::Batch, policy::Flush};

fn flush_early<F: Flush>(mut batch: Batch<u32, F>) {
    let mut staging = batch.stage();
    batch.flush();
    let _ = staging.push(7, 42);
}

fn main() {}
