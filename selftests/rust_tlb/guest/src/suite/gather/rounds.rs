// SPDX-License-Identifier: GPL-2.0

//! Many VMAs of one process, and one VMA of each of many processes.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::counted::{CountedDevice, Touch};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};
use crate::workers::{Shape, Workers};

const NR_VMAS: u64 = 64;
const NR_PROCESSES: usize = 64;
const NR_THREADS: usize = 4;
/// Of which the most common counts: one may be spoilt.
const NR_ROUNDS: u32 = 3;

/// A mapping of a page more than `nr`, in a page table of its own. Each page is a VMA.
fn in_single_vmas(device: &Device, nr: u64) -> Result<Mapping> {
    let mut mapping = Mapping::of_tables(device, PAGES_PER_TABLE)?.only(nr + 1);
    for page in (1..nr).step_by(2) {
        mapping.replace(device, page, 1)?;
    }
    Ok(mapping)
}

/// VMAs of this process that lie in `mapping`.
fn nr_vmas(mapping: &Mapping) -> Result<u64> {
    let first = mapping.address() as u64;
    let end = first + mapping.nr_pages() * PAGE_SIZE as u64;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let starts = maps.lines().filter_map(|line| line.split('-').next());
    let inside = starts
        .filter_map(|start| u64::from_str_radix(start, 16).ok())
        .filter(|start| (first..end).contains(start));
    Ok(inside.count() as u64)
}

/// Rounds that other CPUs were asked in, and calls, for pages that are a VMA each.
fn count(options: &Options, setup: u32, strategy: u32) -> Result<(u64, u64)> {
    let device = Device::open()?;
    device.setup(setup)?;
    let mapping = in_single_vmas(&device, NR_VMAS)?;
    let found = nr_vmas(&mapping)?;
    ensure!(found >= NR_VMAS, "{found} VMAs");
    let counted = CountedDevice::over(device, mapping, NR_THREADS, Touch::Read)?;
    let rounds = (0..NR_ROUNDS * options.effort)
        .map(|_| counted.round(&Selection::run(0, NR_VMAS), strategy))
        .collect::<Result<Vec<_>>>()?;
    let remote = most_common(rounds.iter().map(|round| round.events.remote_flush));
    let calls = most_common(rounds.iter().map(|round| round.reply.nr_flush_calls));
    println!("# {remote} rounds, {calls} calls");
    Ok((remote, calls))
}

/// For pages with references, and for those without.
fn expect(options: &Options, strategy: u32, expected: (u64, u64)) -> Result<()> {
    if cpu::nr_cpus() < NR_THREADS {
        return skip(format!("{NR_THREADS} CPUs are needed"));
    }
    for setup in [0, abi::SETUP_PFNMAP] {
        let found = count(options, setup, strategy)?;
        ensure!(found == expected, "setup {setup}: {found:?}");
    }
    Ok(())
}

pub fn unmap_mapping_takes_a_round_per_vma(options: &Options) -> Result<()> {
    expect(options, strategy::UNMAP_MAPPING, (NR_VMAS, 1))
}

pub fn zap_takes_a_round_per_vma(options: &Options) -> Result<()> {
    expect(options, strategy::ZAP, (NR_VMAS, NR_VMAS))
}

pub fn a_gather_takes_one_round_for_many_vmas(options: &Options) -> Result<()> {
    expect(options, strategy::GATHER, (1, 1))
}

pub fn a_batch_takes_one_round_for_many_vmas(options: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        expect(options, strategy, (1, 1))?;
    }
    Ok(())
}

/// Rounds and calls for a page that `workers`, which sleep, map with a VMA each.
fn count_processes(
    options: &Options,
    device: &Device,
    workers: &Workers,
    strategy: u32,
) -> Result<(u64, u64)> {
    let read = || TlbEvents::read()?.context("the kernel has no CONFIG_DEBUG_TLBFLUSH");
    let (mut rounds, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..NR_ROUNDS * options.effort {
        workers.step()?;
        let before = read()?;
        let reply = device.unmap(&Selection::run(0, 1), strategy, 0)?;
        rounds.push(read()?.since(before).remote_flush);
        calls.push(reply.nr_flush_calls);
        workers.step()?;
    }
    println!(
        "# {}: {rounds:?} rounds, {calls:?} calls",
        strategy_name(strategy)
    );
    Ok((most_common(rounds), most_common(calls)))
}

/// A process that sleeps has last run on one CPU, which is in its mask: its flush is a round, though
/// it may interrupt nobody.
pub fn many_processes_take_a_round_each_but_in_a_batch(options: &Options) -> Result<()> {
    let nr = NR_PROCESSES as u64;
    let device = Device::open()?;
    let shape = Shape {
        processes: NR_PROCESSES,
        threads: 1,
    };
    let workers = Workers::of_processes(&device, 1, shape, Wait::Sleep, |worker| loop {
        worker.mapping.word(0, 0).load(Relaxed);
        worker.step()?;
        worker.step()?;
    })?;
    for (strategy, expected) in [
        (strategy::GATHER, (nr, nr)),
        (strategy::ZAP, (nr, nr)),
        (strategy::UNMAP_MAPPING, (nr, 1)),
        (strategy::BROADCAST, (1, 1)),
        (strategy::PRECISE, (1, 1)),
    ] {
        let found = count_processes(options, &device, &workers, strategy)?;
        let name = strategy_name(strategy);
        ensure!(found == expected, "{name}: {found:?}, not {expected:?}");
    }
    Ok(())
}

/// Rounds of an unmap of all VMAs in one call, as munmap does it.
fn count_munmap(options: &Options, prepare: impl Fn() -> Result<Mapping>) -> Result<u64> {
    let mut rounds = Vec::new();
    for _ in 0..NR_ROUNDS * options.effort {
        let counted = CountedDevice::over(Device::open()?, prepare()?, NR_THREADS, Touch::Read)?;
        let ((), events) = counted.counted(|_| Ok(counted.mapping().bury()?))?;
        rounds.push(events.remote_flush);
    }
    println!("# munmap: {rounds:?} rounds");
    Ok(most_common(rounds))
}

/// Before it unlinks VMAs of PFNs, the kernel flushes what it has cleared of them; the page tables
/// that it frees then are a second round. Pages of any other file go in one.
pub fn munmap_of_pfns_takes_a_round_more(options: &Options) -> Result<()> {
    if cpu::nr_cpus() < NR_THREADS {
        return skip(format!("{NR_THREADS} CPUs are needed"));
    }
    for setup in [0, abi::SETUP_PFNMAP] {
        let rounds = count_munmap(options, || {
            let device = Device::open()?;
            device.setup(setup)?;
            in_single_vmas(&device, NR_VMAS)
        })?;
        ensure!(rounds == 2, "setup {setup}: {rounds} rounds");
    }
    let rounds = count_munmap(options, || {
        Ok(Mapping::of_memory(PAGES_PER_TABLE)?.only(NR_VMAS + 1))
    })?;
    ensure!(rounds == 1, "ordinary memory: {rounds} rounds");
    Ok(())
}
