// SPDX-License-Identifier: GPL-2.0

//! What a scope saves, in flush rounds and IPIs as the kernel counts them, with all other CPUs busy
//! (see the suite `counts`).

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};

use super::super::counts::{for_each_mapped_by, NR_OTHER_CPUS};
use super::enter;
use crate::abi::strategy;
use crate::counted::{CountedDevice, MappedBy};
use crate::device::Device;
use crate::ktap::Options;
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};

const NR_UNMAPS: u64 = 16;
/// Pages of each unmap, no two of them neighbours.
const NR_PAGES: u64 = 32;
const NR_MAPPED: u64 = 2 * NR_UNMAPS * NR_PAGES;

const NR_ROUNDS: u32 = 5;

/// Rounds that asked other CPUs, and IPIs: the most common of several counts.
fn count(
    options: &Options,
    counted: &CountedDevice,
    before: impl Fn() -> Result<()>,
    work: impl Fn(&Device) -> Result<()>,
) -> Result<(u64, u64)> {
    let mut counts: Vec<TlbEvents> = Vec::new();
    for _ in 0..NR_ROUNDS * options.effort {
        before()?;
        counts.push(counted.counted(&work)?.1);
    }
    let rounds = most_common(counts.iter().map(|events| events.remote_flush));
    let ipis = most_common(counts.iter().map(|events| events.remote_flush_received));
    println!("# {rounds} rounds, {ipis} IPIs");
    Ok((rounds, ipis))
}

/// Unmaps all that is counted, a part at a time.
fn unmap_all(device: &Device) -> Result<()> {
    for unmap in 0..NR_UNMAPS {
        let pages = Selection::scattered(2 * NR_PAGES * unmap, NR_PAGES);
        let reply = device.unmap(&pages, strategy::BROADCAST, 0)?;
        ensure!(reply.nr_pages == NR_PAGES, "{reply:?}");
    }
    Ok(())
}

fn unmap_all_in_a_scope(device: &Device) -> Result<()> {
    enter(device, strategy::BROADCAST, None, 1)?;
    unmap_all(device)?;
    device.leave()?;
    Ok(())
}

/// Demands `expected` rounds for all unmaps together.
fn expect_rounds(
    options: &Options,
    expected: u64,
    work: impl Fn(&Device) -> Result<()>,
) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let counted = CountedDevice::new(mapped_by, NR_MAPPED)?;
        let (rounds, ipis) = count(options, &counted, || Ok(()), &work)?;
        ensure!(rounds == expected, "{mapped_by:?}: {rounds} rounds");
        let most = expected * NR_OTHER_CPUS;
        ensure!((1..=most).contains(&ipis), "{mapped_by:?}: {ipis} IPIs");
        Ok(())
    })
}

pub fn sixteen_unmaps_in_a_scope_take_one_round(options: &Options) -> Result<()> {
    expect_rounds(options, 1, unmap_all_in_a_scope)
}

pub fn sixteen_unmaps_take_sixteen_rounds(options: &Options) -> Result<()> {
    expect_rounds(options, NR_UNMAPS, unmap_all)
}

/// Where processes map, the second file is mapped where the first one is not used: in the
/// driver alone, which would flush for it by itself.
pub fn unmaps_of_two_files_in_a_scope_take_one_round(options: &Options) -> Result<()> {
    for_each_mapped_by(|mapped_by| {
        let (counted, inner) = (CountedDevice::new(mapped_by, NR_MAPPED)?, Device::open()?);
        let mapping = inner.map(NR_MAPPED)?;
        let touch = || {
            for page in 0..NR_MAPPED {
                mapping.word(page, 0).load(Relaxed);
            }
            Ok(())
        };
        let both = |shared: bool| {
            count(options, &counted, touch, |outer| {
                enter(outer, strategy::BROADCAST, None, 1)?;
                let (scope, nr_levels) = if shared { (Some(outer), 2) } else { (None, 1) };
                enter(&inner, strategy::BROADCAST, scope, nr_levels)?;
                unmap_all(outer)?;
                unmap_all(&inner)?;
                inner.leave()?;
                outer.leave()?;
                Ok(())
            })
        };
        let (rounds, ipis) = both(true)?;
        ensure!(rounds == 1, "{mapped_by:?}: {rounds} rounds");
        ensure!(ipis <= NR_OTHER_CPUS, "{mapped_by:?}: {ipis} IPIs");
        // A scope each: two rounds, where both are mapped on other CPUs.
        let (rounds, _) = both(false)?;
        let expected = if matches!(mapped_by, MappedBy::Threads(_)) {
            2
        } else {
            1
        };
        ensure!(rounds == expected, "{mapped_by:?}: {rounds} rounds");
        Ok(())
    })
}
