// SPDX-License-Identifier: GPL-2.0

//! Secondary MMUs are told that a move is over after the CPUs' own flush: from then on they may map
//! what is there now.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::thread;

use anyhow::{ensure, Result};

use super::broken;
use super::memory::{Ground, Kind, KINDS};
use crate::arena::{Leave, PMD_SIZE};
use crate::bracket_watch::{BracketWatch, Seen};
use crate::huge_pages::Setting;
use crate::ktap::Options;
use crate::mremap_runs::{fault, Runs};

/// One run.
const NR_PMDS: usize = 3;
const NR_MOVES: u64 = 10;

/// Moves memory, and lets a run go on that waits.
fn move_watched(runs: &Runs, kind: Kind) -> Result<Seen> {
    let ground = Ground::new(kind, NR_PMDS)?;
    let (old, new) = (ground.map()?, ground.new_place());
    (0..old.len())
        .step_by(PMD_SIZE)
        .for_each(|at| old.word(at).store(1, Relaxed));
    let (is_ready, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let closer = scope.spawn(|| -> Result<()> {
            while !is_over.load(Acquire) {
                if runs.window_is_open()? {
                    runs.close_window()?;
                }
                is_ready.store(true, Release);
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        while !is_ready.load(Acquire) && !closer.is_finished() {
            thread::yield_now();
        }
        let watch = BracketWatch::of(&old);
        let moved = old.move_to(&new, Leave::Mapping);
        let seen = watch.and_then(|watch| watch.seen());
        is_over.store(true, Release);
        closer.join().expect("it does not panic")?;
        moved?;
        seen
    })
}

fn expect(faults: u32, kinds: &[Kind], nr_moves: u64, unflushed: bool) -> Result<()> {
    let runs = broken(faults)?;
    let _huge = Setting::huge_pages_by_advice()?;
    let expected = Seen {
        nr_ended: 1,
        nr_unflushed: unflushed.into(),
    };
    for kind in kinds {
        for _ in 0..nr_moves {
            let seen = move_watched(&runs, *kind)?;
            ensure!(seen == expected, "{kind:?}: {seen:?}");
        }
    }
    Ok(())
}

pub fn the_bracket_ends_after_the_flush(options: &Options) -> Result<()> {
    expect(0, &KINDS, NR_MOVES * u64::from(options.effort), false)
}

/// Only where all of it is one run, whatever happens: one of PTEs may stop where the scheduler asks
/// for it, and there may be no memory for a huge page. What moves by itself has a flush of its own.
pub fn control_a_bracket_that_ends_before_the_flush(_: &Options) -> Result<()> {
    expect(fault::END_FIRST, &[Kind::Tables], NR_MOVES, true)
}
