// SPDX-License-Identifier: GPL-2.0

//! Moments that the test kernel holds open until it is told to go on: `mm/rust_tlb/hold.c`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::mapping::Mapping;

const PATH: &str = "/sys/kernel/debug/rust_tlb_hold";

/// Has in memory what [`is_held`], [`go_on`] and a look at the clock need: to fault that in from a file,
/// or from the kernel, takes the lock on the mappings, which whoever is held may have.
pub fn warm_up() -> Result<()> {
    let _ = Instant::now();
    go_on()?;
    is_held().map(|_| ())
}

/// Whether this kernel can hold one.
pub fn can_be_held() -> bool {
    Path::new(PATH).exists()
}

fn order(what: &str) -> Result<()> {
    fs::write(PATH, what).with_context(|| format!("{what:?} to {PATH}"))
}

/// Holds the calling thread's next fault, with a page table made sure of and not locked yet.
pub fn hold_own_fault() -> Result<()> {
    order(&format!(
        "fault {}",
        rustix::thread::gettid().as_raw_nonzero()
    ))
}

/// Holds the calling thread's next flush that page tables go with, after they were taken out.
pub fn hold_own_tables() -> Result<()> {
    order(&format!(
        "tables {}",
        rustix::thread::gettid().as_raw_nonzero()
    ))
}

/// Holds the calling thread's next mremap, where it has looked a new page table up and not locked it
/// yet, or where a leaf is at neither place.
pub fn hold_own_move() -> Result<()> {
    order(&format!(
        "move {}",
        rustix::thread::gettid().as_raw_nonzero()
    ))
}

/// Breaks a rule: walks of the calling thread pass over leaves, until [`go_on`].
pub fn pass_leaves() -> Result<()> {
    order(&format!(
        "leaf {}",
        rustix::thread::gettid().as_raw_nonzero()
    ))
}

/// Holds the lock on the mappings of the calling process, as whoever changes them does, until
/// [`go_on`].
pub fn hold_own_mappings() -> Result<()> {
    order("mmap")
}

/// Holds the lock under which the page table of `mapping` can be freed, until [`go_on`].
pub fn hold_table(mapping: &Mapping) -> Result<()> {
    order(&format!("pmd {:x}", mapping.address().addr()))
}

/// Holds the lock on the VMAs of the file that `mapping` shows, until [`go_on`].
pub fn hold_vmas(mapping: &Mapping) -> Result<()> {
    order(&format!("rmap {:x}", mapping.address().addr()))
}

/// Whether one of them is held now.
pub fn is_held() -> Result<bool> {
    Ok(fs::read_to_string(PATH)?.trim() == "1")
}

/// Waits until one of them is held, however long: a test that takes no step ends.
pub fn await_held() -> Result<()> {
    while !is_held()? {
        thread::yield_now();
    }
    Ok(())
}

/// Lets whoever is held go on.
pub fn go_on() -> Result<()> {
    order("go")
}
