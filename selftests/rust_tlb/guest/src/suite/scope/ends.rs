// SPDX-License-Identifier: GPL-2.0

//! Scopes that do not end in order: errors, kills, closed files.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::thread;

use anyhow::{ensure, Result};
use rustix::io::Errno;

use super::{
    enter, expect_fresh, expect_levels, expect_released, leave, unmap_and_owe, written, NR_AT_ONCE,
    NR_PAGES, STRATEGIES,
};
use crate::abi::{self, strategy};
use crate::child::Child;
use crate::cpu;
use crate::device::Device;
use crate::ktap::Options;
use crate::oracle::Oracle;
use crate::pending::{await_release, with_short_age};
use crate::selection::Selection;
use crate::shared::Shared;
use crate::watcher::Access;
use crate::workers::Shape;

/// What was unmapped before is still owed, and flushed in the end.
pub fn a_refused_unmap_changes_nothing(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = written()?;
        enter(&device, strategy, None, 1)?;
        unmap_and_owe(&device, strategy, 0)?;
        for (errno, bad) in bad_unmaps(&device, strategy)? {
            let mut argument = bad;
            let answer = device.call(&mut argument);
            ensure!(answer == Err(errno), "{bad:?}: {answer:?}");
            let counters = device.counters()?;
            ensure!(
                counters.nr_pending == NR_AT_ONCE && counters.nr_recycled == 0,
                "after {bad:?}: {counters:?}"
            );
        }
        unmap_and_owe(&device, strategy, NR_AT_ONCE)?;
        leave(&device, 1, 0, 0)?;
        expect_released(&device, 2 * NR_AT_ONCE)?;
        expect_fresh(&mapping, 2 * NR_AT_ONCE)?;
    }
    Ok(())
}

/// Unmaps of pages that are mapped, each with something wrong.
fn bad_unmaps(device: &Device, strategy: u32) -> Result<[(Errno, abi::Unmap); 6]> {
    let end = device.describe()?.nr_pages;
    let pages = Selection::run(NR_AT_ONCE, NR_AT_ONCE);
    let other = STRATEGIES.into_iter().find(|&other| other != strategy);
    let misaligned = abi::Unmap {
        offset: 1,
        ..pages.unmap(strategy, 0)
    };
    let no_list = abi::Unmap {
        list: 0,
        ..Selection::List(vec![5]).unmap(strategy, 0)
    };
    Ok([
        (Errno::INVAL, misaligned),
        (Errno::NXIO, Selection::run(end, 1).unmap(strategy, 0)),
        (Errno::FAULT, no_list),
        (Errno::INVAL, pages.unmap(strategy::ZAP, 0)),
        (Errno::INVAL, pages.unmap(strategy::PAGE, 0)),
        (Errno::INVAL, pages.unmap(other.unwrap_or(strategy::NR), 0)),
    ])
}

/// The file of a scope, in use by other processes, who look for old pages.
fn watched() -> Result<(Device, Oracle)> {
    let device = Device::open()?;
    let shape = Shape {
        processes: cpu::nr_cpus() - 1,
        threads: 1,
    };
    let oracle = Oracle::of_processes(&device, NR_PAGES, shape, Access::ReadWrite)?;
    oracle.await_passes(8)?;
    Ok((device, oracle))
}

/// Forks a process that does `work`, and kills it afterwards.
fn kill_after(work: impl FnOnce() -> Result<()>) -> Result<()> {
    let done: Shared<AtomicU32> = Shared::new(1)?;
    let child = Child::fork(|| {
        work()?;
        done[0].store(1, Ordering::Release);
        loop {
            thread::sleep(Duration::from_secs(1));
        }
    })?;
    while done[0].load(Ordering::Acquire) == 0 {
        child.check_alive()?;
        thread::sleep(Duration::from_millis(1));
    }
    let status = child.kill()?;
    ensure!(status.terminating_signal() == Some(9), "{status:?}");
    Ok(())
}

/// Has a process killed in the scope of `device`, with a flush owed.
fn kill_in_scope(device: &Device, oracle: &Oracle, strategy: u32) -> Result<()> {
    kill_after(|| {
        let mapping = device.map(NR_PAGES)?;
        mapping.word(0, 0).load(Ordering::Relaxed);
        device.enter(strategy, None)?;
        // As if deferred: the oracle allows old pages until it is told of the flush.
        let pages = Selection::run(0, NR_PAGES);
        let reply = oracle.unmap(device, &pages, strategy, abi::UNMAP_DEFER)?;
        ensure!(reply.nr_flush_calls == 0, "{reply:?}");
        Ok(())
    })
}

fn expect_silence(device: &Device, oracle: Oracle) -> Result<()> {
    oracle.await_passes(200)?;
    let report = oracle.finish(device)?;
    println!("# {report:?}");
    report.expect_silence()
}

/// The file is still open, and in its scope.
pub fn a_killed_process_leaves_the_rest_to_others(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, oracle) = watched()?;
        for _ in 0..3 {
            kill_in_scope(&device, &oracle, strategy)?;
            expect_levels(&device.leave()?, 0, 0)?;
            oracle.ledger().end_all();
            oracle.await_passes(50)?;
        }
        expect_silence(&device, oracle)?;
    }
    Ok(())
}

/// It is for nobody to leave: the pages are released when they are old.
pub fn nobody_has_to_leave_for_old_pages_to_be_released(_: &Options) -> Result<()> {
    let _again = with_short_age()?;
    for strategy in STRATEGIES {
        let (device, oracle) = watched()?;
        kill_in_scope(&device, &oracle, strategy)?;
        await_release(&device)?;
        oracle.ledger().end_all();
        expect_silence(&device, oracle)?;
        // The scope is still there, and so is its end.
        leave(&device, 0, 0, 0)?;
    }
    Ok(())
}

/// Its own file is closed for the last time by the kill, with another one's scope entered.
pub fn a_dead_process_of_another_file_has_left(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (outer, mapping) = written()?;
        enter(&outer, strategy, None, 1)?;
        kill_after(|| {
            let (inner, _mapping) = written()?;
            enter(&inner, strategy, Some(&outer), 2)?;
            unmap_and_owe(&outer, strategy, 0)?;
            unmap_and_owe(&inner, strategy, 0)?;
            // Not dropped before the kill.
            core::mem::forget((inner, _mapping));
            Ok(())
        })?;
        expect_levels(&outer.leave()?, 0, 0)?;
        expect_released(&outer, NR_AT_ONCE)?;
        expect_fresh(&mapping, NR_AT_ONCE)?;
    }
    Ok(())
}

/// Closed without having left: by descriptor first, or by mapping.
pub fn a_scope_ends_with_the_file(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        for descriptor_first in [true, false] {
            let (device, mapping) = written()?;
            enter(&device, strategy, None, 1)?;
            enter_again(&device, strategy)?;
            unmap_and_owe(&device, strategy, 0)?;
            if descriptor_first {
                drop(device);
                // A fault flushes, in a scope that nobody can leave any more.
                let fresh = mapping.word(NR_PAGES - 1, 0).load(Ordering::Relaxed);
                ensure!(fresh == NR_PAGES, "a page that was not unmapped");
                drop(mapping);
            } else {
                drop(mapping);
                drop(device);
            }
        }
    }
    // What is left of the device works.
    let (device, mapping) = written()?;
    device.unmap(&Selection::run(0, NR_AT_ONCE), strategy::BROADCAST, 0)?;
    expect_released(&device, NR_AT_ONCE)?;
    expect_fresh(&mapping, NR_AT_ONCE)
}

fn enter_again(device: &Device, strategy: u32) -> Result<()> {
    expect_levels(&device.enter(strategy, None)?, 2, 2)
}

/// The scope outlives the file that opened it.
pub fn the_first_file_may_be_closed_first(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (outer, outer_mapping) = written()?;
        let (inner, inner_mapping) = written()?;
        enter(&outer, strategy, None, 1)?;
        enter(&inner, strategy, Some(&outer), 2)?;
        unmap_and_owe(&inner, strategy, 0)?;
        unmap_and_owe(&outer, strategy, 0)?;
        drop((outer_mapping, outer));
        let left = inner.leave()?;
        expect_levels(&left, 0, 0)?;
        expect_released(&inner, NR_AT_ONCE)?;
        expect_fresh(&inner_mapping, NR_AT_ONCE)?;
    }
    Ok(())
}
