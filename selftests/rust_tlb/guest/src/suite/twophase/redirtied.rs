// SPDX-License-Identifier: GPL-2.0

//! Writes between the two phases: they fault, are let through, and make the page dirty again.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use anyhow::{ensure, Result};

use super::{all, NR_PAGES, STRATEGIES};
use crate::abi::{self, strategy};
use crate::device::{strategy_name, Device};
use crate::interruption::{interrupting, Look};
use crate::ktap::Options;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::writers::Writers;

const IN_TWO: u32 = abi::UNMAP_TWO_PHASE | abi::UNMAP_WRITE_BACK;

/// The pages of several page tables: the first phase is interrupted between two of them, at least.
const NR_WRITTEN: u64 = 2048;
/// Unmaps of which one has to be interrupted between the phases of a page.
const MAX_UNMAPS: u32 = 50;

pub fn a_write_between_the_phases_is_seen(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let device = Device::open()?;
        let mapping = device.map(NR_WRITTEN)?;
        let mut contents = vec![0; NR_WRITTEN as usize];
        let (mut nr_seen, mut nr_unmaps) = (0, 0);
        while nr_seen == 0 && nr_unmaps < MAX_UNMAPS {
            nr_seen += unmap_while_written(&device, &mapping, strategy, &mut contents)?;
            nr_unmaps += 1;
            for (page, written) in contents.iter().enumerate() {
                let value = mapping.word(page as u64, 0).load(Relaxed);
                ensure!(value == *written, "page {page}: {value}, not {written}");
            }
        }
        println!("# {nr_seen} writes, in {nr_unmaps} unmaps");
        ensure!(nr_seen > 0, "no write was seen between the phases");
        let counted = device.counters()?.nr_redirtied;
        ensure!(counted == nr_seen, "{counted} counted, {nr_seen} told");
    }
    Ok(())
}

/// Unmaps all pages, which are clean, in two phases, and writes to one after the other wherever that
/// stands still. A write to a page that is gone waits for the unmap.
fn unmap_while_written(
    device: &Device,
    mapping: &Mapping,
    strategy: u32,
    contents: &mut [u64],
) -> Result<u64> {
    let pages = Selection::run(0, NR_WRITTEN);
    device.unmap(&pages, strategy::BROADCAST, abi::UNMAP_WRITE_BACK)?;
    (0..NR_WRITTEN).for_each(|page| {
        mapping.word(page, 0).load(Relaxed);
    });
    let mut rest = contents.iter_mut().enumerate();
    let write_one = || {
        let Some((page, written)) = rest.next() else {
            return Look::Enough;
        };
        *written += 1;
        mapping.word(page as u64, 0).store(*written, Relaxed);
        Look::Again
    };
    let reply = interrupting(write_one, || Ok(device.unmap(&pages, strategy, IN_TWO)?))?;
    ensure!(reply.nr_redirtied <= reply.nr_protected, "{reply:?}");
    Ok(reply.nr_redirtied)
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
