// SPDX-License-Identifier: GPL-2.0

//! How many flush rounds and IPIs an unmap costs, by the kernel's own counters.
//!
//! Every CPU but the driver's spins on ordinary memory, so that none is lazy. Rounds are asserted
//! as the most common of several; IPIs are bounded from above, since a CPU that a kernel thread
//! borrows for a moment takes none.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::time::Instant;

use anyhow::{ensure, Result};

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::counted::{CountedDevice, MappedBy, Round};
use crate::cpu;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};
use crate::workers::{Shape, Workers};

crate::tests! {
    page_takes_a_round_per_page_and_mm within 120,
    zap_takes_a_round_per_page_and_mm,
    unmap_mapping_takes_a_round_per_run_and_mm,
    unmap_mapping_takes_a_round_per_scattered_page_and_mm,
    broadcast_takes_one_round,
    precise_takes_a_round_per_mm,
    precise_takes_one_round_where_all_is_flushed_in_full,
    no_flush_takes_no_round,
    interrupts_are_the_ipis_received,
    precise_gives_way_to_broadcast_over_eight_mms,
}

const NR_CPUS: usize = 4;
const NR_PAGES: u64 = 512;

/// Rounds of which the most common counts, and how many have to do where they take long.
const NR_ROUNDS: u32 = 5;
const MIN_ROUNDS: usize = 3;

/// Time after which the fewest rounds have to do.
const PATIENCE: Duration = Duration::from_secs(3);

/// As many where a round per page is only there to compare with: where the machine has fewer CPUs
/// than the guest, a round takes as long as it takes to run all of them.
const NR_FEW_PAGES: u64 = 64;

/// Every other page of so many lies within the kernel's ceiling for ranged flushes, 33 pages.
const NR_NEAR_PAGES: u64 = 16;

/// IPIs of which a round has at most so many.
pub(super) const NR_OTHER_CPUS: u64 = NR_CPUS as u64 - 1;

/// A thread, or a process, on each CPU.
const MAPPED_BY: [MappedBy; 2] = [MappedBy::Threads(NR_CPUS), MappedBy::Processes(NR_CPUS)];

/// IPIs that a long unmap may see beside its own: sweeps of CPUs that an mm has left, at most one per
/// second and mm, and what else goes on.
const IPI_NOISE: u64 = 12;

/// What a number of rounds have in common.
#[derive(Debug)]
struct Count {
    /// Rounds that asked other CPUs.
    remote: u64,
    /// Flushes that the initiator did on its own CPU, a page at a time or full.
    local: u64,
    ipis: u64,
    calls: u64,
}

fn count(
    options: &Options,
    mapped_by: MappedBy,
    selection: &Selection,
    strategy: u32,
) -> Result<Count> {
    let rounds = run(options, mapped_by, selection, strategy)?;
    let common = |value: fn(&Round) -> u64| most_common(rounds.iter().map(value));
    let count = Count {
        remote: common(|round| round.events.remote_flush),
        local: common(|round| round.events.local_flush_one + round.events.local_flush_all),
        ipis: common(|round| round.events.remote_flush_received),
        calls: common(|round| round.reply.nr_flush_calls),
    };
    println!("# {mapped_by:?}: {count:?}");
    Ok(count)
}

fn run(
    options: &Options,
    mapped_by: MappedBy,
    selection: &Selection,
    strategy: u32,
) -> Result<Vec<Round>> {
    let counted = CountedDevice::new(mapped_by, 2 * NR_PAGES)?;
    let nr_pages = selection.pages().len() as u64;
    let start = Instant::now();
    let mut rounds = Vec::new();
    for _ in 0..NR_ROUNDS * options.effort {
        let round = counted.round(selection, strategy)?;
        ensure!(round.reply.nr_pages == nr_pages, "{:?}", round.reply);
        rounds.push(round);
        if rounds.len() >= MIN_ROUNDS && start.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(rounds)
}

fn scattered(nr: u64) -> Selection {
    Selection::scattered(0, nr)
}

/// Runs `test` for one process and for several, where it can be done.
pub(super) fn for_each_mapped_by(test: impl Fn(MappedBy) -> Result<()>) -> Result<()> {
    if cpu::nr_cpus() < NR_CPUS {
        return skip(format!("{NR_CPUS} CPUs are needed"));
    }
    if TlbEvents::read()?.is_none() {
        return skip("the kernel has no CONFIG_DEBUG_TLBFLUSH");
    }
    MAPPED_BY.into_iter().try_for_each(test)
}

/// Rounds of which each asks the CPUs of one mm: the driver's own mm runs nowhere else where processes
/// map the pages, so that its flushes are local and the others' reach one CPU each.
fn expect_a_flush_per_unit_and_mm(mapped_by: MappedBy, count: &Count, nr_units: u64) -> Result<()> {
    let nr_mms = mapped_by.nr_mms() as u64;
    let nr_remote_mms = (nr_mms - 1).max(1);
    ensure!(
        count.remote == nr_units * nr_remote_mms,
        "rounds: {count:?}"
    );
    let noise = if nr_units > 1 { IPI_NOISE } else { 0 };
    let most = count.remote * NR_OTHER_CPUS / nr_remote_mms + noise;
    ensure!(count.ipis <= most, "IPIs: {count:?}");
    ensure!(count.ipis > count.remote / 2, "hardly any IPIs: {count:?}");
    ensure!(count.local >= nr_units, "local flushes: {count:?}");
    Ok(())
}

fn page_takes_a_round_per_page_and_mm(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let count = count(options, mapped_by, &scattered(NR_PAGES), strategy::PAGE)?;
        ensure!(
            count.calls == NR_PAGES * mapped_by.nr_mms() as u64,
            "calls: {count:?}"
        );
        expect_a_flush_per_unit_and_mm(mapped_by, &count, NR_PAGES)
    })
}

fn zap_takes_a_round_per_page_and_mm(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let count = count(options, mapped_by, &scattered(NR_FEW_PAGES), strategy::ZAP)?;
        expect_a_flush_per_unit_and_mm(mapped_by, &count, NR_FEW_PAGES)
    })
}

fn unmap_mapping_takes_a_round_per_run_and_mm(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let run = Selection::run(0, NR_PAGES);
        let count = count(options, mapped_by, &run, strategy::UNMAP_MAPPING)?;
        expect_a_flush_per_unit_and_mm(mapped_by, &count, 1)
    })
}

fn unmap_mapping_takes_a_round_per_scattered_page_and_mm(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let pages = scattered(NR_FEW_PAGES);
        let count = count(options, mapped_by, &pages, strategy::UNMAP_MAPPING)?;
        expect_a_flush_per_unit_and_mm(mapped_by, &count, NR_FEW_PAGES)
    })
}

fn broadcast_takes_one_round(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let count = count(
            options,
            mapped_by,
            &scattered(NR_PAGES),
            strategy::BROADCAST,
        )?;
        ensure!(count.calls == 1 && count.remote == 1, "rounds: {count:?}");
        ensure!((1..=NR_OTHER_CPUS).contains(&count.ipis), "IPIs: {count:?}");
        Ok(())
    })
}

fn precise_takes_a_round_per_mm(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let count = count(
            options,
            mapped_by,
            &scattered(NR_NEAR_PAGES),
            strategy::PRECISE,
        )?;
        ensure!(count.calls == mapped_by.nr_mms() as u64, "calls: {count:?}");
        expect_a_flush_per_unit_and_mm(mapped_by, &count, 1)
    })
}

/// Above the ceiling each CPU of each mm loses all of its translations anyway.
fn precise_takes_one_round_where_all_is_flushed_in_full(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let count = count(options, mapped_by, &scattered(NR_PAGES), strategy::PRECISE)?;
        ensure!(count.calls == 1 && count.remote == 1, "{count:?}");
        ensure!(count.ipis <= NR_OTHER_CPUS, "IPIs: {count:?}");
        Ok(())
    })
}

fn no_flush_takes_no_round(options: &Options) -> Result<()> {
    if Device::open()?.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    for_each_mapped_by(|mapped_by| {
        let count = count(options, mapped_by, &scattered(NR_PAGES), strategy::NONE)?;
        ensure!(
            count.calls == 0 && count.remote == 0 && count.ipis == 0,
            "{count:?}"
        );
        Ok(())
    })
}

/// Two counters of the kernel, kept in different places, agree.
fn interrupts_are_the_ipis_received(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let rounds = run(options, mapped_by, &scattered(NR_FEW_PAGES), strategy::PAGE)?;
        let received = |round: &Round| round.events.remote_flush_received;
        let agree = |round: &&Round| received(round) == round.events.interrupts;
        let nr_agreeing = rounds.iter().filter(agree).count();
        // They are not read at the same instant.
        ensure!(
            2 * nr_agreeing > rounds.len(),
            "{nr_agreeing} of {} rounds agree",
            rounds.len()
        );
        ensure!(
            rounds.iter().any(|round| received(round) > 0),
            "no IPIs at all"
        );
        Ok(())
    })
}

/// Most mms that a precise batch flushes one by one.
const MAX_PRECISE_MMS: usize = 8;

fn precise_gives_way_to_broadcast_over_eight_mms(_: &Options) -> Result<()> {
    for (nr_mms, nr_calls) in [
        (MAX_PRECISE_MMS, MAX_PRECISE_MMS as u64),
        (MAX_PRECISE_MMS + 1, 1),
        (MAX_PRECISE_MMS + 4, 1),
    ] {
        let reply = unmap_from_sleepers(nr_mms)?;
        ensure!(reply.nr_mms == nr_mms as u64, "{reply:?}");
        ensure!(reply.nr_flush_calls == nr_calls, "{nr_mms} mms: {reply:?}");
    }
    Ok(())
}

/// Unmaps pages that `nr` sleeping processes map.
fn unmap_from_sleepers(nr: usize) -> Result<abi::Unmap> {
    const NR_PAGES: u64 = 4;
    let device = Device::open()?;
    let shape = Shape {
        processes: nr,
        threads: 1,
    };
    let workers = Workers::of_processes(&device, NR_PAGES, shape, Wait::Sleep, |worker| {
        for page in 0..NR_PAGES {
            worker.mapping.word(page, 0).load(Relaxed);
        }
        worker.step()?;
        worker.step()
    })?;
    workers.step()?;
    let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy::PRECISE, 0)?;
    workers.step()?;
    workers.join()?;
    Ok(reply)
}
