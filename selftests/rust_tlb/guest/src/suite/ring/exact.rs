// SPDX-License-Identifier: GPL-2.0

//! What a flush evicts, told by the Accessed bits: no more and no less than was unmapped.

use core::cell::{Cell, RefCell};

use anyhow::{ensure, Context, Result};

use super::{expect_grown, ring_device};
use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::flush_ring::Counts;
use crate::ktap::{skip, Options};
use crate::residency::Probe;
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};

/// As many as the probe can tell apart.
pub(super) const NR_PAGES: u64 = abi::ACCESSED_MAX_PAGES;
/// Of each process, if several are probed: with what else a process touches at each step, all of it
/// finds its place in an emulator's TLB, which is a table of 64 entries or 128, and eight more.
const NR_PAGES_EACH: u64 = 32;
const ALL: u64 = u64::MAX;
const NR_ROUNDS: u64 = 10;

fn bits(pages: &Selection) -> u64 {
    pages.pages().iter().fold(0, |bits, page| bits | 1 << page)
}

pub(super) fn unmap(device: &Device, pages: &Selection, strategy: u32) -> Result<()> {
    let done = device.unmap(pages, strategy, 0)?;
    ensure!(done.nr_flush_calls == 1, "{done:?}");
    Ok(())
}

/// A few pages here and there, another few each time.
pub(super) fn some_pages(round: u64) -> Selection {
    some_of(NR_PAGES, round)
}

fn some_of(nr_pages: u64, round: u64) -> Selection {
    Selection::List(
        (0..7)
            .map(|n| (round + n * (n + 1) / 2) % nr_pages)
            .collect(),
    )
}

pub fn each_cpu_loses_exactly_what_was_unmapped(options: &Options) -> Result<()> {
    let device = ring_device()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    let before = Counts::read()?;
    for round in 0..NR_ROUNDS * u64::from(options.effort) {
        let pages = some_pages(round);
        probe.expect_evicted(bits(&pages), |device| unmap(device, &pages, strategy::RING))?;
        let scattered = Selection::scattered(round % 2, 32);
        probe.expect_evicted(bits(&scattered), |device| {
            unmap(device, &scattered, strategy::RING)
        })?;
    }
    expect_grown(&before, &["published", "asked_exact", "asked_exact_pages"])
}

pub fn several_mms_are_one_round_and_exact(options: &Options) -> Result<()> {
    let device = ring_device()?;
    let nr = cpu::nr_cpus() - 1;
    let probe = Probe::of_processes(&device, NR_PAGES_EACH, nr)?;
    let before = Counts::read()?;
    let all = RefCell::new(Vec::new());
    for round in 0..NR_ROUNDS * u64::from(options.effort) {
        let pages = some_of(NR_PAGES_EACH, round);
        probe.expect_evicted(bits(&pages), |device| {
            let before = events()?;
            let done = device.unmap(&pages, strategy::RING, 0)?;
            let events = events()?.since(before);
            ensure!(done.nr_mms == nr as u64, "{done:?}");
            ensure!(done.nr_flush_calls == 1, "{done:?}");
            all.borrow_mut().push(events);
            Ok(())
        })?;
    }
    let all = all.into_inner();
    let nr_rounds = most_common(all.iter().map(|events| events.remote_flush));
    let nr_received = most_common(all.iter().map(|events| events.remote_flush_received));
    ensure!(nr_rounds == 1 && nr_received <= nr as u64, "{all:?}");
    expect_grown(&before, &["published", "asked_exact", "asked_exact_pages"])
}

fn events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// Each deferral is a generation, and the flush is for all of them.
pub fn deferred_flushes_are_caught_up_together(options: &Options) -> Result<()> {
    let device = ring_device()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    // Fewer, if a CPU was switched meanwhile, or the batch grew old on a busy host.
    let nr_together = Cell::new(0);
    for round in 0..NR_ROUNDS * u64::from(options.effort) {
        let pages = some_pages(round);
        probe.expect_evicted(bits(&pages), |device| {
            for page in pages.pages() {
                let one = Selection::run(page, 1);
                device.unmap(&one, strategy::BROADCAST, abi::UNMAP_DEFER)?;
            }
            let before = Counts::read()?;
            let done = device.flush()?;
            ensure!(done.nr_flush_calls == 1, "{done:?}");
            let after = Counts::read()?;
            let nr_exact = after.since(&before, "asked_exact")?;
            let nr_pages = after.since(&before, "asked_exact_pages")?;
            // More, if the CPU had missed something else before.
            let together = nr_exact > 0 && nr_pages >= 7 * nr_exact;
            nr_together.set(nr_together.get() + u32::from(together));
            Ok(())
        })?;
    }
    ensure!(nr_together.get() > 0, "never seven pages at once");
    Ok(())
}

/// Pages next to each other, one more than the kernel flushes one by one.
pub fn above_the_ceiling_everything_is_flushed(_: &Options) -> Result<()> {
    let device = ring_device()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    let just = Selection::run(3, 33);
    let before = Counts::read()?;
    probe.expect_evicted(bits(&just), |device| unmap(device, &just, strategy::RING))?;
    expect_grown(&before, &["published", "asked_exact", "asked_exact_pages"])?;
    let more = Selection::run(3, 34);
    let before = Counts::read()?;
    probe.expect_evicted(ALL, |device| unmap(device, &more, strategy::RING))?;
    expect_grown(&before, &["published", "asked_everything"])
}

pub fn auto_is_exact_for_few_pages_only(_: &Options) -> Result<()> {
    let device = ring_device()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    let few = Selection::scattered(3, 8);
    let before = Counts::read()?;
    probe.expect_evicted(bits(&few), |device| unmap(device, &few, strategy::AUTO))?;
    expect_grown(&before, &["published", "asked_exact", "asked_exact_pages"])?;
    let more = Selection::scattered(3, 9);
    let before = Counts::read()?;
    probe.expect_evicted(ALL, |device| unmap(device, &more, strategy::AUTO))?;
    expect_grown(&before, &["published", "asked_everything"])
}

pub fn without_a_ring_everything_is_flushed(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    let before = ring_counts()?;
    let pages = some_pages(0);
    probe.expect_evicted(ALL, |device| unmap(device, &pages, strategy::RING))?;
    expect_grown(&before, &[])
}

fn ring_counts() -> Result<Counts> {
    // It skips where there are no rings.
    drop(ring_device()?);
    Counts::read()
}

/// The negative control of the others: a flush that is not made.
pub fn without_a_flush_nothing_is_lost(_: &Options) -> Result<()> {
    let device = ring_device()?;
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

/// Several turns of the ring, each flush still exact.
pub fn slots_are_used_again(options: &Options) -> Result<()> {
    let device = ring_device()?;
    let probe = Probe::new(&device, NR_PAGES)?;
    let before = Counts::read()?;
    for round in 0..200 * u64::from(options.effort) {
        unmap(&device, &some_pages(round), strategy::RING)?;
        probe.touch()?;
    }
    let grown = Counts::read()?;
    ensure!(grown.since(&before, "published")? >= 200, "too few");
    expect_grown(&before, &["published", "asked_exact", "asked_exact_pages"])?;
    let pages = some_pages(0);
    probe.expect_evicted(bits(&pages), |device| unmap(device, &pages, strategy::RING))
}
