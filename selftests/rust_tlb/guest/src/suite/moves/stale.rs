// SPDX-License-Identifier: GPL-2.0

//! Old translations after a move by the device: whoever uses an old address has to fault, unless his
//! CPU knows the old translation still. And pages that are taken meanwhile.

use core::hint;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::thread;

use anyhow::{ensure, Result};

use super::{word, Ground, MODES, SETUPS, SKEW};
use crate::abi::{self, strategy};
use crate::arena::Span;
use crate::cpu;
use crate::ktap::{skip, Options};
use crate::selection::Selection;

/// Few enough that the kernel flushes them one by one, and leaves all else in the TLBs.
const NR_PAGES: usize = 8;
/// A CPU that something else runs on for a moment has lost its translations: so often is tried what
/// has to be seen once.
const NR_ATTEMPTS: usize = 3;
const NR_ROUNDS: u32 = 4;
/// How long a move is held before its flush, and when others begin meanwhile.
const HOLD_MS: u32 = 250;
const BEFORE: Duration = Duration::from_millis(60);

const WARM: usize = 1;
const MOVED: usize = 2;
const DONE: usize = 3;

fn can_be_broken(ground: &Ground) -> Result<()> {
    let built = ground.device.describe()?.strategies;
    if built & 1 << strategy::NONE == 0 {
        skip("the kernel has no CONFIG_RUST_TLB_FAULTS")?;
    }
    Ok(())
}

fn await_step(step: &AtomicUsize, wanted: usize) {
    while step.load(Acquire) < wanted {
        hint::spin_loop();
    }
}

fn read_all(span: &Span<'_>) {
    (0..NR_PAGES).for_each(|page| _ = word(span, page).load(Relaxed));
}

/// Has another CPU read by the old addresses before a move and after it. Returns how many of these
/// reads went by an old translation.
fn nr_stale(setup: u32, skew: usize, flags: u32) -> Result<usize> {
    let ground = Ground::new(setup, NR_PAGES, skew)?;
    ground.fill();
    let [old, new] = ground.places();
    let step = AtomicUsize::new(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let pinned = cpu::pin_member(0);
            read_all(&old);
            step.store(WARM, Release);
            await_step(&step, MOVED);
            read_all(&old);
            pinned
        });
        await_step(&step, WARM);
        let moved = ground.device.move_pages(&old, &new, flags, 0);
        let before = ground.device.counters();
        step.store(MOVED, Release);
        reader.join().expect("the reader does not panic")?;
        ensure!(moved?.nr_ptes == NR_PAGES as u64, "{moved:?}");
        let nr_faults = ground.device.counters()?.nr_faults - before?.nr_faults;
        Ok(NR_PAGES - nr_faults as usize)
    })
}

pub fn old_addresses_of_a_device_move_are_gone(options: &Options) -> Result<()> {
    for (setup, flags) in SETUPS.into_iter().flat_map(|s| MODES.map(|m| (s, m))) {
        for _ in 0..NR_ROUNDS * options.effort {
            let nr = nr_stale(setup, SKEW, flags)?;
            ensure!(nr == 0, "{setup:#x}, {flags:#x}: {nr} stale reads");
        }
    }
    Ok(())
}

/// Somebody works on a page: its state is not known, and nobody waits for it.
pub fn a_page_that_is_locked_is_flushed_at_once(_: &Options) -> Result<()> {
    for setup in SETUPS {
        let ground = Ground::new(setup, NR_PAGES, SKEW)?;
        can_be_broken(&ground)?;
        ground.fill();
        let [old, new] = ground.places();
        let flags = abi::MOVE_DEFER | abi::MOVE_LOCK_PAGE;
        let moved = ground.device.move_pages(&old, &new, flags, 0)?;
        ensure!(moved.nr_forced == [0, 1, 0, 0, 0], "{moved:?}");
        ensure!(moved.nr_locked_flushes == 1, "{moved:?}");
        ensure!(moved.nr_flush_calls == 2, "{moved:?}");
        ensure!(moved.nr_ptes == NR_PAGES as u64, "{moved:?}");
        let moved = ground.device.move_pages(&new, &old, abi::MOVE_DEFER, 0)?;
        ensure!(
            moved.nr_forced == [0; 5] && moved.nr_flush_calls == 1,
            "{moved:?}"
        );
        ground.check(&old)?;
    }
    Ok(())
}

/// What came of pages that were taken while the flush of their move was owed.
#[derive(Debug)]
struct Taken {
    nr_recycled: u64,
    nr_shared: u64,
    nr_stale_writes: u64,
}

/// Writes by the old addresses until all is over.
fn write_on(old: &Span<'_>, step: &AtomicUsize) -> Result<()> {
    let pinned = cpu::pin_member(0);
    for value in 1.. {
        (0..NR_PAGES).for_each(|page| word(old, page).store(value, Relaxed));
        step.fetch_max(WARM, Release);
        if step.load(Acquire) == DONE {
            break;
        }
    }
    pinned
}

/// Takes the pages, by their new addresses, while another CPU writes by the old ones: within the
/// move, if that is held, or right after it. [`None`] if it did not come to that.
fn take_while_moved(setup: u32, flags: u32) -> Result<Option<Taken>> {
    let ground = Ground::new(setup, NR_PAGES, SKEW)?;
    can_be_broken(&ground)?;
    let [old, new] = ground.places();
    let is_held = flags & abi::MOVE_HOLD != 0;
    let step = AtomicUsize::new(0);
    let take = || {
        let all = Selection::run(0, NR_PAGES as u64);
        ground.device.unmap(&all, strategy::PRECISE, 0)
    };
    thread::scope(|scope| {
        let writer = scope.spawn(|| write_on(&old, &step));
        await_step(&step, WARM);
        let mover = scope.spawn(|| {
            cpu::pin_member(1)?;
            let hold_ms = if is_held { HOLD_MS } else { 0 };
            let moved = ground.device.move_pages(&old, &new, flags, hold_ms);
            let taken = (!is_held).then(take);
            // The end of a thread unmaps its stack, which flushes what was noted.
            while step.load(Acquire) < DONE {
                thread::sleep(Duration::from_millis(1));
            }
            anyhow::Ok((moved?, taken.transpose()?))
        });
        thread::sleep(BEFORE);
        let taken = is_held.then(take);
        // A moment for the writer.
        thread::sleep(BEFORE);
        let counters = ground.device.counters();
        step.store(DONE, Release);
        let (moved, taken_after) = mover.join().expect("the mover does not panic")?;
        writer.join().expect("the writer does not panic")?;
        let taken = taken.transpose()?.or(taken_after);
        let nr_taken = taken.map_or(0, |taken| taken.nr_pages);
        ensure!(nr_taken == NR_PAGES as u64, "{taken:?}");
        let counters = counters?;
        // If not, they were taken before they could be moved.
        let in_time = moved.nr_ptes == NR_PAGES as u64;
        Ok(in_time.then_some(Taken {
            nr_recycled: counters.nr_recycled,
            nr_shared: counters.nr_shared,
            nr_stale_writes: counters.nr_stale_writes,
        }))
    })
}

/// What came of it, as often as it was tried and came to that.
fn take_often(setup: u32, flags: u32) -> Result<Vec<Taken>> {
    let all: Result<Vec<_>> = (0..NR_ATTEMPTS)
        .map(|_| take_while_moved(setup, flags))
        .collect();
    let taken: Vec<Taken> = all?.into_iter().flatten().collect();
    println!("# {setup:#x}, {flags:#x}: {taken:?}");
    ensure!(!taken.is_empty(), "nothing was taken in time");
    Ok(taken)
}

pub fn a_moved_page_is_not_reused_before_the_flush(_: &Options) -> Result<()> {
    for setup in SETUPS {
        for taken in take_often(setup, abi::MOVE_DEFER | abi::MOVE_HOLD)? {
            ensure!(taken.nr_shared == NR_PAGES as u64, "{taken:?}");
            ensure!(
                taken.nr_recycled == 0 && taken.nr_stale_writes == 0,
                "{taken:?}"
            );
        }
        for flags in MODES {
            for taken in take_often(setup, flags)? {
                ensure!(taken.nr_recycled == NR_PAGES as u64, "{taken:?}");
                ensure!(taken.nr_stale_writes == 0, "{taken:?}");
            }
        }
    }
    Ok(())
}

fn expect_stale_writes(flags: u32) -> Result<()> {
    for setup in SETUPS {
        let taken = take_often(setup, flags)?;
        ensure!(
            taken.iter().any(|t| t.nr_stale_writes > 0),
            "{setup:#x}: none"
        );
    }
    Ok(())
}

/// The pages are free as soon as the new addresses are flushed.
pub fn control_a_device_move_without_pins(_: &Options) -> Result<()> {
    expect_stale_writes(abi::MOVE_DEFER | abi::MOVE_HOLD | abi::MOVE_BREAK_PIN)
}

pub fn control_a_flush_of_the_new_addresses(_: &Options) -> Result<()> {
    expect_stale_writes(abi::MOVE_DEFER | abi::MOVE_BREAK_RANGE)
}
