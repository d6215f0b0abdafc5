// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail: a call does what it is to do or says `ENOMEM`, nothing is lost or left
//! behind, and the device works afterwards.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{bail, ensure, Result};
use rustix::io::Errno;

use super::operations::{Fixture, Left, Operation, OPERATIONS};
use crate::abi::{self, strategy};
use crate::child::Child;
use crate::device::Device;
use crate::failing_allocations::FailingAllocations;
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::memory_use::{expect_no_leak, MemoryUse};
use crate::reclaim::Shrinkers;
use crate::selection::Selection;

/// Calls `test` where allocations can be made to fail.
fn where_possible(test: impl FnOnce(&FailingAllocations) -> Result<()>) -> Result<()> {
    match FailingAllocations::new()? {
        Some(failing) => test(&failing),
        None => skip("the kernel has no CONFIG_FAULT_INJECTION_DEBUG_FS"),
    }
}

/// Whoever is short of memory has none to give to those who make some.
pub fn no_allocation_is_needed_to_take_pages(_: &Options) -> Result<()> {
    // The shrinkers of others may want some.
    const MOST: u32 = 50;
    where_possible(|failing| {
        let shrinkers = Shrinkers::open()?;
        let (device, mapping) = super::written(0)?;
        let mut nr_runs = 0;
        for nr in 1..MOST {
            super::mark_every_other(&device, 0)?;
            let (ran, failed) = failing.nth(nr, || shrinkers.run())?;
            // Else the call itself could not allocate what it copies the text to.
            if ran.is_ok() {
                let counters = device.counters()?;
                ensure!(counters.nr_idle == 0, "allocation {nr}: {counters:?}");
                nr_runs += 1;
            }
            device.idle(0, super::NR_PAGES, abi::IDLE_UNMARK)?;
            (0..super::NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
            if !failed {
                break;
            }
        }
        ensure!(nr_runs > 0, "the shrinkers never ran");
        Ok(())
    })
}

/// What came of an operation, if it is what may come of it.
fn judge(operation: &Operation, done: Result<Left, Errno>) -> Result<bool> {
    match done {
        Ok(left) => left.finish().map(|()| true),
        Err(Errno::NOMEM) => Ok(false),
        Err(errno) => bail!("{}: {errno}", operation.name),
    }
}

/// One allocation fails, the first of the call, then the second, and so on.
pub fn each_allocation_may_fail(_: &Options) -> Result<()> {
    fail_each_of_all(Fixture::new)
}

/// A bundle is allocated page by page: those that there are go again if one is missing.
pub fn each_allocation_of_a_bundle_may_fail(_: &Options) -> Result<()> {
    for flavour in [0, abi::SETUP_NOTIFY] {
        let setup = abi::SETUP_PFNMAP | abi::SETUP_BUNDLES | flavour;
        fail_each_of_all(|| Fixture::of_folios(setup, 2))?;
    }
    Ok(())
}

fn fail_each_of_all(fixture: impl FnOnce() -> Result<Fixture>) -> Result<()> {
    where_possible(|failing| {
        let fixture = fixture()?;
        for operation in OPERATIONS {
            let (nr_allocations, nr_errors) = fail_each(failing, &fixture, operation)?;
            let name = operation.name;
            println!("# {name}: {nr_allocations} allocations, {nr_errors} errors");
        }
        expect_nothing_left(fixture)
    })
}

fn fail_each(
    failing: &FailingAllocations,
    fixture: &Fixture,
    operation: &Operation,
) -> Result<(u32, u32)> {
    const MOST: u32 = 2000;
    let mut nr_errors = 0;
    for nr in 1..MOST {
        (operation.prepare)(fixture)?;
        let (done, failed) = failing.nth(nr, || (operation.run)(fixture))?;
        let succeeded = judge(operation, done)?;
        fixture.settle(operation)?;
        if !failed {
            ensure!(succeeded, "{}: ENOMEM for no reason", operation.name);
            return Ok((nr - 1, nr_errors));
        }
        nr_errors += u32::from(!succeeded);
    }
    bail!("{}: more than {MOST} allocations", operation.name);
}

/// Several allocations fail, at random.
pub fn many_allocations_may_fail(options: &Options) -> Result<()> {
    where_possible(|failing| {
        let fixture = Fixture::new()?;
        let mut readings = Vec::new();
        let (mut nr_done, mut nr_errors) = (0, 0);
        for percent in [10, 30, 60] {
            failing.set_percent(percent)?;
            for _ in 0..10 * options.effort {
                let (done, errors) = fail_some(failing, &fixture)?;
                (nr_done, nr_errors) = (nr_done + done, nr_errors + errors);
            }
            readings.push(MemoryUse::read()?);
        }
        failing.set_percent(0)?;
        println!("# {nr_done} done, {nr_errors} errors");
        ensure!(nr_done > 0 && nr_errors > 0, "all or nothing");
        expect_no_leak(&readings)?;
        expect_nothing_left(fixture)
    })
}

/// One turn of all operations; how many were done, and how many were not.
fn fail_some(failing: &FailingAllocations, fixture: &Fixture) -> Result<(u32, u32)> {
    let (mut nr_done, mut nr_errors) = (0, 0);
    for operation in OPERATIONS {
        (operation.prepare)(fixture)?;
        let done = failing.at_random(|| (operation.run)(fixture))?;
        match judge(operation, done)? {
            true => nr_done += 1,
            false => nr_errors += 1,
        }
        fixture.settle(operation)?;
    }
    Ok((nr_done, nr_errors))
}

/// Everything works again, and all pages can be given back.
fn expect_nothing_left(fixture: Fixture) -> Result<()> {
    for operation in OPERATIONS {
        (operation.prepare)(&fixture)?;
        let done = judge(operation, (operation.run)(&fixture))?;
        ensure!(done, "{}: ENOMEM for no reason", operation.name);
        fixture.settle(operation)?;
    }
    let device: Device = fixture.into_device();
    let describe = device.describe()?;
    let all = Selection::run(0, describe.nr_pages.min(describe.max_list.into()));
    device.unmap(&all, strategy::BROADCAST, abi::UNMAP_FREE)?;
    Shrinkers::open()?.run()?;
    let counters = device.counters()?;
    println!("# {counters:?}");
    ensure!(counters.nr_pages_held == 0, "{counters:?}");
    Ok(())
}

/// A fork that fails halfway through the PTEs, of two page tables, undoes what it has copied.
pub fn a_fork_may_fail_halfway(_: &Options) -> Result<()> {
    const NR_MANY: u64 = 600;
    const MOST: u32 = 2000;
    where_possible(|failing| {
        for flavour in [
            0,
            abi::SETUP_NOTIFY,
            abi::SETUP_PFNMAP,
            abi::SETUP_PFNMAP | abi::SETUP_NOTIFY,
        ] {
            let device = Device::open()?;
            device.setup(flavour)?;
            let mapping = Mapping::of_tables(&device, NR_MANY)?;
            (0..NR_MANY).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
            let mut nr_failed = 0;
            for nr in 1..MOST {
                let (child, failed) = failing.nth(nr, || Child::fork_with_code(|| 0))?;
                match child {
                    Ok(child) => child.join()?,
                    Err(_) => nr_failed += 1,
                }
                if !failed {
                    break;
                }
            }
            println!("# flavour {flavour}: {nr_failed} forks failed");
            ensure!(nr_failed > 0, "no fork failed");
            let kept = |page| mapping.word(page, 0).load(Relaxed) == page + 1;
            ensure!((0..NR_MANY).all(kept), "the parent has lost pages");
            let all = Selection::run(0, NR_MANY);
            let reply = device.unmap(&all, strategy::PRECISE, abi::UNMAP_FREE)?;
            ensure!(reply.nr_ptes == NR_MANY, "{reply:?}");
            let counters = device.counters()?;
            ensure!(counters.nr_pages_held == 0, "{counters:?}");
        }
        Ok(())
    })
}
