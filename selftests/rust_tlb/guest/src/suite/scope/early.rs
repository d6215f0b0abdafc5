// SPDX-License-Identifier: GPL-2.0

//! What cannot wait for the end of a scope. The scope goes on after it.
//!
//! H14 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;

use super::{
    enter, expect_fresh, expect_released, leave, unmap_and_owe, written, NR_AT_ONCE, NR_PAGES,
    STRATEGIES,
};
use crate::abi;
use crate::device::Device;
use crate::kernel_module::{self, Unloaded};
use crate::ktap::{skip, Options};
use crate::pending::{await_release, with_short_age};
use crate::selection::Selection;

/// Reads through a new mapping: through the old one, this CPU may still use its own translation, as
/// long as the flush is owed.
fn refault(device: &Device, page: u64) -> Result<u64> {
    Ok(device.map(NR_PAGES)?.word(page, 0).load(Relaxed))
}

pub fn a_fault_on_a_pending_page_flushes(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = written()?;
        enter(&device, strategy, None, 1)?;
        unmap_and_owe(&device, strategy, 0)?;
        let untouched = refault(&device, NR_AT_ONCE)?;
        ensure!(untouched == NR_AT_ONCE + 1, "a page that was not unmapped");
        let hits = device.counters()?.nr_pending_hits;
        ensure!(hits == 0, "a page that was not unmapped is not pending");
        ensure!(refault(&device, 1)? == 0, "the old page is mapped again");
        let hits = device.counters()?.nr_pending_hits;
        ensure!(hits == 1, "{hits} faults have met a pending batch");
        expect_released(&device, NR_AT_ONCE)?;
        expect_fresh(&mapping, NR_AT_ONCE)?;
        unmap_and_owe(&device, strategy, NR_AT_ONCE)?;
        leave(&device, 1, 0, 0)?;
        expect_fresh(&mapping, 2 * NR_AT_ONCE)?;
    }
    Ok(())
}

pub fn a_fault_on_one_file_flushes_for_the_other(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (outer, outer_mapping) = written()?;
        let (inner, inner_mapping) = written()?;
        enter(&outer, strategy, None, 1)?;
        enter(&inner, strategy, Some(&outer), 2)?;
        unmap_and_owe(&outer, strategy, 0)?;
        unmap_and_owe(&inner, strategy, 0)?;
        ensure!(refault(&inner, 2)? == 0, "the old page is mapped again");
        expect_fresh(&inner_mapping, NR_AT_ONCE)?;
        // Flushed for the other as well, which gets its pages back when it is used.
        expect_released(&outer, NR_AT_ONCE)?;
        expect_fresh(&outer_mapping, NR_AT_ONCE)?;
        leave(&inner, 0, 0, 1)?;
        leave(&outer, 0, 0, 0)?;
        expect_released(&inner, NR_AT_ONCE)?;
    }
    Ok(())
}

/// What is to be saved must not change any more (H14).
pub fn dirty_pages_that_are_saved_flush_at_once(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = written()?;
        enter(&device, strategy, None, 1)?;
        for first in [0, NR_AT_ONCE] {
            let pages = Selection::run(first, NR_AT_ONCE);
            let reply = device.unmap(&pages, strategy, abi::UNMAP_WRITE_BACK)?;
            ensure!(reply.nr_written_back == NR_AT_ONCE, "{reply:?}");
            ensure!(reply.nr_flush_calls == 1, "dirty pages: {reply:?}");
        }
        // All have come back, and are clean.
        expect_fresh(&mapping, 0)?;
        let pages = Selection::run(0, NR_AT_ONCE);
        let reply = device.unmap(&pages, strategy, abi::UNMAP_WRITE_BACK)?;
        ensure!(reply.nr_flush_calls == 0, "clean pages: {reply:?}");
        leave(&device, 1, 0, 0)?;
        expect_fresh(&mapping, 0)?;
    }
    Ok(())
}

pub fn the_flush_call_flushes(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (outer, outer_mapping) = written()?;
        let (inner, inner_mapping) = written()?;
        enter(&outer, strategy, None, 1)?;
        enter(&inner, strategy, Some(&outer), 2)?;
        unmap_and_owe(&outer, strategy, 0)?;
        unmap_and_owe(&inner, strategy, 0)?;
        let flush = inner.flush()?;
        ensure!(flush.nr_flush_calls == 1, "{flush:?}");
        expect_fresh(&outer_mapping, NR_AT_ONCE)?;
        expect_fresh(&inner_mapping, NR_AT_ONCE)?;
        ensure!(outer.flush()?.nr_flush_calls == 0, "flushed twice");
        unmap_and_owe(&outer, strategy, NR_AT_ONCE)?;
        leave(&outer, 0, 0, 1)?;
        leave(&inner, 1, 0, 0)?;
        expect_released(&outer, 2 * NR_AT_ONCE)?;
        expect_released(&inner, NR_AT_ONCE)?;
        expect_fresh(&outer_mapping, 2 * NR_AT_ONCE)?;
    }
    Ok(())
}

/// Room for two unmaps, and not for three.
const PARAMETERS: &str = "max_pending=11";

pub fn a_full_batch_flushes(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    kernel_module::load(PARAMETERS)?.context(PARAMETERS)?;
    for strategy in STRATEGIES {
        let (device, mapping) = written()?;
        enter(&device, strategy, None, 1)?;
        let most = device.unmap(&Selection::run(0, 12), strategy, 0);
        ensure!(most == Err(Errno::TOOBIG), "12 pages: {most:?}");
        unmap_and_owe(&device, strategy, 0)?;
        unmap_and_owe(&device, strategy, NR_AT_ONCE)?;
        let full = device.counters()?.nr_flushed_full;
        ensure!(full == 0, "it was flushed too early");
        device.unmap(&Selection::run(2 * NR_AT_ONCE, NR_AT_ONCE), strategy, 0)?;
        let counters = device.counters()?;
        ensure!(counters.nr_flushed_full == 1, "{counters:?}");
        ensure!(counters.nr_recycled == 2 * NR_AT_ONCE, "{counters:?}");
        ensure!(counters.nr_pending == NR_AT_ONCE, "{counters:?}");
        leave(&device, 1, 0, 0)?;
        expect_released(&device, 3 * NR_AT_ONCE)?;
        expect_fresh(&mapping, 3 * NR_AT_ONCE)?;
    }
    Ok(())
}

pub fn an_old_batch_flushes(_: &Options) -> Result<()> {
    let _again = with_short_age()?;
    for strategy in STRATEGIES {
        let (outer, outer_mapping) = written()?;
        let (inner, inner_mapping) = written()?;
        enter(&outer, strategy, None, 1)?;
        enter(&inner, strategy, Some(&outer), 2)?;
        unmap_and_owe(&outer, strategy, 0)?;
        unmap_and_owe(&inner, strategy, 0)?;
        await_release(&outer)?;
        await_release(&inner)?;
        let nr_old = outer.counters()?.nr_flushed_old + inner.counters()?.nr_flushed_old;
        ensure!(nr_old > 0, "it was not for its age");
        expect_released(&outer, NR_AT_ONCE)?;
        expect_released(&inner, NR_AT_ONCE)?;
        expect_fresh(&outer_mapping, NR_AT_ONCE)?;
        expect_fresh(&inner_mapping, NR_AT_ONCE)?;
        leave(&inner, 0, 0, 1)?;
        leave(&outer, 0, 0, 0)?;
    }
    Ok(())
}
