// SPDX-License-Identifier: GPL-2.0

//! What a secondary MMU is told in the test kernel, and when: `mm/rust_tlb/watch.c`.

use std::fs;

use anyhow::{Context, Result};

use crate::arena::Span;

const PATH: &str = "/sys/kernel/debug/rust_tlb_watch";

/// Brackets of the MMU notifiers around changes to the page tables of this process, watched as long
/// as this exists. There is one at a time.
pub struct BracketWatch(());

/// What was seen of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub nr_ended: u64,
    /// Of those, how many without a flush since they began.
    pub nr_unflushed: u64,
}

impl BracketWatch {
    /// Watches brackets that begin where `span` does.
    pub fn of(span: &Span<'_>) -> Result<Self> {
        write(span.address().addr())?;
        Ok(Self(()))
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Result<Seen> {
        let text = fs::read_to_string(PATH).context(PATH)?;
        let (nr_ended, nr_unflushed) = text.trim().split_once(' ').context("not two numbers")?;
        Ok(Seen {
            nr_ended: nr_ended.parse()?,
            nr_unflushed: nr_unflushed.parse()?,
        })
    }
}

impl Drop for BracketWatch {
    fn drop(&mut self) {
        if let Err(error) = write(0) {
            println!("# brackets are watched still: {error:#}");
        }
    }
}

fn write(address: usize) -> Result<()> {
    fs::write(PATH, format!("{address:x}")).context(PATH)
}
