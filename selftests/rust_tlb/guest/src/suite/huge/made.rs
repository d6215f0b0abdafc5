// SPDX-License-Identifier: GPL-2.0

//! When there is a leaf, and when there is none.

use anyhow::{ensure, Result};
use rustix::io::Errno;
use rustix::pipe::pipe;
use std::os::fd::AsRawFd;
use std::thread;

use super::{all, device, expect_filled, expect_leaves, fill, mapped, whole};
use crate::abi::{self, strategy};
use crate::device::Device;
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};
use crate::page_tables::{vm_pte_kb, TABLE_KB};
use crate::selection::Selection;

/// One fault for all pages of each, and no page table.
pub fn a_fault_maps_all_of_it(_: &Options) -> Result<()> {
    const NR: u64 = 8;
    let (device, mapping) = mapped(NR)?;
    let before = vm_pte_kb()?;
    fill(&mapping, 0..NR * PAGES_PER_TABLE);
    expect_filled(&mapping, 0..NR * PAGES_PER_TABLE)?;
    // Tables above there may be, one or two.
    let after = vm_pte_kb()?;
    ensure!(
        after < before + NR / 2 * TABLE_KB,
        "{before} kB of tables, then {after}"
    );
    expect_leaves(&device, NR)?;
    let counters = device.counters()?;
    let found = (counters.nr_faults, counters.nr_pages_held);
    ensure!(found == (0, NR * PAGES_PER_TABLE), "{counters:?}");
    Ok(())
}

pub fn what_is_asked_for_wrongly_is_refused(_: &Options) -> Result<()> {
    let opened = Device::open()?;
    for flags in [
        abi::SETUP_HUGE,
        abi::SETUP_HUGE | abi::SETUP_PFNMAP | abi::SETUP_NOTIFY,
    ] {
        let answer = opened.setup(flags);
        ensure!(answer == Err(Errno::INVAL), "flags {flags:#x}: {answer:?}");
    }
    let (device, mapping) = mapped(1)?;
    fill(&mapping, [0]);
    let answer = device.unmap(&all(), strategy::BROADCAST, abi::UNMAP_BREAK_LEAVES);
    ensure!(answer == Err(Errno::INVAL), "{answer:?}");
    expect_filled(&mapping, [0])
}

/// A mapping that ends within, one at an offset that is not aligned as its address is, and one where
/// there is a page already.
pub fn where_it_does_not_fit_pages_are_mapped(_: &Options) -> Result<()> {
    let short = device(0)?;
    let mapping = Mapping::of_tables(&short, PAGES_PER_TABLE - 1)?;
    fill(&mapping, 0..9);
    expect_filled(&mapping, 0..9)?;
    expect_leaves(&short, 0)?;
    ensure!(short.counters()?.nr_pages_held == 9, "more than are used");

    let askew = device(0)?;
    let mut mapping = Mapping::new(&askew, 1, 2 * PAGES_PER_TABLE)?;
    mapping.relocate_aligned(PAGES_PER_TABLE)?;
    fill(&mapping, 0..9);
    expect_filled(&mapping, 0..9)?;
    expect_leaves(&askew, 0)?;

    let taken = device(0)?;
    taken.populate(7, 1)?;
    let mapping = Mapping::of_tables(&taken, PAGES_PER_TABLE)?;
    fill(&mapping, 0..9);
    expect_filled(&mapping, 0..9)?;
    expect_leaves(&taken, 0)
}

/// The first page behind the mapping can be read, if a system call does not fault there.
fn is_mapped_behind(mapping: &Mapping) -> Result<bool> {
    let behind = mapping
        .address()
        .wrapping_byte_add(mapping.nr_pages() as usize * PAGE_SIZE);
    let (_from, to) = pipe()?;
    // SAFETY: The call only reads there, if anything is there.
    let written = unsafe { libc::write(to.as_raw_fd(), behind, 8) };
    if written == 8 {
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    ensure!(error.raw_os_error() == Some(libc::EFAULT), "{error}");
    Ok(false)
}

/// A mapping that ends before the 2 MiB do must not show the rest of them.
pub fn nothing_behind_the_mapping_is_mapped(_: &Options) -> Result<()> {
    for nr_pages in [PAGES_PER_TABLE - 1, 2 * PAGES_PER_TABLE - 1] {
        let device = device(0)?;
        let mapping = Mapping::of_tables(&device, nr_pages)?;
        fill(&mapping, 0..nr_pages);
        expect_filled(&mapping, 0..nr_pages)?;
        expect_leaves(&device, nr_pages / PAGES_PER_TABLE)?;
        ensure!(!is_mapped_behind(&mapping)?, "of {nr_pages} pages");
    }
    Ok(())
}

/// Pages that are mapped one by one have a table. When that is freed there is room for a leaf.
pub fn a_leaf_comes_back_when_its_table_is_freed(_: &Options) -> Result<()> {
    let device = device(abi::SETUP_FREE_TABLES)?;
    let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
    for nr in 1..=3 {
        fill(&mapping, whole());
        expect_leaves(&device, nr)?;
        device.unmap(&Selection::run(5, 1), strategy::BROADCAST, 0)?;
        expect_filled(&mapping, whole().filter(|page| *page != 5))?;
        expect_leaves(&device, nr)?;
        device.unmap(&all(), strategy::PRECISE, abi::UNMAP_FREE)?;
        let counters = device.counters()?;
        ensure!(counters.nr_tables_freed == nr, "{counters:?}");
    }
    Ok(())
}

/// Somebody else changes the mappings of the process meanwhile, and has the `mmap_lock`.
pub fn a_fault_needs_no_more_than_the_lock_of_the_vma(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    held_moment::warm_up()?;
    let (device, mapping) = mapped(1)?;
    thread::scope(|scope| {
        let holder = scope.spawn(held_moment::hold_own_mappings);
        while !held_moment::is_held()? && !holder.is_finished() {
            thread::yield_now();
        }
        fill(&mapping, [3]);
        let in_time = held_moment::is_held()?;
        held_moment::go_on()?;
        holder.join().expect("it does not panic")?;
        ensure!(in_time, "the fault waited");
        Ok(())
    })?;
    expect_leaves(&device, 1)
}
