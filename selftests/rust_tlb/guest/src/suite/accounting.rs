// SPDX-License-Identifier: GPL-2.0

//! Nothing drifts: after thousands of cycles the kernel's accounts are where they were.
//!
//! What the kernel itself checks at exit (rss counters, map counts, page states) it reports in its
//! log, and whoever runs these tests fails them for that.

use core::sync::atomic::Ordering::Relaxed;
use std::fs;

use anyhow::{ensure, Context, Result};

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::child::Child;
use crate::device::{Device, REAL_STRATEGIES};
use crate::ktap::Options;
use crate::mapping::Mapping;
use crate::memory_use::MemoryUse;
use crate::selection::Selection;
use crate::workers::{Shape, Workers};

crate::tests! {
    thousands_of_cycles_leave_no_trace within 120,
    shared_pages_leave_no_trace,
    freed_pages_go_back_to_the_system,
    kept_pages_are_used_again,
    the_peak_of_resident_pages_is_remembered,
}

const NR_CYCLES: u64 = 5000;

/// Pages in a cycle: those of one strategy, kept or freed, are more in half of the cycles than is noise.
const NR_PAGES: u64 = 4;

/// Differences in the own accounts that are noise: code that is used for the first time.
const OWN_NOISE_PAGES: i64 = 64;

/// As above for the system's: other processes come and go, and every CPU keeps some pages in stock.
const SYSTEM_NOISE_PAGES: i64 = 512;

/// Touches and unmaps, each cycle with the next strategy, and all of them by turns keeping the pages
/// and freeing them.
fn cycle(device: &Device, mapping: &Mapping, nr: u64) -> Result<()> {
    let strategy = REAL_STRATEGIES[nr as usize % REAL_STRATEGIES.len()];
    let turn = nr / REAL_STRATEGIES.len() as u64;
    let flags = if turn.is_multiple_of(2) {
        0
    } else {
        abi::UNMAP_FREE
    };
    for page in 0..NR_PAGES {
        let before = mapping.word(page, 0).swap(nr + 1, Relaxed);
        ensure!(before == 0, "cycle {nr}: page {page} holds {before:#x}");
    }
    let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy, flags)?;
    ensure!(reply.nr_pages == NR_PAGES, "cycle {nr}: {reply:?}");
    Ok(())
}

fn cycles(device: &Device, mapping: &Mapping, nr: u64) -> Result<MemoryUse> {
    (0..nr).try_for_each(|nr| cycle(device, mapping, nr))?;
    MemoryUse::read()
}

fn thousands_of_cycles_leave_no_trace(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    // Brings in the code, the pool and the page tables.
    let start = cycles(&device, &mapping, 100)?;
    let held = device.counters()?.nr_pages_held;
    let half = cycles(&device, &mapping, NR_CYCLES / 2)?;
    let end = cycles(&device, &mapping, NR_CYCLES / 2)?;
    println!("# {start:?}\n# {half:?}\n# {end:?}");
    expect_no_drift(start, half, end)?;
    ensure!(
        device.counters()?.nr_pages_held == held,
        "the device holds more pages"
    );
    let counters = device.counters()?;
    ensure!(
        counters.nr_unmapped == (NR_CYCLES + 100) * NR_PAGES,
        "{counters:?}"
    );
    ensure!(counters.nr_shared == 0, "{counters:?}");
    Ok(())
}

/// A difference between two readings.
struct Change {
    what: &'static str,
    pages: i64,
    noise: i64,
}

fn changes(from: MemoryUse, to: MemoryUse) -> [Change; 4] {
    let change = |what, pages, noise| Change { what, pages, noise };
    [
        change("file rss", to.file_rss - from.file_rss, OWN_NOISE_PAGES),
        change("rss", to.rss - from.rss, OWN_NOISE_PAGES),
        change("mapped", to.mapped - from.mapped, SYSTEM_NOISE_PAGES),
        // Memory that becomes free comes from others.
        change("free", (to.free - from.free).min(0), SYSTEM_NOISE_PAGES),
    ]
}

/// The accounts of this process are where they were: what others do does not change them.
fn expect_own_unchanged(from: MemoryUse, to: MemoryUse) -> Result<()> {
    for Change { what, pages, noise } in changes(from, to).into_iter().take(2) {
        ensure!(pages.abs() <= noise, "{what}: {pages:+} pages");
    }
    Ok(())
}

/// What drifts does so in both halves; what happens once does not.
fn expect_no_drift(start: MemoryUse, half: MemoryUse, end: MemoryUse) -> Result<()> {
    for (first, second) in changes(start, half).into_iter().zip(changes(half, end)) {
        let drifts = |change: &Change| change.pages.abs() > change.noise;
        ensure!(
            !(drifts(&first) && drifts(&second)),
            "{}: {:+} pages, then {:+}",
            first.what,
            first.pages,
            second.pages
        );
    }
    Ok(())
}

fn shared_pages_leave_no_trace(options: &Options) -> Result<()> {
    const NR_SHARED_CYCLES: u64 = 200;
    const NR_WARM_UPS: u64 = 20;
    let device = Device::open()?;
    let shape = Shape {
        processes: 3,
        threads: 1,
    };
    let nr_cycles = NR_SHARED_CYCLES * u64::from(options.effort);
    let workers = Workers::of_processes(&device, NR_PAGES, shape, Wait::Sleep, |worker| {
        let mut start = MemoryUse::read()?;
        for nr in 0..3 * nr_cycles {
            // By then the code is there, whose pages count as the process's own.
            if nr == NR_WARM_UPS {
                start = MemoryUse::read()?;
            }
            (0..NR_PAGES).for_each(|page| worker.mapping.word(page, 0).store(1, Relaxed));
            worker.step()?;
            worker.step()?;
        }
        expect_own_unchanged(start, MemoryUse::read()?)
    })?;
    let cycles = |nr| {
        (0..nr).try_for_each(|nr| shared_cycle(&device, &workers, nr))?;
        MemoryUse::read()
    };
    expect_no_drift(cycles(nr_cycles)?, cycles(nr_cycles)?, cycles(nr_cycles)?)?;
    workers.join()
}

fn shared_cycle(device: &Device, workers: &Workers, nr: u64) -> Result<()> {
    workers.step()?;
    let strategy = REAL_STRATEGIES[nr as usize % REAL_STRATEGIES.len()];
    device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_FREE)?;
    workers.step()
}

fn freed_pages_go_back_to_the_system(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let nr_pages = device.describe()?.nr_pages.min(1024);
    let mapping = device.map(nr_pages)?;
    let mut readings = Vec::new();
    for strategy in REAL_STRATEGIES
        .into_iter()
        .cycle()
        .take(2 * REAL_STRATEGIES.len())
    {
        touch_and_free(&device, &mapping, strategy)?;
        readings.push(MemoryUse::read()?);
    }
    // The first rounds fill the stocks of the CPUs. Each round frees more than is noise.
    let (start, half, end) = (readings[3], readings[6], readings[9]);
    println!("# {start:?}\n# {half:?}\n# {end:?}");
    expect_no_drift(start, half, end)
}

fn touch_and_free(device: &Device, mapping: &Mapping, strategy: u32) -> Result<()> {
    let nr_pages = mapping.nr_pages();
    (0..nr_pages).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
    let before = device.counters()?;
    ensure!(before.nr_pages_held == nr_pages, "{before:?}");
    device.unmap(&Selection::run(0, nr_pages), strategy, abi::UNMAP_FREE)?;
    let after = device.counters()?;
    ensure!(after.nr_pages_held == 0, "{after:?}");
    ensure!(after.nr_freed - before.nr_freed == nr_pages, "{after:?}");
    Ok(())
}

fn kept_pages_are_used_again(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    for nr in 0..20 {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
        let strategy = REAL_STRATEGIES[nr % REAL_STRATEGIES.len()];
        device.unmap(&Selection::run(0, NR_PAGES), strategy, 0)?;
        let held = device.counters()?.nr_pages_held;
        ensure!(held == NR_PAGES, "{held} pages held");
    }
    let counters = device.counters()?;
    ensure!(
        counters.nr_recycled == 20 * NR_PAGES && counters.nr_freed == 0,
        "{counters:?}"
    );
    Ok(())
}

/// Kilobytes that `/proc/self/status` tells under `name`.
fn status_kb(name: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no such line")?.parse()?)
}

/// Pages that a batch takes were resident: what a process had at most does not sink with them.
fn the_peak_of_resident_pages_is_remembered(_: &Options) -> Result<()> {
    for strategy in [strategy::PAGE, strategy::BROADCAST, strategy::PRECISE] {
        // In a new process, which begins with the peak that it has then.
        Child::fork(|| expect_peak(strategy))?.join()?;
    }
    Ok(())
}

fn expect_peak(strategy: u32) -> Result<()> {
    const NR_TOUCHED: u64 = 2048;
    // Counts of single tasks and CPUs that are not summed up yet.
    const NOISE_KB: u64 = 1024;
    let device = Device::open()?;
    let mapping = device.map(NR_TOUCHED)?;
    (0..NR_TOUCHED).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
    let resident = status_kb("VmRSS:")?;
    device.unmap(&Selection::run(0, NR_TOUCHED), strategy, 0)?;
    let (left, peak) = (status_kb("VmRSS:")?, status_kb("VmHWM:")?);
    println!("# {resident} kB were resident, {left} kB are; at most {peak} kB");
    ensure!(
        left + 4 * NR_TOUCHED <= resident + NOISE_KB,
        "{left} kB are left"
    );
    ensure!(peak + NOISE_KB >= resident, "the peak is {peak} kB");
    Ok(())
}
