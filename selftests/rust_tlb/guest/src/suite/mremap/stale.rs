// SPDX-License-Identifier: GPL-2.0

//! Old translations, after a move that leaves its old mapping, anonymous: whoever reads by an old
//! address finds a new page, full of zeros, unless his CPU knows the old one still.

use core::hint;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, AtomicUsize};
use std::thread;

use anyhow::{ensure, Result};

use super::memory::{Ground, Kind, KINDS};
use super::{broken, runs};
use crate::arena::{Leave, Span, PMD_SIZE};
use crate::attempts::{caught_every_time, Attempt};
use crate::cpu;
use crate::huge_pages::Setting;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::mremap_runs::fault;
use crate::witness::Witness;

const NR_PMDS: usize = 8;
const NR_ROUNDS: u64 = 8;
/// Of each kind.
const NR_STALE: u32 = 10;

const WARM: usize = 1;
const MOVED: usize = 2;

/// The pages that are looked at: of each PMD one, never its first.
fn words(len: usize) -> impl Iterator<Item = usize> {
    (0..len)
        .step_by(PMD_SIZE)
        .map(|pmd| pmd + (5 + pmd / PMD_SIZE) * PAGE_SIZE)
}

/// Has another CPU read by the old addresses before and after a move. Returns how many reads found
/// what has moved, and whether that CPU has kept what nobody flushed.
fn nr_stale(kind: Kind) -> Result<(u64, bool)> {
    let witness = Witness::new()?;
    let ground = Ground::new(kind, NR_PMDS)?;
    let (old, new) = (ground.map()?, ground.new_place());
    words(old.len()).for_each(|at| old.word(at).store(at as u64, Relaxed));
    let step = AtomicUsize::new(0);
    let nr_stale = AtomicU64::new(0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_before_and_after(&old, &witness, &step, &nr_stale));
        await_step(&step, WARM);
        let expected = witness.expect();
        let moved = old.move_to(&new, Leave::Mapping);
        step.store(MOVED, Release);
        reader.join().expect("the reader does not panic")?;
        moved?;
        expected
    })?;
    for at in words(new.len()) {
        ensure!(new.word(at).load(Relaxed) == at as u64, "lost at {at:#x}");
    }
    Ok((nr_stale.into_inner(), witness.is_kept()?))
}

fn read_before_and_after(
    old: &Span<'_>,
    witness: &Witness,
    step: &AtomicUsize,
    nr_stale: &AtomicU64,
) -> Result<()> {
    let pinned = cpu::pin_worker(0);
    let read = || words(old.len()).filter(|&at| old.word(at).load(Relaxed) != 0);
    let nr_warm = read().count();
    witness.look();
    step.store(WARM, Release);
    await_step(step, MOVED);
    nr_stale.store(read().count() as u64, Relaxed);
    witness.look();
    pinned?;
    ensure!(nr_warm == words(old.len()).count(), "{nr_warm} before");
    Ok(())
}

fn await_step(step: &AtomicUsize, wanted: usize) {
    while step.load(Acquire) < wanted {
        hint::spin_loop();
    }
}

/// Demands that no move leaves anything.
fn expect_none(kinds: &[Kind], nr_rounds: u64) -> Result<()> {
    let _huge = Setting::huge_pages_by_advice()?;
    for kind in kinds {
        for _ in 0..nr_rounds {
            let (nr, _) = nr_stale(*kind)?;
            ensure!(nr == 0, "{kind:?}: {nr} stale reads");
        }
    }
    Ok(())
}

/// Demands that a broken rule is seen every time.
fn expect_some(kinds: &[Kind]) -> Result<()> {
    let _huge = Setting::huge_pages_by_advice()?;
    for kind in kinds {
        println!("# {kind:?}");
        caught_every_time(NR_STALE, || {
            let (nr, undisturbed) = nr_stale(*kind)?;
            Ok(Attempt::judge(nr > 0, undisturbed, || {
                "no stale read".into()
            }))
        })?;
    }
    Ok(())
}

pub fn old_translations_are_gone(options: &Options) -> Result<()> {
    let runs = runs()?;
    for max in [1, 2, 3, 7, 64] {
        runs.set_max(max)?;
        expect_none(&KINDS, NR_ROUNDS * u64::from(options.effort))?;
    }
    Ok(())
}

/// As where a table vanishes that was there a moment ago.
pub fn a_run_that_stops_early_flushes(options: &Options) -> Result<()> {
    let _runs = broken(fault::STOP_EARLY)?;
    expect_none(&KINDS, NR_ROUNDS * u64::from(options.effort))
}

pub fn control_a_stop_without_its_flush(_: &Options) -> Result<()> {
    let _runs = broken(fault::STOP_EARLY | fault::UNFLUSHED)?;
    expect_some(&KINDS)
}

/// A table that is moved has 512 pages, and all of them are cached by their old addresses.
pub fn control_a_flush_by_pmd(_: &Options) -> Result<()> {
    let _runs = broken(fault::STRIDE_OF_PMD)?;
    expect_some(&[Kind::Tables, Kind::Ptes])?;
    // A huge page is one address: here it is right.
    expect_none(&[Kind::HugePmds], NR_ROUNDS)
}
