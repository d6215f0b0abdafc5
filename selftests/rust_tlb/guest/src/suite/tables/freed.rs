// SPDX-License-Identifier: GPL-2.0

//! A page table that is freed, while a batch has yet to flush what it mapped: when munmap returns,
//! no CPU uses the old page any more, although munmap finds no table, and so nothing to flush.
//!
//! madvise asks whether a flush is owed before it zaps, and frees the table later, if somebody else
//! has the lock that it needs. Here somebody has, and in between a page is used and unmapped.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

use crate::abi::{self, strategy};
use crate::attempts::caught_every_time;
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::page_user::Fate;
use crate::selection::Selection;
use crate::stillness::{this_thread, Stillness};

/// The page whose translation is left behind: far from the start of the range, which is all that
/// the flush for the table covers.
const USED: u64 = PAGES_PER_TABLE - 1;
const OLD: u64 = 0x5a5a_0003;

/// Beside the one that drives.
const NR_THREADS: u64 = 3;

const NR_RUNS: u32 = 20;

pub fn a_freed_table_is_flushed_by_precise(options: &Options) -> Result<()> {
    is_flushed(options, strategy::PRECISE)
}

/// Here the generation sees to it: what owes the flush has bumped it, so that the flush for the
/// table is a full one.
pub fn a_freed_table_is_flushed_by_broadcast(options: &Options) -> Result<()> {
    is_flushed(options, strategy::BROADCAST)
}

fn is_flushed(options: &Options, strategy: u32) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    println!("# {}", strategy_name(strategy));
    caught_every_time(NR_RUNS * options.effort, || {
        Ok(fate_after(strategy)?.expect_gone())
    })
}

/// What the threads tell each other, and what the user of the page reads.
#[derive(Default)]
struct Desk {
    nr_ready: AtomicU64,
    may_hold: AtomicBool,
    is_held: AtomicBool,
    is_freed: AtomicBool,
    begin: AtomicBool,
    end: AtomicBool,
    nr_uses: AtomicU64,
    last_read: AtomicU64,
    user: AtomicU64,
}

impl Desk {
    /// A thread has started, and is where it is to run.
    fn ready_on(&self, worker: usize) -> Result<()> {
        cpu::pin_worker(worker)?;
        self.nr_ready.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Waits for something, or for the end.
    fn await_true(&self, what: &AtomicBool) {
        while !what.load(Ordering::Acquire) && !self.end.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    }

    /// Reads the page all the time, from when it is told to.
    fn use_page(&self, mapping: &Mapping) -> Result<()> {
        self.user.store(this_thread(), Ordering::Release);
        self.ready_on(0)?;
        self.await_true(&self.begin);
        mapping.word(USED, 0).store(OLD, Ordering::Release);
        while !self.end.load(Ordering::Acquire) {
            let value = mapping.word(USED, 0).load(Ordering::Acquire);
            self.last_read.store(value, Ordering::Release);
            self.nr_uses.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// Holds the lock that it takes to free the page table.
    fn hold_table(&self, mapping: &Mapping) -> Result<()> {
        self.ready_on(1)?;
        self.await_true(&self.may_hold);
        held_moment::hold_table(mapping)?;
        self.await_true(&self.end);
        Ok(())
    }

    /// Frees it, as soon as that lock is held.
    fn free_table(&self, mapping: &Mapping) -> Result<()> {
        self.ready_on(2)?;
        self.await_true(&self.is_held);
        mapping.dont_need()?;
        self.is_freed.store(true, Ordering::Release);
        self.await_true(&self.end);
        Ok(())
    }

    fn await_uses(&self, nr: u64) {
        let goal = self.nr_uses.load(Ordering::Acquire) + nr;
        while self.nr_uses.load(Ordering::Acquire) < goal {
            core::hint::spin_loop();
        }
    }
}

/// Returns what became of the old page for its user, after something else was mapped in its place.
/// Untried, if madvise had let others run before it had zapped all, and took the page as well, or if
/// the table was not held for long enough.
///
/// All threads start before and end afterwards: to start one waits for the holder, who keeps all
/// page tables above; and one that ends gives its stack back, which flushes whatever is owed.
fn fate_after(strategy: u32) -> Result<Fate> {
    let device = Device::open()?;
    let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
    // So that there is a table.
    mapping.word(0, 0).store(1, Ordering::Relaxed);
    let desk = Desk::default();
    thread::scope(|scope| {
        let threads = [
            scope.spawn(|| desk.use_page(&mapping)),
            scope.spawn(|| desk.hold_table(&mapping)),
            scope.spawn(|| desk.free_table(&mapping)),
        ];
        let outcome = free_table_under_use(&device, &mapping, &desk, strategy);
        desk.end.store(true, Ordering::Release);
        for thread in threads {
            thread.join().expect("nobody panics")?;
        }
        outcome
    })
}

fn free_table_under_use(
    device: &Device,
    mapping: &Mapping,
    desk: &Desk,
    strategy: u32,
) -> Result<Fate> {
    while desk.nr_ready.load(Ordering::Acquire) < NR_THREADS {
        std::thread::yield_now();
    }
    desk.may_hold.store(true, Ordering::Release);
    held_moment::await_held()?;
    desk.is_held.store(true, Ordering::Release);
    // madvise has zapped what there was, and waits for the lock.
    while device.accessed(0, 1, abi::ACCESSED_READ)?.mapped != 0 {
        core::hint::spin_loop();
    }
    desk.begin.store(true, Ordering::Release);
    desk.await_uses(1000);
    let stillness = Stillness::of(vec![desk.user.load(Ordering::Acquire)])?;
    device.accessed(USED, 1, abi::ACCESSED_CLEAR)?;
    desk.await_uses(3);
    let bits = device.accessed(USED, 1, abi::ACCESSED_READ)?;
    let was_resident = bits.accessed == 0;
    let used = Selection::run(USED, 1);
    let reply = device.unmap(&used, strategy, abi::UNMAP_DEFER)?;
    // Up to now nothing was flushed.
    let is_known = was_resident && !stillness.all_switched()?;
    let was_held = held_moment::is_held()?;
    held_moment::go_on()?;
    desk.await_true(&desk.is_freed);
    if reply.nr_ptes == 0 {
        return Ok(Fate::Untried);
    }
    // Private memory, which reads as zeroes. One use may have been under way.
    mapping.bury()?;
    desk.await_uses(3);
    if desk.last_read.load(Ordering::Acquire) == OLD {
        return Ok(Fate::Used);
    }
    Ok(match (was_held, is_known) {
        (false, _) => Fate::Untried,
        (true, false) => Fate::GoneByASwitch,
        (true, true) => Fate::Gone,
    })
}
