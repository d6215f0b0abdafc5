// SPDX-License-Identifier: GPL-2.0

//! A batch whose flush is owed, and others who change the same page tables: when munmap, mprotect,
//! mremap or madvise returns, no CPU uses the old page any more (H4).

use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use crate::abi::{self, strategy};
use crate::child::{describe, Child};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::selection::Selection;
use crate::shared::Shared;

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

    /// Whether the used page is there afterwards, as a fresh one.
    fn keeps_the_address(self) -> bool {
        matches!(self, Self::DontNeed)
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

/// What the user of the page tells: how often it has used it, and what it read last.
struct Desk(Shared<AtomicU64>);

const NR_USES: usize = 0;
const LAST_READ: usize = 1;

/// Exit codes of the process that is watched.
const STALE: i32 = 42;
const CLEAN: i32 = 0;
const BROKEN: i32 = 1;

/// Uses the page for ever, by reads, and by writes that do not change it.
fn use_page(mapping: &Mapping, desk: &Desk) -> ! {
    let word = mapping.word(USED, 0);
    loop {
        let value = word.load(Ordering::Acquire);
        // A dirty translation, so that a write through it does not fault.
        mapping.word(USED, 1).store(1, Ordering::Release);
        desk.0[LAST_READ].store(value, Ordering::Release);
        desk.0[NR_USES].fetch_add(1, Ordering::AcqRel);
    }
}

/// Waits for `nr` more uses; false if they do not come.
fn await_uses(desk: &Desk, nr: u64) -> bool {
    let goal = desk.0[NR_USES].load(Ordering::Acquire) + nr;
    let end = Instant::now() + Duration::from_secs(10);
    while desk.0[NR_USES].load(Ordering::Acquire) < goal {
        if Instant::now() > end {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// The process: one thread uses the page, the other unmaps it without a flush, and makes `change`.
/// If the user can go on with the old page, that is [`STALE`]. Otherwise it faults, which kills both.
fn change_under_use(strategy: u32, change: Change) -> Result<i32> {
    let device = Device::open()?;
    let mapping = Arc::new(device.map(NR_PAGES)?);
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Ordering::Relaxed));
    let desk = Arc::new(Desk(Shared::new(2)?));
    let (used, shown) = (mapping.clone(), desk.clone());
    cpu::pin_driver()?;
    thread::spawn(move || {
        if cpu::pin_member(0).is_ok() {
            use_page(&used, &shown)
        }
    });
    ensure!(await_uses(&desk, 1000), "the page is not used");
    let selection = Selection::run(FIRST, NR_CHANGED);
    let reply = device.unmap(&selection, strategy, abi::UNMAP_DEFER)?;
    ensure!(reply.nr_flush_calls == 0, "{reply:?}");
    change.make(&mapping)?;
    // One use may have been under way.
    if !await_uses(&desk, 3) {
        bail!("neither was the page used nor the user killed");
    }
    let value = desk.0[LAST_READ].load(Ordering::Acquire);
    Ok(if change.keeps_the_address() && value != OLD {
        CLEAN
    } else {
        STALE
    })
}

/// Whether the old page was used after `change`, in a process of its own.
fn is_used_after(strategy: u32, change: Change) -> Result<bool> {
    let body = || match change_under_use(strategy, change) {
        Ok(code) => code,
        Err(error) => {
            println!("# {error:#}");
            BROKEN
        }
    };
    let mut child = Child::fork_with_code(body)?;
    let Some(status) = child.wait_for(Duration::from_secs(30))? else {
        bail!("{change:?} took longer than 30 s");
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(STALE), _) => Ok(true),
        (Some(CLEAN), _) if change.keeps_the_address() => Ok(false),
        (_, Some(libc::SIGSEGV)) if !change.keeps_the_address() => Ok(false),
        _ => bail!("the process {}", describe(status)),
    }
}

fn expect_flush(change: Change, options: &Options) -> Result<()> {
    for _ in 0..5 * options.effort {
        for strategy in [strategy::BROADCAST, strategy::PRECISE] {
            let used = is_used_after(strategy, change)?;
            ensure!(!used, "{}: the old page is in use", strategy_name(strategy));
        }
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

/// Tries of a run: an interrupt may take the old translation away before it is used.
const NR_TRIES: usize = 10;

fn a_batch_that_others_do_not_know_is_caught_every_time(_: &Options) -> Result<()> {
    if Device::open()?.strategies(&[strategy::UNNOTED])?.is_empty() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    for change in CHANGES {
        for run in 0..4 {
            let mut caught = false;
            for _ in 0..NR_TRIES {
                caught = caught || is_used_after(strategy::UNNOTED, change)?;
            }
            ensure!(caught, "{change:?}, run {run}: nobody used the old page");
        }
    }
    println!("# 20 of 20 runs");
    Ok(())
}
