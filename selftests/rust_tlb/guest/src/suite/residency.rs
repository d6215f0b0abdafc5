// SPDX-License-Identifier: GPL-2.0

//! How much a flush evicts, told by the Accessed bits: no more and no less than it should.

use anyhow::{ensure, Result};

use crate::abi::strategy;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::residency::Probe;

crate::tests! {
    without_a_flush_everything_stays,
    a_precise_flush_evicts_exactly_its_page,
    a_precise_flush_evicts_exactly_its_range,
    a_flush_of_the_caller_evicts_nothing_elsewhere,
    a_broadcast_evicts_everything,
    the_negative_control_evicts_nothing,
}

const NR_PAGES: u64 = 8;
const ALL: u64 = (1 << NR_PAGES) - 1;
const NR_ROUNDS: u64 = 20;

fn without_a_flush_everything_stays(options: &Options) -> Result<()> {
    let device = Device::open()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    for _ in 0..NR_ROUNDS * u64::from(options.effort) {
        probe.expect_evicted(0, |_| Ok(()))?;
    }
    Ok(())
}

fn a_precise_flush_evicts_exactly_its_page(options: &Options) -> Result<()> {
    let device = Device::open()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    for round in 0..NR_ROUNDS * u64::from(options.effort) {
        let page = round % NR_PAGES;
        probe.expect_evicted(1 << page, |device| precise(device, page, 1))?;
    }
    Ok(())
}

fn a_precise_flush_evicts_exactly_its_range(options: &Options) -> Result<()> {
    let device = Device::open()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    for round in 0..NR_ROUNDS * u64::from(options.effort) {
        let (first, nr) = (round % 5, 2 + round % 3);
        let pages = ((1 << nr) - 1) << first;
        probe.expect_evicted(pages, |device| precise(device, first, nr))?;
    }
    Ok(())
}

fn precise(device: &Device, first: u64, nr: u64) -> Result<()> {
    let calls = device.invalidate(first, nr, strategy::PRECISE)?;
    ensure!(calls == 1, "{calls} flush calls for one mm");
    Ok(())
}

/// Mappings as the caller's `mmap_lock` shows them, not the lock of the file.
fn a_flush_of_the_caller_evicts_nothing_elsewhere(options: &Options) -> Result<()> {
    let device = Device::open()?;
    let own = |device: &Device, page| {
        let calls = device.invalidate_own(page, 1, strategy::PRECISE)?;
        ensure!(calls == 1, "{calls} flush calls for the caller's mm");
        Ok(())
    };
    let nr_rounds = NR_ROUNDS * u64::from(options.effort);
    let probe = Probe::new(&device, NR_PAGES)?;
    for page in (0..nr_rounds).map(|round| round % NR_PAGES) {
        probe.expect_evicted(1 << page, |device| own(device, page))?;
    }
    drop(probe);
    // Now another process has them, and the caller has them, too. Only then: what is forked has it all.
    let probe = Probe::of_processes(&device, NR_PAGES, 1)?;
    let _mapping = device.map(NR_PAGES)?;
    for page in (0..nr_rounds).map(|round| round % NR_PAGES) {
        probe.expect_evicted(0, |device| own(device, page))?;
        probe.expect_evicted(1 << page, |device| {
            let calls = device.invalidate(page, 1, strategy::PRECISE)?;
            ensure!(calls == 2, "{calls} flush calls for two processes");
            Ok(())
        })?;
    }
    Ok(())
}

fn a_broadcast_evicts_everything(options: &Options) -> Result<()> {
    let device = Device::open()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    for round in 0..NR_ROUNDS * u64::from(options.effort) {
        probe.expect_evicted(ALL, |device| {
            let calls = device.invalidate(round % NR_PAGES, 1, strategy::BROADCAST)?;
            ensure!(calls == 1, "{calls} flush calls");
            Ok(())
        })?;
    }
    Ok(())
}

fn the_negative_control_evicts_nothing(_: &Options) -> Result<()> {
    let device = Device::open()?;
    if device.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    let probe = Probe::new(&device, NR_PAGES)?;
    for _ in 0..NR_ROUNDS {
        probe.expect_evicted(0, |device| {
            device.invalidate(0, NR_PAGES, strategy::NONE)?;
            Ok(())
        })?;
    }
    Ok(())
}
