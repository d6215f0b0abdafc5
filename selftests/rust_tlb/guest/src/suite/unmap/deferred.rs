// SPDX-License-Identifier: GPL-2.0

//! Batches whose flush is left to later, and what makes them flush.

use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::thread;

use anyhow::{ensure, Result};

use super::NR_PAGES;
use crate::abi::{self, strategy};
use crate::device::{strategy_name, Device, REAL_STRATEGIES};
use crate::fault_knobs::{self, Turned};
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::pending::{await_release, with_short_age};
use crate::selection::Selection;

/// A device with all pages mapped and written to.
fn written() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    Ok((device, mapping))
}

const DEFERRABLE: [u32; 2] = [strategy::BROADCAST, strategy::PRECISE];

pub fn a_deferred_batch_is_flushed_once(_: &Options) -> Result<()> {
    for strategy in DEFERRABLE {
        let (device, mapping) = written()?;
        for first in [0, 8] {
            let reply = device.unmap(&Selection::run(first, 4), strategy, abi::UNMAP_DEFER)?;
            ensure!(
                reply.nr_pages == 4 && reply.nr_flush_calls == 0,
                "{reply:?}"
            );
        }
        ensure!(
            device.counters()?.nr_recycled == 0,
            "released before the flush"
        );
        let flush = device.flush()?;
        ensure!(
            flush.nr_pages == 8 && flush.nr_flush_calls == 1,
            "{flush:?}"
        );
        let counters = device.counters()?;
        ensure!(
            counters.nr_recycled == 8 && counters.nr_batches == 1,
            "{counters:?}"
        );
        let nothing = device.flush()?;
        ensure!(
            nothing.nr_pages == 0 && nothing.nr_flush_calls == 0,
            "{nothing:?}"
        );
        ensure!(
            mapping.word(0, 0).load(Relaxed) == 0,
            "the old page is still there"
        );
        ensure!(
            device.counters()?.nr_pending_hits == 0,
            "nothing was pending any more"
        );
    }
    Ok(())
}

/// Reads through a new mapping: through the old one, this CPU may still use its own translation, as
/// long as the flush is owed.
fn refault(device: &Device, page: u64) -> Result<u64> {
    Ok(device.map(NR_PAGES)?.word(page, 0).load(Relaxed))
}

pub fn a_refault_flushes_the_deferred_batch(_: &Options) -> Result<()> {
    for strategy in DEFERRABLE {
        let (device, mapping) = written()?;
        device.unmap(&Selection::run(0, 4), strategy, abi::UNMAP_DEFER)?;
        ensure!(refault(&device, 9)? == 10, "a page that was not unmapped");
        let hits = device.counters()?.nr_pending_hits;
        ensure!(hits == 0, "a page that was not unmapped is not pending");
        ensure!(refault(&device, 2)? == 0, "the old page is mapped again");
        for page in 0..4 {
            let value = mapping.word(page, 0).load(Relaxed);
            ensure!(value == 0, "page {page} holds {value:#x} after the flush");
        }
        let counters = device.counters()?;
        ensure!(
            counters.nr_pending_hits == 1 && counters.nr_batches == 1,
            "{counters:?}"
        );
        ensure!(counters.nr_recycled == 4, "{counters:?}");
        ensure!(device.flush()?.nr_pages == 0, "it is still pending");
    }
    Ok(())
}

pub fn a_flushing_unmap_takes_the_deferred_batch_along(_: &Options) -> Result<()> {
    for deferred in DEFERRABLE {
        for strategy in REAL_STRATEGIES {
            let (device, _mapping) = written()?;
            device.unmap(&Selection::run(0, 4), deferred, abi::UNMAP_DEFER)?;
            device.unmap(&Selection::run(8, 4), strategy, 0)?;
            let counters = device.counters()?;
            ensure!(
                counters.nr_recycled == 8,
                "{}: {counters:?}",
                strategy_name(strategy)
            );
            ensure!(device.flush()?.nr_pages == 0, "it is still pending");
        }
    }
    Ok(())
}

pub fn a_full_batch_flushes_itself(_: &Options) -> Result<()> {
    for strategy in DEFERRABLE {
        let device = Device::open()?;
        let limits = device.describe()?;
        let most = u64::from(limits.max_pending).min(limits.nr_pages - 1);
        let mapping = device.map(limits.nr_pages)?;
        for page in 0..=most {
            mapping.word(page, 0).store(1, Relaxed);
            device.unmap(&Selection::run(page, 1), strategy, abi::UNMAP_DEFER)?;
        }
        let counters = device.counters()?;
        if limits.nr_pages > u64::from(limits.max_pending) {
            ensure!(
                counters.nr_batches > 0 && counters.nr_recycled > 0,
                "{counters:?}"
            );
        }
        let rest = device.flush()?.nr_pages;
        ensure!(
            rest <= u64::from(limits.max_pending),
            "{rest} pages were pending"
        );
        ensure!(
            rest + counters.nr_recycled == most + 1,
            "{rest} and {counters:?}"
        );
    }
    Ok(())
}

pub fn a_deferred_batch_ends_with_the_file(_: &Options) -> Result<()> {
    for strategy in DEFERRABLE {
        let (device, mapping) = written()?;
        device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_DEFER)?;
        drop(mapping);
        drop(device);
        let (device, mapping) = written()?;
        device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_DEFER)?;
        drop(device);
        // The mapping keeps the file open, and its last page is the end of it.
        drop(mapping);
    }
    Ok(())
}

/// How old a batch is, is how old its first page is.
pub fn a_batch_that_grows_gets_old_all_the_same(_: &Options) -> Result<()> {
    let _again = with_short_age()?;
    for strategy in DEFERRABLE {
        let device = Device::open()?;
        let limits = device.describe()?;
        let step = Duration::from_millis(limits.max_age_ms.into()) / 16;
        let most = limits.nr_pages.min(limits.max_pending.into());
        let mut nr_unmaps = 0;
        while device.counters()?.nr_flushed_old == 0 {
            ensure!(nr_unmaps < most, "none of {most} pages got old");
            device.populate(nr_unmaps, 1)?;
            let page = Selection::run(nr_unmaps, 1);
            device.unmap(&page, strategy, abi::UNMAP_DEFER)?;
            nr_unmaps += 1;
            thread::sleep(step);
        }
        println!("# {nr_unmaps} unmaps");
        let counters = device.counters()?;
        ensure!(counters.nr_flushed_full == 0, "{counters:?}");
        ensure!(counters.nr_recycled > 0, "{counters:?}");
    }
    Ok(())
}

pub fn an_old_batch_flushes_itself(_: &Options) -> Result<()> {
    let _again = with_short_age()?;
    for strategy in DEFERRABLE {
        let (device, mapping) = written()?;
        device.unmap(&Selection::run(0, 4), strategy, abi::UNMAP_DEFER)?;
        await_release(&device)?;
        let counters = device.counters()?;
        ensure!(
            counters.nr_flushed_old == 1 && counters.nr_batches == 1,
            "{counters:?}"
        );
        ensure!(counters.nr_recycled == 4, "{counters:?}");
        for page in 0..4 {
            let value = mapping.word(page, 0).load(Relaxed);
            ensure!(value == 0, "page {page} holds {value:#x} after the flush");
        }
        ensure!(device.flush()?.nr_pages == 0, "it is still pending");
        let hits = device.counters()?.nr_pending_hits;
        ensure!(hits == 0, "a fault has flushed it");
    }
    Ok(())
}

/// Who closes the file takes the deadline away, and what is done then is not done to a file that is
/// gone: the close waits for it.
pub fn a_close_waits_for_what_is_late(_: &Options) -> Result<()> {
    if !fault_knobs::are_there() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    let _again = with_short_age()?;
    let _delay = Turned::to(fault_knobs::DELAY_EXPIRY_MS, 1000)?;
    for strategy in DEFERRABLE {
        let (device, mapping) = written()?;
        device.unmap(&Selection::run(0, 4), strategy, abi::UNMAP_DEFER)?;
        drop(mapping);
        while fault_knobs::nr_expiring()? == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(device);
        let nr_expiring = fault_knobs::nr_expiring()?;
        ensure!(nr_expiring == 0, "the file was closed meanwhile");
    }
    Ok(())
}
