// SPDX-License-Identifier: GPL-2.0

//! How many rounds a move takes, by the kernel's own count. The move leaves its old mapping: to unmap
//! that takes rounds, too, which are none of the move's.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};

use super::memory::{Ground, Kind, KINDS};
use super::runs;
use crate::arena::{Leave, Span, PMD_SIZE};
use crate::busy::Busy;
use crate::ftrace::Tracing;
use crate::huge_pages::Setting;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::mremap_runs::{Runs, MAX};
use crate::tlb_events::{most_common, TlbEvents};

/// A GiB; and what has to do where each entry takes a round, which takes long.
const NR_PMDS: usize = 512;
const NR_FEW_PMDS: usize = 64;
const NR_OTHERS: usize = 3;
/// Moves of which the most common count counts.
const NR_MOVES: u32 = 3;

/// The words that are written: in the first and the last page of each PTE table, so that both parts of
/// a table that is cut have a page; a huge page is only read, and all of them are one.
fn words(kind: Kind, len: usize) -> impl Iterator<Item = usize> {
    let pages: &[usize] = match kind {
        Kind::HugePmds => &[],
        _ => &[0, PMD_SIZE - PAGE_SIZE],
    };
    (0..len)
        .step_by(PMD_SIZE)
        .flat_map(move |pmd| pages.iter().map(move |page| pmd + page))
}

fn fill(kind: Kind, span: &Span<'_>) {
    for at in words(kind, span.len()) {
        span.word(at).store(at as u64 + 1, Relaxed);
    }
    for pmd in (0..span.len()).step_by(PMD_SIZE) {
        span.word(pmd).load(Relaxed);
    }
}

fn check(kind: Kind, span: &Span<'_>) -> Result<()> {
    for at in words(kind, span.len()) {
        let value = span.word(at).load(Relaxed);
        ensure!(value == at as u64 + 1, "{value:#x} at {at:#x}");
    }
    Ok(())
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// Rounds of one move of `nr_pmds`.
fn move_once(kind: Kind, nr_pmds: usize) -> Result<TlbEvents> {
    let ground = Ground::new(kind, nr_pmds)?;
    let (old, new) = (ground.map()?, ground.new_place());
    fill(kind, &old);
    let before = read_events()?;
    old.move_to(&new, Leave::Mapping)?;
    let events = read_events()?.since(before);
    check(kind, &new)?;
    Ok(events)
}

/// Rounds of a move in runs of at most `max`, as they are most often.
fn rounds(runs: &Runs, kind: Kind, max: u32, nr_pmds: usize) -> Result<u64> {
    let _huge = Setting::huge_pages_by_advice()?;
    runs.set_max(max)?;
    let busy = Busy::start(NR_OTHERS);
    let moves: Result<Vec<u64>> = (0..NR_MOVES)
        .map(|_| Ok(move_once(kind, nr_pmds)?.remote_flush))
        .collect();
    drop(busy);
    let moves = moves?;
    println!("# {kind:?}, {nr_pmds} PMDs, runs of at most {max}: rounds {moves:?}");
    Ok(most_common(moves))
}

fn expect_rounds(kind: Kind, max: u32, nr_pmds: usize, expected: u64) -> Result<()> {
    let rounds = rounds(&runs()?, kind, max, nr_pmds)?;
    ensure!(rounds == expected, "{rounds} rounds, not {expected}");
    Ok(())
}

pub fn an_aligned_gib_takes_eight_rounds(_: &Options) -> Result<()> {
    expect_rounds(Kind::Tables, MAX, NR_PMDS, 8)
}

pub fn huge_pages_of_a_gib_take_eight_rounds(_: &Options) -> Result<()> {
    expect_rounds(Kind::HugePmds, MAX, NR_PMDS, 8)
}

pub fn an_unaligned_gib_takes_sixteen_rounds(_: &Options) -> Result<()> {
    expect_rounds(Kind::Ptes, MAX, NR_PMDS, 16)
}

/// In the same boot, an eighth of a GiB: what the runs are compared with.
pub fn without_runs_each_entry_takes_a_round(_: &Options) -> Result<()> {
    for (kind, each, in_runs) in [
        (Kind::Tables, 1, 1),
        (Kind::HugePmds, 1, 1),
        (Kind::Ptes, 2, 2),
    ] {
        expect_rounds(kind, 1, NR_FEW_PMDS, each * NR_FEW_PMDS as u64)?;
        expect_rounds(kind, MAX, NR_FEW_PMDS, in_runs)?;
    }
    Ok(())
}

/// Where there is nothing to share, the locks of the reverse mapping are not taken for it.
pub fn a_small_move_has_no_run(_: &Options) -> Result<()> {
    let _runs = runs()?;
    let _huge = Setting::huge_pages_by_advice()?;
    let tracing = Tracing::new(&["mremap"])?.context("the kernel does not have the events")?;
    for kind in KINDS {
        let ((), events) = tracing.record(|| move_once(kind, 1).map(drop))?;
        ensure!(events.is_empty(), "{kind:?}: {events:?}");
        let ((), events) = tracing.record(|| move_once(kind, 2).map(drop))?;
        ensure!(events.len() == 2, "{kind:?}: {events:?}");
    }
    Ok(())
}
