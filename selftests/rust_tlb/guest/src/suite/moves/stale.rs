// SPDX-License-Identifier: GPL-2.0

//! Old translations after a move by the device: whoever uses an old address has to fault, unless his
//! CPU knows the old translation still. And pages that are taken meanwhile.

use core::hint;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Result};

use super::{word, Ground, MODES, SETUPS, SKEW};
use crate::abi::{self, strategy};
use crate::arena::Span;
use crate::attempts::{caught_every_time, Attempt};
use crate::cpu;
use crate::ktap::{skip, Options};
use crate::selection::Selection;
use crate::witness::Witness;

/// Few enough that the kernel flushes them one by one, and leaves all else in the TLBs.
const NR_PAGES: usize = 8;
const NR_ROUNDS: u32 = 4;
/// Moves of which pages are taken, and of those whose rules are broken.
const NR_TAKEN: u32 = 3;
const NR_STALE: u32 = 10;
/// How long a move is held before its flush, and when others begin meanwhile: on a busy host that is
/// too early or too late at times, and the attempt is spoilt.
const HOLD: Duration = Duration::from_millis(250);
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
            let pinned = cpu::pin_worker(0);
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
    /// It came to that, and the one who writes has written since.
    in_time: bool,
    /// ... and has lost nothing from its TLB but what was flushed.
    undisturbed: bool,
}

/// Who writes by the old addresses until all is over.
struct Writer<'a> {
    old: Span<'a>,
    witness: Witness,
    step: AtomicUsize,
    nr_passes: AtomicUsize,
}

impl Writer<'_> {
    fn write_on(&self) -> Result<()> {
        let pinned = cpu::pin_worker(0);
        for value in 1.. {
            (0..NR_PAGES).for_each(|page| word(&self.old, page).store(value, Relaxed));
            self.witness.look();
            self.nr_passes.fetch_add(1, Release);
            if self.step.load(Acquire) == DONE {
                break;
            }
        }
        pinned
    }

    /// Waits until it has begun and ended a pass, but not beyond `end`: while a move is held, there
    /// is none for a writer who has to fault.
    fn await_pass(&self, end: Option<Instant>) -> bool {
        let goal = self.nr_passes.load(Acquire) + 2;
        while self.nr_passes.load(Acquire) < goal {
            if end.is_some_and(|end| Instant::now() >= end) {
                return false;
            }
            thread::yield_now();
        }
        true
    }
}

/// Takes the pages, by their new addresses, while another CPU writes by the old ones: within the
/// move, if that is held, or right after it.
fn take_while_moved(setup: u32, flags: u32) -> Result<Taken> {
    let ground = Ground::new(setup, NR_PAGES, SKEW)?;
    can_be_broken(&ground)?;
    let [old, new] = ground.places();
    let writer = Writer {
        old: ground.places()[0],
        witness: Witness::new()?,
        step: AtomicUsize::new(0),
        nr_passes: AtomicUsize::new(0),
    };
    let is_held = flags & abi::MOVE_HOLD != 0;
    let take = || {
        let all = Selection::run(0, NR_PAGES as u64);
        ground.device.unmap(&all, strategy::PRECISE, 0)
    };
    thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_on());
        writer.await_pass(None);
        writer.witness.expect()?;
        // It is not over before.
        let end = Instant::now() + HOLD;
        let mover = scope.spawn(|| {
            cpu::pin_worker(1)?;
            let hold = if is_held { HOLD } else { Duration::ZERO };
            let hold_ms = hold.as_millis() as u32;
            let moved = ground.device.move_pages(&old, &new, flags, hold_ms);
            let taken = (!is_held).then(take);
            writer.step.fetch_max(MOVED, Release);
            // The end of a thread unmaps its stack, which flushes what was noted.
            while writer.step.load(Acquire) < DONE {
                thread::sleep(Duration::from_millis(1));
            }
            anyhow::Ok((moved?, taken.transpose()?))
        });
        let taken = is_held.then(|| {
            thread::sleep(BEFORE);
            take()
        });
        let mut in_time = if is_held {
            writer.await_pass(Some(end))
        } else {
            await_step(&writer.step, MOVED);
            writer.await_pass(None)
        };
        let counters = ground.device.counters();
        in_time &= !is_held || Instant::now() < end;
        let undisturbed = writer.witness.is_kept();
        writer.step.store(DONE, Release);
        let (moved, taken_after) = mover.join().expect("the mover does not panic")?;
        writing.join().expect("the writer does not panic")?;
        let taken = taken.transpose()?.or(taken_after);
        let nr_taken = taken.map_or(0, |taken| taken.nr_pages);
        ensure!(nr_taken == NR_PAGES as u64, "{taken:?}");
        // If not, they were taken before they could be moved.
        in_time &= moved.nr_ptes == NR_PAGES as u64;
        let counters = counters?;
        Ok(Taken {
            nr_recycled: counters.nr_recycled,
            nr_shared: counters.nr_shared,
            nr_stale_writes: counters.nr_stale_writes,
            in_time,
            undisturbed: in_time && undisturbed?,
        })
    })
}

/// Where the rules are kept, so many of the pages are used again, and nobody writes to them.
fn expect_none_stale(setup: u32, flags: u32, nr_recycled: u64) -> Result<()> {
    println!("# {setup:#x}, {flags:#x}");
    caught_every_time(NR_TAKEN, || {
        let taken = take_while_moved(setup, flags)?;
        ensure!(taken.nr_stale_writes == 0, "{taken:?}");
        let is_right =
            taken.nr_recycled == nr_recycled && taken.nr_shared == NR_PAGES as u64 - nr_recycled;
        let found = || format!("{taken:?}");
        Ok(Attempt::judge(
            is_right && taken.in_time,
            taken.in_time,
            found,
        ))
    })
}

pub fn a_moved_page_is_not_reused_before_the_flush(_: &Options) -> Result<()> {
    for setup in SETUPS {
        expect_none_stale(setup, abi::MOVE_DEFER | abi::MOVE_HOLD, 0)?;
        for flags in MODES {
            expect_none_stale(setup, flags, NR_PAGES as u64)?;
        }
    }
    Ok(())
}

fn expect_stale_writes(flags: u32) -> Result<()> {
    for setup in SETUPS {
        println!("# {setup:#x}, {flags:#x}");
        caught_every_time(NR_STALE, || {
            let taken = take_while_moved(setup, flags)?;
            let caught = taken.nr_stale_writes > 0;
            let found = || format!("{taken:?}");
            Ok(Attempt::judge(caught, taken.undisturbed, found))
        })?;
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
