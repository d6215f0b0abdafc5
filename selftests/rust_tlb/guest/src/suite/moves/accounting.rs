// SPDX-License-Identifier: GPL-2.0

//! What is refused, and what the device knows of moves by the kernel.

use anyhow::{ensure, Result};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags};

use super::{word, Ground, SETUPS};
use crate::abi;
use crate::arena::{Arena, Leave, PMD_SIZE};
use crate::device::Device;
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};
use core::sync::atomic::Ordering::Relaxed;

const NR_PAGES: usize = 8;
const PAGE: u64 = PAGE_SIZE as u64;

/// What is wrong, with which errno, and a function that makes it so.
type Spoiled = (&'static str, Errno, fn(&mut abi::Move));

/// Arguments that no mapping makes right.
const BAD_ARGUMENTS: [Spoiled; 14] = [
    ("unknown flag", Errno::INVAL, |m| m.flags = 2),
    ("reserved field", Errno::INVAL, |m| m.reserved[1] = 1),
    ("hold without the flag", Errno::INVAL, |m| m.hold_ms = 1),
    ("flag without a hold", Errno::INVAL, |m| {
        m.flags = abi::MOVE_DEFER | abi::MOVE_HOLD;
    }),
    ("hold for too long", Errno::INVAL, |m| {
        m.flags = abi::MOVE_DEFER | abi::MOVE_HOLD;
        m.hold_ms = abi::MOVE_MAX_HOLD_MS + 1;
    }),
    ("break what is not deferred", Errno::INVAL, |m| {
        m.flags = abi::MOVE_BREAK_PIN;
    }),
    ("break two rules", Errno::INVAL, |m| {
        m.flags = abi::MOVE_DEFER | abi::MOVE_BREAK_PIN | abi::MOVE_BREAK_RANGE;
    }),
    ("misaligned old address", Errno::INVAL, |m| m.old += 8),
    ("misaligned new address", Errno::INVAL, |m| m.new += 8),
    ("misaligned length", Errno::INVAL, |m| m.len -= 8),
    ("no length", Errno::INVAL, |m| m.len = 0),
    ("the same place", Errno::INVAL, |m| m.new = m.old),
    ("overlap", Errno::INVAL, |m| m.new = m.old + PAGE),
    ("overflow", Errno::FAULT, |m| {
        m.old = 0_u64.wrapping_sub(PAGE)
    }),
];

/// Arguments that are wrong because of what is mapped where.
const BAD_PLACES: [Spoiled; 8] = [
    ("other pages", Errno::INVAL, |m| {
        m.new += PAGE;
        m.len -= PAGE;
    }),
    ("nothing at the old address", Errno::FAULT, |m| {
        m.old = PAGE;
        m.len = PAGE;
    }),
    ("nothing at the new address", Errno::FAULT, |m| {
        m.new = PAGE;
        m.len = PAGE;
    }),
    ("beyond user space", Errno::FAULT, |m| m.new = 1 << 63),
    ("other memory at the old address", Errno::XDEV, |m| {
        m.old -= PMD_SIZE as u64;
    }),
    ("other memory at the new address", Errno::XDEV, |m| {
        m.new -= PMD_SIZE as u64;
    }),
    ("more than is mapped", Errno::FAULT, |m| m.len += PAGE),
    ("more than one call takes", Errno::TOOBIG, |m| {
        m.len = 1 << 32
    }),
];

pub fn bad_device_moves_are_refused(_: &Options) -> Result<()> {
    let arena = Arena::new(16 * PMD_SIZE)?;
    let device = Device::open()?;
    let len = NR_PAGES * PAGE_SIZE;
    let (old, new) = (arena.span(PMD_SIZE, len), arena.span(8 * PMD_SIZE, len));
    for place in [&old, &new] {
        place.map_file(device.file(), 0, MapFlags::SHARED)?;
    }
    (0..NR_PAGES).for_each(|page| word(&old, page).store(7, Relaxed));
    let good = abi::Move {
        old: old.address().addr() as u64,
        new: new.address().addr() as u64,
        len: len as u64,
        ..Default::default()
    };
    for (what, errno, spoil) in BAD_ARGUMENTS.into_iter().chain(BAD_PLACES) {
        let mut bad = good;
        spoil(&mut bad);
        let answer = device.call(&mut bad);
        ensure!(answer == Err(errno), "{what}: {answer:?}, not {errno:?}");
    }
    let other = Device::open()?;
    let answer = other.call(&mut good.clone());
    ensure!(answer == Err(Errno::XDEV), "another file: {answer:?}");
    let faults = device.counters()?.nr_faults;
    (0..NR_PAGES).for_each(|page| _ = word(&old, page).load(Relaxed));
    ensure!(device.counters()?.nr_faults == faults, "something moved");

    let mapping = Mapping::new(&device, 0, NR_PAGES as u64)?;
    mapping.protect(MprotectFlags::READ)?;
    let mut bad = good;
    bad.new = mapping.address().addr() as u64;
    let answer = device.call(&mut bad);
    ensure!(answer == Err(Errno::ACCESS), "read-only: {answer:?}");

    let moved = device.move_pages(&old, &new, 0, 0)?;
    ensure!(moved.nr_ptes == NR_PAGES as u64, "{moved:?}");
    Ok(())
}

/// All PTEs are at the new address when the device hears of it, and it hears once of each mapping.
pub fn a_kernel_move_of_the_device_is_accounted(_: &Options) -> Result<()> {
    for setup in SETUPS {
        let device = Device::open()?;
        device.setup(setup)?;
        let mut mapping = Mapping::of_tables(&device, 1024 + 3)?;
        let mut small = Mapping::new(&device, 5, 3)?;
        for page in 0..mapping.nr_pages() {
            mapping.word(page, 0).store(page + 1, Relaxed);
        }
        for nr_done in 1..=3 {
            mapping.relocate_aligned(PAGES_PER_TABLE)?;
            small.relocate()?;
            let before = device.counters()?;
            ensure!(before.nr_moves == 2 * nr_done, "{before:?}");
            let nr_pages = nr_done * (mapping.nr_pages() + 3);
            ensure!(before.nr_moved_pages == nr_pages, "{before:?}");
            for page in 0..mapping.nr_pages() {
                let value = mapping.word(page, 0).load(Relaxed);
                ensure!(value == page + 1, "page {page} holds {value:#x}");
            }
            let missing = device.counters()?.nr_faults - before.nr_faults;
            ensure!(missing == 0, "{missing} pages had to be mapped again");
        }
    }
    Ok(())
}

/// The mappings cannot be expanded, and so are neither left behind nor doubled.
pub fn what_the_kernel_refuses_of_the_device(_: &Options) -> Result<()> {
    for setup in SETUPS {
        let ground = Ground::new(setup, NR_PAGES, 0)?;
        ground.fill();
        let [old, new] = ground.places();
        let answer = old.move_to(&new, Leave::Mapping);
        ensure!(answer == Err(Errno::INVAL), "DONTUNMAP: {answer:?}");
        let mut mapping = ground.device.map(NR_PAGES as u64)?;
        let answer = mapping.grow(2 * NR_PAGES as u64);
        ensure!(answer == Err(Errno::FAULT), "grown: {answer:?}");
        let answer = mapping.double();
        ensure!(answer == Err(Errno::FAULT), "doubled: {answer:?}");
        ensure!(ground.device.counters()?.nr_moves == 0, "counted");
        ground.check(&old)?;
        old.move_to(&new, Leave::Nothing)?;
        ensure!(ground.device.counters()?.nr_moves == 1, "not counted");
        ground.check(&new)?;
        old.reserve()?;
    }
    Ok(())
}
