// SPDX-License-Identifier: GPL-2.0

//! Contents that are saved before a page is released: after a flush where it matters (H14), so that
//! no write is lost, and without one where it does not.
//!
//! H14 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use anyhow::{ensure, Result};
use rustix::io::Errno;

use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::device::{strategy_name, Device};
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::writers::Writers;

crate::tests! {
    contents_come_back,
    clean_pages_cost_no_flush_before_they_are_saved,
    dirty_pages_cost_one_flush_before_they_are_saved,
    a_batch_of_the_core_saves_nothing,
    no_write_is_lost,
    without_the_flush_a_write_is_lost_every_time within 120,
}

const NR_PAGES: u64 = 32;
const SAVING: [u32; 3] = [strategy::PAGE, strategy::BROADCAST, strategy::PRECISE];
const SAVE_AND_DEFER: u32 = abi::UNMAP_WRITE_BACK | abi::UNMAP_DEFER;

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

/// A device whose pages hold what [`expect_contents`] looks for, through dirty translations.
fn written() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 7).store(page + 1, Ordering::Relaxed));
    Ok((device, mapping))
}

/// Reads all pages, which maps them clean if they were not mapped.
fn expect_contents(mapping: &Mapping) -> Result<()> {
    for page in 0..NR_PAGES {
        let value = mapping.word(page, 7).load(Ordering::Relaxed);
        ensure!(value == page + 1, "page {page} holds {value:#x}");
    }
    Ok(())
}

fn contents_come_back(_: &Options) -> Result<()> {
    for strategy in SAVING {
        let (device, mapping) = written()?;
        for _ in 0..3 {
            let reply = device.unmap(&all(), strategy, abi::UNMAP_WRITE_BACK)?;
            ensure!(reply.nr_written_back == NR_PAGES, "{reply:?}");
            expect_contents(&mapping)?;
        }
        // Without the flag the contents are gone, as ever.
        device.unmap(&all(), strategy, 0)?;
        ensure!(
            mapping.word(3, 7).load(Ordering::Relaxed) == 0,
            "still there"
        );
    }
    Ok(())
}

/// Flush calls that were needed to save all pages, with the final flush left to later.
fn flushes_to_save(device: &Device, strategy: u32) -> Result<u64> {
    let reply = device.unmap(&all(), strategy, SAVE_AND_DEFER)?;
    ensure!(reply.nr_written_back == NR_PAGES, "{reply:?}");
    Ok(reply.nr_flush_calls)
}

fn clean_pages_cost_no_flush_before_they_are_saved(_: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written()?;
        device.unmap(&all(), strategy, abi::UNMAP_WRITE_BACK)?;
        expect_contents(&mapping)?;
        ensure!(
            flushes_to_save(&device, strategy)? == 0,
            "flushed for clean pages"
        );
        // But before they are released.
        ensure!(
            device.flush()?.nr_flush_calls == 1,
            "released without a flush"
        );
        expect_contents(&mapping)?;
    }
    Ok(())
}

fn dirty_pages_cost_one_flush_before_they_are_saved(_: &Options) -> Result<()> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written()?;
        ensure!(flushes_to_save(&device, strategy)? == 1, "dirty pages");
        // Nothing is owed any more.
        ensure!(device.flush()?.nr_flush_calls == 0, "flushed twice");
        expect_contents(&mapping)?;
        // One dirty page among clean ones is enough.
        mapping.word(5, 7).store(6, Ordering::Relaxed);
        ensure!(flushes_to_save(&device, strategy)? == 1, "one dirty page");
    }
    Ok(())
}

fn a_batch_of_the_core_saves_nothing(_: &Options) -> Result<()> {
    let (device, mapping) = written()?;
    for strategy in [strategy::ZAP, strategy::UNMAP_MAPPING, strategy::GATHER] {
        let refused = device.unmap(&all(), strategy, abi::UNMAP_WRITE_BACK);
        ensure!(refused == Err(Errno::INVAL), "{refused:?}");
    }
    let refused = device.unmap(&all(), strategy::BROADCAST, abi::UNMAP_BREAK_WRITE_BACK);
    ensure!(refused == Err(Errno::INVAL), "{refused:?}");
    expect_contents(&mapping)
}

/// Has the pages saved under the eyes of writers, `nr_unmaps` times or until a write is lost, and
/// returns how many were.
fn lost_writes(strategy: u32, flags: u32, nr_unmaps: u64) -> Result<u64> {
    let device = Device::open()?;
    let mapping = Arc::new(device.map(NR_PAGES)?);
    let writers = Writers::start(&mapping)?;
    for _ in 0..nr_unmaps {
        writers.await_passes(1)?;
        device.unmap(&all(), strategy, flags | abi::UNMAP_WRITE_BACK)?;
        if flags & abi::UNMAP_DEFER != 0 {
            writers.await_passes(1)?;
            device.flush()?;
        }
        if writers.nr_lost() > 0 {
            break;
        }
    }
    writers.finish()
}

fn no_write_is_lost(options: &Options) -> Result<()> {
    for strategy in SAVING {
        let nr_lost = lost_writes(strategy, 0, 40 * u64::from(options.effort))?;
        ensure!(
            nr_lost == 0,
            "{}: {nr_lost} writes",
            strategy_name(strategy)
        );
    }
    Ok(())
}

fn without_the_flush_a_write_is_lost_every_time(_: &Options) -> Result<()> {
    let device = Device::open()?;
    if device.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    let mapping = Arc::new(device.map(NR_PAGES)?);
    let writers = Writers::start(&mapping)?;
    caught_every_time(20, || save_without_flush(&device, &writers))?;
    writers.finish()?;
    Ok(())
}

/// The final flush is left to later, so that there is time for a write to go astray: each writer
/// comes to each page between the two.
fn save_without_flush(device: &Device, writers: &Writers) -> Result<Attempt> {
    let nr_before = writers.nr_lost();
    writers.await_everyone()?;
    let stillness = writers.stillness()?;
    device.accessed(0, NR_PAGES, abi::ACCESSED_CLEAR)?;
    writers.await_everyone()?;
    let walked = device.accessed(0, NR_PAGES, abi::ACCESSED_READ)?.accessed;
    let flags = SAVE_AND_DEFER | abi::UNMAP_BREAK_WRITE_BACK;
    let reply = device.unmap(&all(), strategy::BROADCAST, flags)?;
    writers.await_everyone()?;
    let undisturbed = walked == 0 && stillness.lasted()?;
    device.flush()?;
    writers.await_everyone()?;
    let nr_lost = writers.nr_lost() - nr_before;
    Ok(Attempt::judge(nr_lost > 0, undisturbed, || {
        format!("{reply:?}")
    }))
}
