// SPDX-License-Identifier: GPL-2.0

//! Those who hold references to pages that are unmapped meanwhile (H7): a page that somebody may
//! still read or write by other means than a translation is neither poisoned nor used again.
//!
//! H7 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::thread;

use anyhow::{bail, ensure, Result};
use rustix::fs::MemfdFlags;

use crate::abi::{self, strategy, POISON};
use crate::cpu;
use crate::device::{strategy_name, Device, REAL_STRATEGIES};
use crate::direct_io::Disk;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::memory_use::{expect_no_leak, MemoryUse};
use crate::page_holder::{words_of, PageHolder};
use crate::pinned::{self, Pinned};
use crate::reclaim::Shrinkers;
use crate::selection::Selection;

crate::tests! {
    a_page_in_a_pipe_is_given_up,
    what_is_given_up_is_freed_by_its_holder,
    a_page_that_is_let_go_before_the_flush_is_used_again,
    references_to_pending_pages_flush_first,
    pinned_pages_are_read_and_written_apart_from_fresh_ones,
    pinned_pages_are_not_saved_but_kept,
    pressure_gives_pinned_pages_up,
    direct_io_and_unmaps_at_the_same_time,
}

const NR_PAGES: u64 = 16;
const BATCHES: [u32; 2] = [strategy::BROADCAST, strategy::PRECISE];

/// Which word of a page is looked at, and what is in it.
const WORD: usize = 5;
const OLD: u64 = 0x01d_0000;
const NEW: u64 = 0xe_0000;
const DISK: u64 = 0xd15c;

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

fn write_to_all(mapping: &Mapping, value: u64) {
    let word = |page| mapping.word(page, WORD);
    (0..mapping.nr_pages()).for_each(|page| word(page).store(value, Ordering::Relaxed));
}

fn expect_in_all(what: &str, words: impl IntoIterator<Item = u64>, expected: u64) -> Result<()> {
    for (page, word) in words.into_iter().enumerate() {
        ensure!(
            word == expected,
            "{what}: page {page} holds {word:#x}, not {expected:#x}"
        );
    }
    Ok(())
}

fn mapped(mapping: &Mapping) -> impl Iterator<Item = u64> + '_ {
    (0..mapping.nr_pages()).map(|page| mapping.word(page, WORD).load(Ordering::Relaxed))
}

/// A device with all pages mapped and written to.
fn written() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    write_to_all(&mapping, OLD);
    Ok((device, mapping))
}

/// Counters that tell what became of pages.
fn expect_fate(device: &Device, nr_shared: u64, nr_recycled: u64) -> Result<()> {
    let counters = device.counters()?;
    let found = (counters.nr_shared, counters.nr_recycled);
    ensure!(found == (nr_shared, nr_recycled), "{counters:?}");
    ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    Ok(())
}

fn a_page_in_a_pipe_is_given_up(_: &Options) -> Result<()> {
    for strategy in REAL_STRATEGIES {
        for flags in [0, abi::UNMAP_FREE] {
            let (device, mapping) = written()?;
            let holder = PageHolder::take(&mapping)?;
            device.unmap(&all(), strategy, flags)?;
            expect_fate(&device, NR_PAGES, 0)?;
            let held = device.counters()?.nr_pages_held;
            ensure!(held == 0, "{held} pages held");
            expect_in_all("a fresh page", mapped(&mapping), 0)?;
            write_to_all(&mapping, NEW);
            expect_in_all("the pipe", holder.read(WORD)?, OLD)?;
            expect_in_all("the mapping", mapped(&mapping), NEW)?;
            // Nobody holds the fresh ones.
            let nr_recycled = if flags == 0 { NR_PAGES } else { 0 };
            device.unmap(&all(), strategy, flags)?;
            expect_fate(&device, NR_PAGES, nr_recycled)?;
        }
    }
    Ok(())
}

/// As many in each half that all together are far more than noise.
fn what_is_given_up_is_freed_by_its_holder(_: &Options) -> Result<()> {
    const NR_CYCLES: u64 = 100;
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    let mut readings = Vec::new();
    for _ in 0..3 {
        for nr in 0..NR_CYCLES {
            write_to_all(&mapping, OLD);
            let holder = PageHolder::take(&mapping)?;
            let strategy = REAL_STRATEGIES[nr as usize % REAL_STRATEGIES.len()];
            device.unmap(&all(), strategy, 0)?;
            expect_in_all("the pipe", holder.read(WORD)?, OLD)?;
        }
        readings.push(MemoryUse::read()?);
    }
    expect_fate(&device, 3 * NR_CYCLES * NR_PAGES, 0)?;
    expect_no_leak(&readings)
}

/// What counts is who holds a page when it is released.
fn a_page_that_is_let_go_before_the_flush_is_used_again(_: &Options) -> Result<()> {
    for strategy in BATCHES {
        let (device, mapping) = written()?;
        let holder = PageHolder::take(&mapping)?;
        device.unmap(&all(), strategy, abi::UNMAP_DEFER)?;
        expect_in_all("the pipe", holder.read(WORD)?, OLD)?;
        device.flush()?;
        expect_fate(&device, 0, NR_PAGES)?;
        expect_in_all("a fresh page", mapped(&mapping), 0)?;
    }
    Ok(())
}

/// A page whose flush is owed is not in the page table: who wants a reference to what is there gets
/// a fresh one.
fn references_to_pending_pages_flush_first(_: &Options) -> Result<()> {
    for strategy in BATCHES {
        let (device, mapping) = written()?;
        device.unmap(&all(), strategy, abi::UNMAP_DEFER)?;
        let holder = PageHolder::take(&mapping)?;
        let hits = device.counters()?.nr_pending_hits;
        ensure!(hits == 1, "{hits} faults met the batch");
        expect_fate(&device, 0, NR_PAGES)?;
        expect_in_all("the pipe", holder.read(WORD)?, 0)?;
    }
    Ok(())
}

/// A file in memory, with a page of `value` for each page of the device.
fn file_of(value: u64) -> Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("disk", MemfdFlags::CLOEXEC)?);
    let nr_words = NR_PAGES as usize * PAGE_SIZE / size_of::<u64>();
    file.write_all(&value.to_ne_bytes().repeat(nr_words))?;
    file.rewind()?;
    Ok(file)
}

/// What is in the pinned pages, by I/O from them.
fn through_the_pin(pinned: &Pinned) -> Result<Vec<u64>> {
    let mut file = file_of(0)?;
    let nr_bytes = pinned.write_to(&file)?;
    ensure!(
        nr_bytes == NR_PAGES as usize * PAGE_SIZE,
        "{nr_bytes} bytes"
    );
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(words_of(&bytes, WORD))
}

fn fill_through_the_pin(pinned: &Pinned, value: u64) -> Result<()> {
    let nr_bytes = pinned.read_from(file_of(value)?)?;
    ensure!(
        nr_bytes == NR_PAGES as usize * PAGE_SIZE,
        "{nr_bytes} bytes"
    );
    Ok(())
}

fn expect_pins() -> Result<()> {
    if pinned::is_possible() {
        return Ok(());
    }
    skip("the kernel has no CONFIG_IO_URING")
}

fn pinned_pages_are_read_and_written_apart_from_fresh_ones(_: &Options) -> Result<()> {
    expect_pins()?;
    for strategy in REAL_STRATEGIES {
        let (device, mapping) = written()?;
        let pinned = Pinned::new(&mapping)?;
        device.unmap(&all(), strategy, 0)?;
        expect_fate(&device, NR_PAGES, 0)?;
        expect_in_all("before a fault", through_the_pin(&pinned)?, OLD)?;
        write_to_all(&mapping, NEW);
        expect_in_all("after a fault", through_the_pin(&pinned)?, OLD)?;
        fill_through_the_pin(&pinned, DISK)?;
        expect_in_all("the mapping", mapped(&mapping), NEW)?;
        expect_in_all("the pinned pages", through_the_pin(&pinned)?, DISK)?;
        // Into the pool, and out again: none of them is one that I/O goes on with.
        device.unmap(&all(), strategy, 0)?;
        fill_through_the_pin(&pinned, DISK + 1)?;
        expect_fate(&device, NR_PAGES, NR_PAGES)?;
        expect_in_all(strategy_name(strategy), mapped(&mapping), 0)?;
        pinned.release()?;
    }
    Ok(())
}

/// Their contents may still change: a copy would be out of date.
fn pinned_pages_are_not_saved_but_kept(_: &Options) -> Result<()> {
    expect_pins()?;
    for strategy in [strategy::PAGE, strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written()?;
        let pinned = Pinned::new(&mapping)?;
        let reply = device.unmap(&all(), strategy, abi::UNMAP_WRITE_BACK)?;
        let found = (reply.nr_ptes, reply.nr_written_back);
        ensure!(found == (NR_PAGES, 0), "{reply:?}");
        expect_in_all("before I/O", mapped(&mapping), OLD)?;
        fill_through_the_pin(&pinned, DISK)?;
        expect_in_all("after I/O", mapped(&mapping), DISK)?;
        pinned.release()?;
        expect_saved(&device, &mapping, strategy)?;
        expect_in_all("saved", mapped(&mapping), DISK)?;
    }
    Ok(())
}

/// A request that has ended may hold the pages for a moment longer, and so they are kept again.
fn expect_saved(device: &Device, mapping: &Mapping, strategy: u32) -> Result<()> {
    const NR_TRIES: u32 = 1000;
    for _ in 0..NR_TRIES {
        let reply = device.unmap(&all(), strategy, abi::UNMAP_WRITE_BACK)?;
        if reply.nr_written_back == NR_PAGES {
            return Ok(());
        }
        expect_in_all("kept", mapped(mapping), DISK)?;
        thread::sleep(Duration::from_millis(1));
    }
    bail!("not saved at any of {NR_TRIES} times")
}

/// Idle or not, a page that I/O goes on with is not the device's alone.
fn pressure_gives_pinned_pages_up(_: &Options) -> Result<()> {
    expect_pins()?;
    let shrinkers = Shrinkers::open()?;
    let (device, mapping) = written()?;
    let pinned = Pinned::new(&mapping)?;
    device.idle(0, NR_PAGES, abi::IDLE_MARK)?;
    shrinkers.take_idle(&device)?;
    write_to_all(&mapping, NEW);
    expect_in_all("the pinned pages", through_the_pin(&pinned)?, OLD)?;
    fill_through_the_pin(&pinned, DISK)?;
    expect_in_all("the mapping", mapped(&mapping), NEW)?;
    pinned.release()?;
    let counters = device.counters()?;
    ensure!(counters.nr_reclaimed == NR_PAGES, "{counters:?}");
    expect_fate(&device, counters.nr_shared, 0)
}

/// Places on the disk: what is read from, and what is written to.
const SOURCE: u64 = 0;
const TARGET: u64 = NR_PAGES;

/// Reads from the disk into the pages, and writes them to the disk, until it is told to stop; what
/// comes to the disk is looked at.
fn do_direct_io(mapping: &Mapping, own: &Mapping, stop: &AtomicBool) -> Result<u64> {
    cpu::pin_worker(0)?;
    let disk = Disk::open()?;
    let mut nr_turns = 0;
    while !stop.load(Ordering::Relaxed) {
        ensure!(disk.read_into(mapping, SOURCE)? == NR_PAGES, "a short read");
        ensure!(
            disk.write_from(mapping, TARGET)? == NR_PAGES,
            "a short write"
        );
        ensure!(disk.read_into(own, TARGET)? == NR_PAGES, "a short read");
        for word in mapped(own) {
            ensure!(word != POISON, "poison was written to the disk");
            ensure!(
                [0, DISK].contains(&word),
                "{word:#x} was written to the disk"
            );
        }
        nr_turns += 1;
    }
    Ok(nr_turns)
}

/// Unmaps while I/O goes on, and returns how often. What is unmapped was mapped: for others to take
/// references to, and to look at.
fn unmap_at_random(
    options: &Options,
    device: &Device,
    mapping: &Mapping,
    enough: impl Fn() -> bool,
) -> Result<u64> {
    const NR_UNMAPS: u64 = 500;
    let mut rng = options.rng();
    let mut nr_unmaps = 0;
    while nr_unmaps < NR_UNMAPS * u64::from(options.effort) && !enough() {
        for word in mapped(mapping) {
            ensure!([0, DISK].contains(&word), "{word:#x} is in the mapping");
        }
        let nr = rng.usize(1..NR_PAGES as usize);
        let selection = Selection::random(&mut rng, NR_PAGES, nr);
        let strategy = REAL_STRATEGIES[rng.usize(..REAL_STRATEGIES.len())];
        let defer = match BATCHES.contains(&strategy) && rng.bool() {
            true => abi::UNMAP_DEFER,
            false => 0,
        };
        device.unmap(&selection, strategy, defer)?;
        nr_unmaps += 1;
    }
    Ok(nr_unmaps)
}

fn direct_io_and_unmaps_at_the_same_time(options: &Options) -> Result<()> {
    if !Disk::exists() {
        return skip("the kernel has no CONFIG_BLK_DEV_RAM");
    }
    let (device, mapping) = written()?;
    // What is read back goes to pages that nobody unmaps.
    let spare = Device::open()?;
    let own = spare.map(NR_PAGES)?;
    write_to_all(&own, DISK);
    Disk::open()?.write_from(&own, SOURCE)?;
    write_to_all(&mapping, DISK);
    let stop = AtomicBool::new(false);
    let (nr_unmaps, nr_turns) = thread::scope(|scope| {
        let doing_io = scope.spawn(|| do_direct_io(&mapping, &own, &stop));
        let driven = unmap_at_random(options, &device, &mapping, || doing_io.is_finished());
        stop.store(true, Ordering::Relaxed);
        let done = doing_io.join().expect("it does not panic");
        anyhow::Ok((driven?, done?))
    })?;
    device.flush()?;
    let counters = device.counters()?;
    println!("# {nr_unmaps} unmaps, {nr_turns} turns, {counters:?}");
    ensure!(nr_turns > 0, "no I/O");
    ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    Ok(())
}
