// SPDX-License-Identifier: GPL-2.0

//! What racers have the kernel do with the page tables of a mapping of their own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Result};
use rustix::mm::MprotectFlags;

use super::{Ground, NR_PAGES};
use crate::abi::POISON;
use crate::child::Child;
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::own_memory;
use crate::watcher::{Access, Watcher};

/// A turn with the page tables; what the racer sees of the pages it judges as the oracle's workers do.
pub type Turn = fn(&Ground, &mut Mapping, &mut Watcher<'_>) -> Result<()>;

/// Everything there is.
pub const ALL_TURNS: [Turn; 7] = [
    turn_munmap,
    turn_mprotect,
    turn_dontneed,
    turn_mremap,
    turn_fork,
    turn_readv,
    turn_proc,
];

pub fn turn_munmap(
    ground: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    *mapping = ground.map()?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub fn turn_mprotect(_: &Ground, mapping: &mut Mapping, watcher: &mut Watcher<'_>) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    mapping.protect(MprotectFlags::READ)?;
    watcher.pass(mapping, Access::Read);
    mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub fn turn_dontneed(_: &Ground, mapping: &mut Mapping, watcher: &mut Watcher<'_>) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    mapping.dont_need()?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub fn turn_mremap(_: &Ground, mapping: &mut Mapping, watcher: &mut Watcher<'_>) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    mapping.relocate()?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub fn turn_fork(_: &Ground, mapping: &mut Mapping, watcher: &mut Watcher<'_>) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    let child = Child::fork_with_code(|| {
        watcher.pass(mapping, Access::Read);
        0
    })?;
    watcher.pass(mapping, Access::Read);
    child.join()
}

/// Has the kernel walk the page tables, without a lock of theirs at first.
pub fn turn_proc(_: &Ground, mapping: &mut Mapping, watcher: &mut Watcher<'_>) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    let mut entries = vec![0; NR_PAGES as usize * size_of::<u64>()];
    let page = mapping.address().addr() / PAGE_SIZE;
    let pagemap = File::open("/proc/self/pagemap")?;
    pagemap.read_exact_at(&mut entries, (page * size_of::<u64>()) as u64)?;
    fs::read("/proc/self/smaps")?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

/// Reads through get_user_pages(): a page that it has a reference to must not be poisoned.
pub fn turn_readv(_: &Ground, mapping: &mut Mapping, watcher: &mut Watcher<'_>) -> Result<()> {
    let copy = own_memory::read(mapping)?;
    ensure!(
        !copy.contains(&POISON),
        "a poisoned page was read by process_vm_readv()"
    );
    watcher.pass(mapping, Access::Read);
    Ok(())
}
