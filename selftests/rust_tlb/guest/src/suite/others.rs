// SPDX-License-Identifier: GPL-2.0

//! A batch whose flush is owed, and others who change the same page tables: when munmap, mprotect,
//! mremap or madvise returns, no CPU uses the old page any more (H4).
//!
//! H4 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::ffi::c_void;
use core::sync::atomic::Ordering;
use std::sync::Arc;

use anyhow::{ensure, Result};
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use crate::abi::{self, strategy};
use crate::attempts::caught_every_time;
use crate::child::Child;
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::page_user::{in_a_process, Fate, PageUser, Use};
use crate::selection::Selection;

crate::tests! {
    munmap_flushes_what_is_owed,
    mprotect_flushes_what_is_owed,
    read_only_flushes_what_is_owed,
    mremap_flushes_what_is_owed,
    madvise_flushes_what_is_owed,
    exit_with_a_flush_owed,
    fork_with_a_flush_owed,
    a_batch_that_others_do_not_know_is_caught_every_time within 120,
}

/// Pages of the mapping, and those in its middle that are worked on: the rest keeps their page
/// table from being freed, which would flush by itself.
const NR_PAGES: u64 = 64;
const FIRST: u64 = 24;
const NR_CHANGED: u64 = 4;
/// The page that is used all the time.
const USED: u64 = FIRST + 1;
/// What it holds before it is unmapped.
const OLD: u64 = 0x5a5a_0001;

/// Something that has to flush what is owed.
#[derive(Clone, Copy, Debug)]
enum Change {
    Munmap,
    Protect,
    ReadOnly,
    Move,
    DontNeed,
}

const CHANGES: [Change; 5] = [
    Change::Munmap,
    Change::Protect,
    Change::ReadOnly,
    Change::Move,
    Change::DontNeed,
];

impl Change {
    /// Makes it, to the pages in the middle of the mapping.
    fn make(self, mapping: &Mapping) -> Result<()> {
        let len = NR_CHANGED as usize * PAGE_SIZE;
        // The address is computed, not used: what is there may be in use by another thread.
        let start = mapping
            .address()
            .cast::<u8>()
            .wrapping_add(FIRST as usize * PAGE_SIZE)
            .cast::<c_void>();
        // SAFETY: The pages are those of the device, in a process that exists for this test alone:
        // whoever uses them afterwards is expected to be killed.
        unsafe {
            match self {
                Self::Munmap => mm::munmap(start, len)?,
                Self::Protect => mm::mprotect(start, len, MprotectFlags::empty())?,
                Self::ReadOnly => mm::mprotect(start, len, MprotectFlags::READ)?,
                Self::DontNeed => mm::madvise(start, len, Advice::LinuxDontNeed)?,
                Self::Move => move_away(start, len)?,
            }
        }
        Ok(())
    }
}

/// # Safety
///
/// Nobody may rely on what is mapped at `start`.
unsafe fn move_away(start: *mut c_void, len: usize) -> Result<()> {
    // SAFETY: A reservation at an address of the kernel's choice replaces no other mapping; then
    // the pages move onto it, as the caller allows.
    unsafe {
        let place = mm::mmap_anonymous(
            core::ptr::null_mut(),
            len,
            ProtFlags::empty(),
            MapFlags::PRIVATE,
        )?;
        mm::mremap_fixed(start, len, len, MremapFlags::MAYMOVE, place)?;
    }
    Ok(())
}

/// The process: one thread uses the page, the other unmaps it without a flush, and makes `change`.
/// Then nobody may use the old page any more.
fn change_under_use(strategy: u32, change: Change) -> Result<Fate> {
    let device = Device::open()?;
    let mapping = Arc::new(device.map(NR_PAGES)?);
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Ordering::Relaxed));
    cpu::pin_driver()?;
    let user = PageUser::start(&mapping, USED, Use::ReadWrite)?;
    let stillness = user.stillness()?;
    let was_resident = user.is_resident(&device)?;
    let selection = Selection::run(FIRST, NR_CHANGED);
    let reply = device.unmap(&selection, strategy, abi::UNMAP_DEFER)?;
    ensure!(reply.nr_flush_calls == 0, "{reply:?}");
    change.make(&mapping)?;
    user.fate(was_resident, &stillness)
}

fn expect_flush(change: Change, options: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        println!("# {}", strategy_name(strategy));
        caught_every_time(5 * options.effort, || {
            let fate = in_a_process(|| change_under_use(strategy, change))?;
            Ok(fate.expect_gone())
        })?;
    }
    Ok(())
}

fn munmap_flushes_what_is_owed(options: &Options) -> Result<()> {
    expect_flush(Change::Munmap, options)
}

fn mprotect_flushes_what_is_owed(options: &Options) -> Result<()> {
    expect_flush(Change::Protect, options)
}

fn read_only_flushes_what_is_owed(options: &Options) -> Result<()> {
    expect_flush(Change::ReadOnly, options)
}

fn mremap_flushes_what_is_owed(options: &Options) -> Result<()> {
    expect_flush(Change::Move, options)
}

fn madvise_flushes_what_is_owed(options: &Options) -> Result<()> {
    expect_flush(Change::DontNeed, options)
}

/// The mm goes before its flush: the batch holds its pages, and flushes a dead mm.
fn exit_with_a_flush_owed(_: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let device = Device::open()?;
        let child = Child::fork(|| {
            let mapping = device.map(NR_PAGES)?;
            (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Ordering::Relaxed));
            device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_DEFER)?;
            Ok(())
        })?;
        child.join()?;
        let flush = device.flush()?;
        ensure!(flush.nr_pages == NR_PAGES, "{flush:?}");
        let counters = device.counters()?;
        ensure!(counters.nr_recycled == NR_PAGES, "{counters:?}");
        ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    }
    Ok(())
}

/// A fork copies no PTE that is gone: the child is given fresh pages, after a flush.
fn fork_with_a_flush_owed(_: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let device = Device::open()?;
        let mapping = device.map(NR_PAGES)?;
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Ordering::Relaxed));
        device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_DEFER)?;
        let child = Child::fork(|| {
            let value = mapping.word(USED, 0).load(Ordering::Relaxed);
            ensure!(value == 0, "the child reads {value:#x}");
            Ok(())
        })?;
        child.join()?;
        let value = mapping.word(USED, 0).load(Ordering::Relaxed);
        ensure!(value == 0, "the parent reads {value:#x}");
        let counters = device.counters()?;
        ensure!(counters.nr_pending_hits == 1, "{counters:?}");
    }
    Ok(())
}

fn a_batch_that_others_do_not_know_is_caught_every_time(_: &Options) -> Result<()> {
    if Device::open()?.strategies(&[strategy::UNNOTED])?.is_empty() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    for change in CHANGES {
        println!("# {change:?}");
        caught_every_time(20 / CHANGES.len() as u32, || {
            let fate = in_a_process(|| change_under_use(strategy::UNNOTED, change))?;
            Ok(fate.expect_used())
        })?;
    }
    Ok(())
}
