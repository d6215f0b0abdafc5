// SPDX-License-Identifier: GPL-2.0

//! A driver's mapping, moved by the kernel's `mremap()`: it is told, the pages are what they were, and
//! the driver can take them back by their new address.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rustix::mm::MapFlags;

use super::memory::{Ground, Kind};
use super::runs;
use crate::abi::strategy;
use crate::arena::{Leave, Span, PMD_SIZE};
use crate::busy::Busy;
use crate::device::Device;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};

/// Enough to share a flush: PTEs in pieces of four, where they do not lie alike.
const NR_PMDS: usize = 2;
const NR_PAGES: u64 = (NR_PMDS * PMD_SIZE / PAGE_SIZE) as u64;
const NR_OTHERS: usize = 3;
const NR_MOVES: u64 = 3;

fn pages(span: &Span<'_>) -> impl Iterator<Item = usize> {
    (0..span.len()).step_by(PAGE_SIZE)
}

fn check(span: &Span<'_>) -> Result<()> {
    let wrong = pages(span).find(|&at| span.word(at).load(Relaxed) != at as u64 + 1);
    ensure!(wrong.is_none(), "lost at {wrong:x?}");
    Ok(())
}

/// Moves all pages of a device, whose mapping goes; returns the rounds.
fn move_once(kind: Kind) -> Result<u64> {
    let ground = Ground::new(kind, NR_PMDS)?;
    let (old, new) = (ground.old(), ground.new_place());
    let device = Device::open()?;
    old.map_file(device.file(), 0, MapFlags::SHARED)?;
    pages(&old).for_each(|at| old.word(at).store(at as u64 + 1, Relaxed));
    let faults = device.counters()?.nr_faults;
    let before = events()?;
    old.move_to(&new, Leave::Mapping)?;
    let rounds = events()?.since(before).remote_flush;
    check(&new)?;
    let counters = device.counters()?;
    let told = (counters.nr_moves, counters.nr_moved_pages);
    ensure!(told == (1, NR_PAGES), "told of {told:?}");
    ensure!(counters.nr_faults == faults, "PTEs did not move");
    // All of them, by their new address: a PTE each, and fresh pages after.
    let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy::PRECISE, 0)?;
    ensure!(reply.nr_ptes == NR_PAGES, "{reply:?}");
    let fresh = pages(&new).all(|at| new.word(at).load(Relaxed) == 0);
    ensure!(fresh, "old pages");
    Ok(rounds)
}

fn events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

pub fn a_device_mapping_moves_in_one_round(_: &Options) -> Result<()> {
    let runs = runs()?;
    for (kind, without_runs) in [
        (Kind::Tables, NR_PMDS as u64),
        (Kind::Ptes, 2 * NR_PMDS as u64),
    ] {
        for (max, expected) in [(1, without_runs), (64, 1)] {
            runs.set_max(max)?;
            let busy = Busy::start(NR_OTHERS);
            let moves: Result<Vec<u64>> = (0..NR_MOVES).map(|_| move_once(kind)).collect();
            drop(busy);
            let rounds = most_common(moves?);
            ensure!(
                rounds == expected,
                "{kind:?}, runs of {max}: {rounds}, not {expected}"
            );
        }
    }
    Ok(())
}
