// SPDX-License-Identifier: GPL-2.0
// Fails with: E0505

//! A batch cannot be flushed while pages are on their way into it.

use kernel::mm::{
    stale::Stale,
    tlb::{batch::Batch, policy::Flush},
};

fn flush_early<P: Stale, F: Flush>(mut batch: Batch<P, F>, page: P) {
    let mut staging = batch.stage();
    batch.flush();
    let _ = staging.push(7, page);
}

fn main() {}
