// SPDX-License-Identifier: GPL-2.0

//! A machine with little memory, most of which idle pages take: when others need it, they get it,
//! and nobody is killed for it. To be run where it does not hurt.

mod binder;

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs;

use anyhow::{bail, ensure, Context, Result};

use crate::abi::{strategy, IDLE_MARK, IDLE_UNMARK};
use crate::child::Child;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE, WORDS_PER_PAGE};
use crate::selection::Selection;
use crate::shared::Shared;

use binder::idle_pages_of_binder_make_room_and_live_ones_stay;

crate::tests! {
    idle_pages_make_room_for_others,
    idle_pages_make_room_for_the_device_itself,
    idle_pages_of_binder_make_room_and_live_ones_stay within 120,
}

/// What takes long on a machine with more memory, and would swap on one that can.
const MOST_MEMORY: u64 = 1 << 30;

/// A line of `/proc/meminfo`, in pages.
fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = value
        .and_then(|value| value.split_whitespace().next())
        .with_context(|| format!("no {name} in /proc/meminfo"))?
        .parse()?;
    Ok(kib * 1024 / PAGE_SIZE as u64)
}

fn expect_small_machine() -> Result<()> {
    if meminfo("SwapTotal")? > 0 {
        return skip("there is swap space");
    }
    if meminfo("MemTotal")? * PAGE_SIZE as u64 > MOST_MEMORY {
        return skip("there is too much memory");
    }
    Ok(())
}

/// Devices, each with a mapping of all its pages.
struct Hoard(Vec<(Device, Mapping)>);

impl Hoard {
    /// Opens as many devices as it takes to hold `nr_pages`, and fills them with idle pages.
    fn fill(nr_pages: u64) -> Result<Self> {
        let nr_each = Device::open()?.describe()?.nr_pages;
        let fill = |_| {
            let device = Device::open()?;
            let mapping = device.map(nr_each)?;
            (0..nr_each).for_each(|page| mapping.word(page, 0).store(page + 1, Ordering::Relaxed));
            device.idle(0, nr_each, IDLE_MARK)?;
            Ok((device, mapping))
        };
        let devices: Result<_> = (0..nr_pages.div_ceil(nr_each)).map(fill).collect();
        Ok(Self(devices?))
    }

    /// Pages that memory pressure took.
    fn nr_reclaimed(&self) -> Result<u64> {
        let reclaimed = |(device, _): &(Device, _)| Ok(device.counters()?.nr_reclaimed);
        self.0.iter().map(reclaimed).sum()
    }

    /// The pages that were taken are fresh, the others as they were; returns how many were taken.
    fn check(&self) -> Result<u64> {
        let check = |(device, mapping): &(Device, Mapping)| {
            let counters = device.counters()?;
            ensure!(counters.nr_stale_writes == 0, "{counters:?}");
            let nr_taken = device.idle(0, mapping.nr_pages(), IDLE_UNMARK)?.nr_taken;
            // Reading them all again could need more memory than there is.
            let sample = mapping.nr_pages().min(256);
            for page in 0..sample {
                let value = mapping.word(page, 0).load(Ordering::Relaxed);
                ensure!([0, page + 1].contains(&value), "page {page}: {value:#x}");
            }
            Ok(nr_taken)
        };
        self.0.iter().map(check).sum()
    }
}

/// Runs `body` in a process that the kernel kills before any other, which must not come to that.
fn run_killable(body: impl FnOnce() -> Result<()>) -> Result<()> {
    let child = Child::fork(|| {
        fs::write("/proc/self/oom_score_adj", "1000")?;
        body()
    })?;
    child.join()
}

/// Touches one page after the other, until `enough`.
fn eat(nr_pages: u64, enough: impl Fn() -> Result<bool>) -> Result<()> {
    const NR_AT_ONCE: u64 = 256;
    let memory = Shared::<AtomicU64>::new(nr_pages as usize * WORDS_PER_PAGE)?;
    for page in 0..nr_pages {
        memory[page as usize * WORDS_PER_PAGE].store(1, Ordering::Relaxed);
        if page % NR_AT_ONCE == 0 && enough()? {
            return Ok(());
        }
    }
    bail!("{nr_pages} pages were not enough")
}

fn idle_pages_make_room_for_others(_: &Options) -> Result<()> {
    expect_small_machine()?;
    let available = meminfo("MemAvailable")?;
    let hoard = Hoard::fill(available / 2)?;
    let goal = available / 4;
    println!("# {available} pages, of which {goal} are to come back");
    run_killable(|| eat(available, || Ok(hoard.nr_reclaimed()? >= goal)))?;
    let nr_reclaimed = hoard.nr_reclaimed()?;
    let nr_taken = hoard.check()?;
    println!("# {nr_reclaimed} reclaimed, {nr_taken} taken");
    ensure!(nr_taken >= goal, "{nr_taken} taken");
    expect_working()
}

/// More idle pages than there is memory: the device's own allocations have others taken.
fn idle_pages_make_room_for_the_device_itself(_: &Options) -> Result<()> {
    expect_small_machine()?;
    let nr_pages = meminfo("MemTotal")? * 3 / 2;
    run_killable(|| {
        let hoard = Hoard::fill(nr_pages)?;
        let nr_reclaimed = hoard.nr_reclaimed()?;
        println!("# {nr_reclaimed} of {nr_pages} reclaimed");
        ensure!(nr_reclaimed >= nr_pages / 3, "{nr_reclaimed} reclaimed");
        hoard.check().map(drop)
    })?;
    expect_working()
}

fn expect_working() -> Result<()> {
    const NR_PAGES: u64 = 64;
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Ordering::Relaxed));
    let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy::BROADCAST, 0)?;
    ensure!(reply.nr_pages == NR_PAGES, "{reply:?}");
    let fresh = (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Ordering::Relaxed) == 0);
    ensure!(fresh, "old pages");
    Ok(())
}
