// SPDX-License-Identifier: GPL-2.0

//! Faults and populate: what a process sees in the pages, and when.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use crate::child::Child;
use crate::device::Device;
use crate::ktap::Options;
use crate::mapping::{Mapping, READ_WRITE, WORDS_PER_PAGE};

crate::tests! {
    pages_are_zero_at_first,
    populate_counts_what_was_missing,
    populated_pages_are_not_allocated_again,
    a_fork_shares_the_pages,
    every_page_of_the_device_can_be_touched,
    read_only_files_map_read_only,
    protection_can_be_taken_and_given_back,
    a_partial_mapping_starts_at_its_offset,
    data_outlives_the_mapping,
    data_outlives_dontneed,
    data_moves_with_mremap,
    a_mapping_cannot_grow,
    a_mapping_outlives_the_file_descriptor,
}

const NR_PAGES: u64 = 16;

fn fill(mapping: &Mapping, salt: u64) {
    let pages = 0..mapping.nr_pages();
    pages.for_each(|page| mapping.word(page, 7).store(salt + page, Relaxed));
}

fn check(mapping: &Mapping, salt: u64) -> Result<()> {
    for page in 0..mapping.nr_pages() {
        let value = mapping.word(page, 7).load(Relaxed);
        ensure!(value == salt + page, "page {page} holds {value:#x}");
    }
    Ok(())
}

fn pages_are_zero_at_first(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    device.populate(0, NR_PAGES / 2)?;
    for page in 0..NR_PAGES {
        let zero = (0..WORDS_PER_PAGE).all(|word| mapping.word(page, word).load(Relaxed) == 0);
        ensure!(zero, "page {page} is not zero");
    }
    ensure!(device.counters()?.nr_pages_held >= NR_PAGES, "pages held");
    Ok(())
}

fn populate_counts_what_was_missing(_: &Options) -> Result<()> {
    let device = Device::open()?;
    ensure!(device.populate(2, 4)? == 4, "all four");
    ensure!(device.populate(2, 4)? == 0, "none");
    ensure!(device.populate(0, 8)? == 4, "two before, two behind");
    ensure!(device.counters()?.nr_pages_held == 8, "pages held");
    ensure!(
        device.counters()?.nr_faults == 0,
        "populating is not faulting"
    );
    Ok(())
}

fn populated_pages_are_not_allocated_again(_: &Options) -> Result<()> {
    let device = Device::open()?;
    device.populate(0, NR_PAGES)?;
    let held = device.counters()?.nr_pages_held;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping, 1);
    let counters = device.counters()?;
    ensure!(
        counters.nr_pages_held == held,
        "pages held: {} then {held}",
        counters.nr_pages_held
    );
    ensure!(
        counters.nr_faults == NR_PAGES,
        "{} faults",
        counters.nr_faults
    );
    fill(&mapping, 2);
    ensure!(
        device.counters()?.nr_faults == NR_PAGES,
        "faults on mapped pages"
    );
    Ok(())
}

fn a_fork_shares_the_pages(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping, 100);
    let inherited = Child::fork(|| {
        check(&mapping, 100)?;
        fill(&mapping, 200);
        Ok(())
    })?;
    inherited.join()?;
    check(&mapping, 200)?;
    let mapped_again = Child::fork(|| {
        let own = device.map(NR_PAGES)?;
        check(&own, 200)?;
        fill(&own, 300);
        Ok(())
    })?;
    mapped_again.join()?;
    check(&mapping, 300)
}

fn every_page_of_the_device_can_be_touched(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let nr_pages = device.describe()?.nr_pages;
    let mapping = device.map(nr_pages)?;
    fill(&mapping, 5);
    check(&mapping, 5)?;
    let held = device.counters()?.nr_pages_held;
    ensure!(held == nr_pages, "{held} pages held, {nr_pages} touched");
    Ok(())
}

fn read_only_files_map_read_only(_: &Options) -> Result<()> {
    let device = Device::open_with(OFlags::RDONLY)?;
    let refused = Mapping::with(&device, 0, 1, READ_WRITE, MapFlags::SHARED).map(drop);
    ensure!(refused == Err(Errno::ACCESS), "writable: {refused:?}");
    let mapping = Mapping::with(&device, 0, NR_PAGES, ProtFlags::READ, MapFlags::SHARED)?;
    ensure!(
        (0..NR_PAGES).all(|page| mapping.word(page, 7).load(Relaxed) == 0),
        "not zero"
    );
    let refused = mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE);
    ensure!(refused == Err(Errno::ACCESS), "made writable: {refused:?}");
    Ok(())
}

fn protection_can_be_taken_and_given_back(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping, 1);
    mapping.protect(MprotectFlags::READ)?;
    check(&mapping, 1)?;
    let writer = Child::fork(|| {
        fill(&mapping, 2);
        Ok(())
    })?;
    let refused = writer.join();
    ensure!(refused.is_err(), "a read-only page was written");
    mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
    check(&mapping, 1)?;
    fill(&mapping, 3);
    check(&mapping, 3)
}

fn a_partial_mapping_starts_at_its_offset(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let whole = device.map(NR_PAGES)?;
    fill(&whole, 1000);
    let part = Mapping::new(&device, 5, 3)?;
    check(&part, 1005)?;
    part.word(0, 7).store(42, Relaxed);
    ensure!(whole.word(5, 7).load(Relaxed) == 42, "not the same page");
    Ok(())
}

fn data_outlives_the_mapping(_: &Options) -> Result<()> {
    let device = Device::open()?;
    fill(&device.map(NR_PAGES)?, 10);
    check(&device.map(NR_PAGES)?, 10)
}

fn data_outlives_dontneed(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping, 10);
    let faults = device.counters()?.nr_faults;
    mapping.dont_need()?;
    check(&mapping, 10)?;
    let refaults = device.counters()?.nr_faults - faults;
    ensure!(refaults == NR_PAGES, "{refaults} refaults");
    Ok(())
}

fn data_moves_with_mremap(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mut mapping = device.map(NR_PAGES)?;
    fill(&mapping, 10);
    let (before, faults) = (mapping.address(), device.counters()?.nr_faults);
    mapping.relocate()?;
    ensure!(mapping.address() != before, "it has not moved");
    check(&mapping, 10)?;
    fill(&mapping, 20);
    let counters = device.counters()?;
    ensure!(
        counters.nr_faults == faults,
        "the page table entries did not move"
    );
    let moved = (counters.nr_moves, counters.nr_moved_pages);
    ensure!(moved == (1, NR_PAGES), "the driver was told of {moved:?}");
    check(&device.map(NR_PAGES)?, 20)
}

fn a_mapping_cannot_grow(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mut mapping = device.map(NR_PAGES)?;
    fill(&mapping, 10);
    let refused = mapping.grow(NR_PAGES + 1);
    ensure!(refused == Err(Errno::FAULT), "{refused:?}");
    check(&mapping, 10)
}

fn a_mapping_outlives_the_file_descriptor(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping, 1);
    drop(device);
    check(&mapping, 1)?;
    mapping.dont_need()?;
    check(&mapping, 1)
}
