// SPDX-License-Identifier: GPL-2.0
// Fails with: E0382

//! A batch is gone when it is flushed.

use kernel::mm::{
    stale::Stale,
    tlb::{batch::Batch, policy::Flush},
};

fn add_late<P: Stale, F: Flush>(mut batch: Batch<P, F>) {
    let _flushed = batch.flush();
    batch.stage();
}

fn main() {}
