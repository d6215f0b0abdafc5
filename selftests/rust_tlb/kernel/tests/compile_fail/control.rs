// SPDX-License-Identifier: GPL-2.0

//! The order that the types allow.

use kernel::mm::tlb::{batch::Batch, policy::Flush};

fn release<F: Flush>(mut batch: Batch<u32, F>) -> Vec<u32> {
    batch.stage().push(7, 42).unwrap();
    let mut flushed = batch.flush();
    flushed.drain().map(|(_, page)| page).collect()
}

/// Nothing in a batch is bound to a thread.
fn elsewhere<F: Flush + Send>(batch: Batch<u32, F>) -> impl Send {
    batch
}

fn main() {}
