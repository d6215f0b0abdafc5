// SPDX-License-Identifier: GPL-2.0

//! A CPU that goes and comes back while a flush is owed: nobody waits for it, and it comes back with
//! nothing of what was flushed meanwhile.

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs;
use std::path::PathBuf;
use std::thread;

use anyhow::{ensure, Context, Result};

use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::flush_ring::{self, Counts};
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::pending::{await_release, with_short_age};
use crate::selection::Selection;

crate::tests! {
    a_flush_is_asked_for_while_a_cpu_is_gone,
    a_batch_grows_old_while_a_cpu_is_gone,
    a_scope_ends_while_a_cpu_is_gone,
}

const NR_PAGES: u64 = 16;
const OLD: u64 = 0x01d;

/// A CPU that is taken out; it comes back when this goes out of scope.
struct Gone(PathBuf);

impl Gone {
    fn path(cpu: usize) -> PathBuf {
        PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online"))
    }

    fn new(cpu: usize) -> Result<Self> {
        let path = Self::path(cpu);
        fs::write(&path, "0").with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    fn come_back(self) -> Result<()> {
        fs::write(&self.0, "1").with_context(|| self.0.display().to_string())
    }
}

impl Drop for Gone {
    fn drop(&mut self) {
        // An error if it is back already.
        let _ = fs::write(&self.0, "1");
    }
}

/// Makes the flush that is owed, one way or another.
type Settle = fn(&Device) -> Result<()>;

fn a_flush_is_asked_for_while_a_cpu_is_gone(_: &Options) -> Result<()> {
    go_and_come_back(|device| {
        let flush = device.flush()?;
        ensure!(flush.nr_pages == NR_PAGES, "{flush:?}");
        Ok(())
    })
}

fn a_batch_grows_old_while_a_cpu_is_gone(_: &Options) -> Result<()> {
    let _again = with_short_age()?;
    go_and_come_back(await_release)
}

fn a_scope_ends_while_a_cpu_is_gone(_: &Options) -> Result<()> {
    go_and_come_back(|device| {
        device.leave()?;
        let pending = device.counters()?.nr_pending;
        ensure!(pending == 0, "{pending} pages are pending");
        Ok(())
    })
}

fn go_and_come_back(settle: Settle) -> Result<()> {
    let last = cpu::nr_cpus() - 1;
    if last < 2 || !Gone::path(last).exists() {
        return skip("no CPU can be taken out");
    }
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        for setup in [0, abi::SETUP_PFNMAP] {
            let name = strategy_name(strategy);
            one_round(last, strategy, setup, settle).context(name)?;
        }
    }
    if flush_ring::exists() {
        // It comes back to a ring that went on without it.
        let before = Counts::read()?;
        one_round(last, strategy::RING, abi::SETUP_RING, settle).context("ring")?;
        ensure!(Counts::read()?.since(&before, "published")? > 0, "no ring");
    }
    Ok(())
}

/// A thread that uses the pages on the CPU that is to go, then on another one, then there again.
fn one_round(gone: usize, strategy: u32, setup: u32, settle: Settle) -> Result<()> {
    let device = Device::open()?;
    device.setup(setup)?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Ordering::Relaxed));
    let step = AtomicU64::new(0);
    let reach = |nr| step.store(nr, Ordering::Release);
    let await_step = |nr| {
        while step.load(Ordering::Acquire) < nr {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let user = scope.spawn(|| {
            cpu::pin_worker(gone - 1)?;
            let seen = read_all(&mapping);
            cpu::pin_worker(0)?;
            reach(1);
            await_step(2);
            cpu::pin_worker(gone - 1)?;
            anyhow::Ok((seen, read_all(&mapping)))
        });
        await_step(1);
        let outcome = take_while_gone(&device, gone, strategy, settle);
        reach(2);
        let (before, after) = user.join().expect("the user does not panic")?;
        outcome?;
        ensure!(before == NR_PAGES * OLD, "it saw {before:#x} before");
        ensure!(after == 0, "it sees {after:#x} of the old pages");
        Ok(())
    })?;
    let counters = device.counters()?;
    ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    Ok(())
}

fn take_while_gone(device: &Device, cpu: usize, strategy: u32, settle: Settle) -> Result<()> {
    device.enter(strategy, None)?;
    let all = Selection::run(0, NR_PAGES);
    let reply = device.unmap(&all, strategy, abi::UNMAP_DEFER)?;
    ensure!(reply.nr_flush_calls == 0, "{reply:?}");
    let gone = Gone::new(cpu)?;
    settle(device)?;
    gone.come_back()
}

fn read_all(mapping: &Mapping) -> u64 {
    (0..NR_PAGES)
        .map(|page| mapping.word(page, 0).load(Ordering::Relaxed))
        .sum()
}
