// SPDX-License-Identifier: GPL-2.0

//! A CPU that was lazy while others flushed takes no interrupt, and catches up when it comes back.

use std::thread;
use std::time::Duration;

use anyhow::{ensure, Result};

use super::exact::NR_PAGES;
use super::ring_device;
use crate::abi::strategy;
use crate::barrier::Wait;
use crate::flush_ring::Counts;
use crate::ktap::Options;
use crate::residency::Probe;

/// After this, who waits is asleep.
pub(super) fn let_sleep() {
    thread::sleep(Duration::from_millis(20));
}

/// Flushes pages `first` and on, each by itself, while the CPU is lazy.
fn flush_lazy(nr: u64, expected: u64, name: &str) -> Result<()> {
    let device = ring_device()?;
    let probe = Probe::waiting(&device, NR_PAGES, Wait::Sleep)?;
    let before = Counts::read()?;
    probe.expect_evicted(expected, |device| {
        let_sleep();
        for page in 0..nr {
            device.invalidate(2 * page, 1, strategy::RING)?;
        }
        Ok(())
    })?;
    let after = Counts::read()?;
    let nr_times = after.since(&before, name)?;
    ensure!(nr_times > 0, "{:?}", after.grown(&before)?);
    Ok(())
}

pub fn a_lazy_cpu_catches_up_exactly(_: &Options) -> Result<()> {
    flush_lazy(1, 0x1, "lazy_exact")?;
    flush_lazy(8, 0x5555, "lazy_exact")
}

/// It holds the lock of its run queue: eight pages are enough.
pub fn a_lazy_cpu_that_missed_much_flushes_everything(_: &Options) -> Result<()> {
    flush_lazy(9, u64::MAX, "lazy_far")
}
