// SPDX-License-Identifier: GPL-2.0

//! Writes between the two phases: they fault, are let through, and make the page dirty again.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use anyhow::{ensure, Result};

use super::{all, NR_PAGES, STRATEGIES};
use crate::abi::{self, strategy};
use crate::device::{strategy_name, Device};
use crate::ktap::Options;
use crate::selection::Selection;
use crate::writers::Writers;

const IN_TWO: u32 = abi::UNMAP_TWO_PHASE | abi::UNMAP_WRITE_BACK;

/// So many that the writers, who go around, do not come to a page at once.
const NR_WRITTEN: u64 = 2048;
/// Those that are unmapped at a time: read shortly before, so that they are clean.
const NR_AT_ONCE: u64 = 8;

const MAX_TRIES: u64 = 4000;
/// Writes between the phases after which it is enough.
const NR_ENOUGH: u64 = 4;

pub fn a_write_between_the_phases_is_seen(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let device = Device::open()?;
        let mapping = Arc::new(device.map(NR_WRITTEN)?);
        let writers = Writers::start(&mapping)?;
        let (mut nr_seen, mut nr_tries, mut nr_protected) = (0, 0, 0);
        while nr_seen < NR_ENOUGH && nr_tries < MAX_TRIES && writers.nr_lost() == 0 {
            let first = nr_tries * NR_AT_ONCE % NR_WRITTEN;
            let pages = Selection::run(first, NR_AT_ONCE);
            device.unmap(&pages, strategy::BROADCAST, abi::UNMAP_WRITE_BACK)?;
            pages.pages().iter().for_each(|&page| {
                mapping.word(page, 0).load(Relaxed);
            });
            let reply = device.unmap(&pages, strategy, IN_TWO)?;
            ensure!(reply.nr_redirtied <= reply.nr_protected, "{reply:?}");
            nr_seen += reply.nr_redirtied;
            nr_protected += reply.nr_protected;
            nr_tries += 1;
        }
        println!("# {nr_seen} of {nr_protected} PTEs, in {nr_tries} unmaps");
        let nr_lost = writers.finish()?;
        ensure!(nr_lost == 0, "{nr_lost} writes were lost");
        ensure!(nr_seen > 0, "no write was seen between the phases");
        let counted = device.counters()?.nr_redirtied;
        ensure!(counted == nr_seen, "{counted} counted, {nr_seen} told");
    }
    Ok(())
}

pub fn no_write_is_lost(options: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let device = Device::open()?;
        let mapping = Arc::new(device.map(NR_PAGES)?);
        let writers = Writers::start(&mapping)?;
        for _ in 0..40 * options.effort {
            writers.await_passes(1)?;
            device.unmap(&all(), strategy, IN_TWO)?;
        }
        let nr_lost = writers.finish()?;
        ensure!(
            nr_lost == 0,
            "{}: {nr_lost} writes",
            strategy_name(strategy)
        );
    }
    Ok(())
}
