// SPDX-License-Identifier: GPL-2.0

//! Under the eyes of the stale-access oracle: no reference keeps a page from being reused too early,
//! only the flush does.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;

use anyhow::Result;

use super::{all, new_device, BATCHES, NR_PAGES};
use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::child::Child;
use crate::cpu;
use crate::device::{strategy_name, Device, REAL_STRATEGIES};
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::{Access, Ledger, Report, Watcher};
use crate::workers::Shape;

const NR_PASSES: u64 = 100;

fn workers() -> usize {
    cpu::nr_cpus() - 1
}

fn watch_by_processes(device: &Device, processes: usize, access: Access) -> Result<Oracle> {
    let shape = Shape {
        processes,
        threads: workers() / processes,
    };
    let oracle = Oracle::of_processes(device, NR_PAGES, shape, access)?;
    oracle.await_passes(8)?;
    Ok(oracle)
}

pub fn the_oracle_is_silent(options: &Options) -> Result<()> {
    for strategy in REAL_STRATEGIES {
        for processes in [1, workers()] {
            let device = new_device()?;
            let oracle = watch_by_processes(&device, processes, Access::ReadWrite)?;
            for round in 0..2 * u64::from(options.effort) {
                take_pages(&device, &oracle, strategy, round)?;
            }
            let report = oracle.finish(&device)?;
            println!("# {}: {report:?}", strategy_name(strategy));
            report.expect_silence()?;
        }
    }
    Ok(())
}

/// Takes every other page, then all; by a batch, that is deferred once, too.
fn take_pages(device: &Device, oracle: &Oracle, strategy: u32, round: u64) -> Result<()> {
    oracle.unmap(
        device,
        &Selection::scattered(round % 2, NR_PAGES / 2),
        strategy,
        0,
    )?;
    oracle.await_passes(NR_PASSES)?;
    if BATCHES.contains(&strategy) {
        oracle.unmap(device, &all(), strategy, abi::UNMAP_DEFER)?;
        oracle.await_passes(NR_PASSES)?;
        oracle.flush(device)?;
    } else {
        oracle.unmap(device, &all(), strategy, 0)?;
    }
    oracle.await_passes(NR_PASSES)
}

/// Released means poisoned and in the pool, from where the next fault takes it.
pub fn a_release_before_the_flush_is_seen_every_time(_: &Options) -> Result<()> {
    const NR_RUNS: u32 = 20;
    if Device::open()?.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    for strategy in BATCHES {
        println!("# {}", strategy_name(strategy));
        caught_every_time(NR_RUNS / BATCHES.len() as u32, || {
            let (report, undisturbed) = release_before_the_flush(strategy)?;
            let caught = report.nr_stale > 0;
            Ok(Attempt::judge(caught, undisturbed, || {
                format!("{report:?}")
            }))
        })?;
    }
    Ok(())
}

/// Who reads only goes on with the old translation, until the flush.
fn release_before_the_flush(strategy: u32) -> Result<(Report, bool)> {
    let device = new_device()?;
    let oracle = watch_by_processes(&device, 1, Access::Read)?;
    let stillness = oracle.await_residency(&device)?;
    let flags = abi::UNMAP_BREAK_RELEASE | abi::UNMAP_DEFER;
    oracle.unmap(&device, &all(), strategy, flags)?;
    oracle.await_passes(8)?;
    let undisturbed = stillness.map_or(Ok(false), |s| s.lasted())?;
    oracle.flush(&device)?;
    Ok((oracle.finish(&device)?, undisturbed))
}

/// Workers of the oracle that do nothing but watch.
const NR_WATCHING: usize = 2;
/// Unmaps, and turns of the racer, at least.
const NR_UNMAPS: u64 = 100;
const NR_TURNS: u64 = 50;

/// What one who races with the driver does, over and over. The mapping is the one that the oracle's
/// workers use.
type Turn = fn(&Device, &Mapping, &mut Watcher<'_>) -> Result<()>;

/// munmap clears PTEs, and flushes some time after: whoever finds them empty must not take the page
/// for unused.
pub fn munmap_while_pages_are_taken(options: &Options) -> Result<()> {
    race(options, |device, mapping, watcher| {
        mapping.renew(device)?;
        watcher.pass(mapping, Access::ReadWrite);
        Ok(())
    })
}

pub fn exits_while_pages_are_taken(options: &Options) -> Result<()> {
    race(options, |device, mapping, watcher| {
        watcher.pass(mapping, Access::ReadWrite);
        let child = Child::fork(|| {
            // Ends with two mappings: the one that it was born with, and its own.
            let own = core::mem::ManuallyDrop::new(device.map(NR_PAGES)?);
            watcher.pass(&own, Access::Read);
            watcher.pass(mapping, Access::Read);
            Ok(())
        })?;
        child.join()
    })
}

fn race(options: &Options, turn: Turn) -> Result<()> {
    let device = new_device()?;
    let mapping = Arc::new(device.map(NR_PAGES)?);
    let oracle = Oracle::of_threads(&mapping, NR_WATCHING, 1, Access::ReadWrite)?;
    let (ledger, slot) = (oracle.ledger().clone(), oracle.spare_slot());
    let nr_taken = AtomicU64::new(0);
    thread::scope(|scope| {
        let racer = scope.spawn(|| take_turns(&device, &mapping, &ledger, slot, turn, &nr_taken));
        let enough = || racer.is_finished() || nr_taken.load(Ordering::Relaxed) >= NR_TURNS;
        let driven = drive(options, &device, &oracle, enough);
        oracle.stop();
        racer.join().expect("the racer does not panic").and(driven)
    })?;
    let report = oracle.finish(&device)?;
    let counters = device.counters()?;
    println!(
        "# {} turns, {report:?}\n# {counters:?}",
        nr_taken.into_inner()
    );
    report.expect_silence()
}

fn take_turns(
    device: &Device,
    mapping: &Mapping,
    ledger: &Ledger,
    slot: usize,
    turn: Turn,
    nr_taken: &AtomicU64,
) -> Result<()> {
    // The racer's CPU comes after those of the watching workers.
    cpu::pin_worker(NR_WATCHING)?;
    let mut watcher = Watcher::new(ledger, slot);
    while !ledger.stopped() {
        turn(device, mapping, &mut watcher)?;
        nr_taken.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Takes random pages by batches, some of them deferred, so that the pool gives them out again.
fn drive(
    options: &Options,
    device: &Device,
    oracle: &Oracle,
    enough: impl Fn() -> bool,
) -> Result<()> {
    let mut rng = options.rng();
    let mut nr_unmaps = 0;
    while nr_unmaps < NR_UNMAPS * u64::from(options.effort) || !enough() {
        oracle.await_next_pass()?;
        let nr = rng.usize(1..NR_PAGES as usize);
        let selection = Selection::random(&mut rng, NR_PAGES, nr);
        let defer = if rng.bool() { abi::UNMAP_DEFER } else { 0 };
        let strategy = BATCHES[rng.usize(..BATCHES.len())];
        oracle.unmap(device, &selection, strategy, defer)?;
        if defer != 0 && rng.bool() {
            oracle.flush(device)?;
        }
        nr_unmaps += 1;
    }
    Ok(())
}
