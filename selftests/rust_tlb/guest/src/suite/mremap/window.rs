// SPDX-License-Identifier: GPL-2.0

//! Someone takes a moved page by its new address while an old translation may still be there: a hole
//! is punched into shared memory. He has to wait for the flush; if not, a CPU reads a free page.

use core::hint;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, AtomicUsize};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Result};
use rustix::fd::OwnedFd;
use rustix::fs::FallocateFlags;

use super::broken;
use super::memory::{Ground, Kind, KINDS};
use crate::arena::{Leave, Span, PMD_SIZE};
use crate::cpu;
use crate::huge_pages::Setting;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::mremap_runs::{fault, Runs};

const NR_PMDS: usize = 3;
/// As in the suite `stale`.
const NR_ATTEMPTS: usize = 3;
/// How long it is watched that nothing happens, and how long it is waited for what has to.
const WHILE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);

const STAMP: u64 = 0x5354_414d_5053_5441;

const WARM: usize = 1;
const OPEN: usize = 2;
const PUNCHED: usize = 3;
const READ: usize = 4;

/// What there is to see.
#[derive(Debug)]
struct Seen {
    /// Whether the hole was there while the run waited.
    punched_early: bool,
    /// What was read by the old address once the hole was there: 0, from the hole.
    read: u64,
}

/// The page that is looked at, and punched with what is mapped with it.
fn place(kind: Kind) -> (usize, usize) {
    match kind {
        Kind::HugePmds => (PMD_SIZE, PMD_SIZE),
        _ => (PMD_SIZE + 7 * PAGE_SIZE, PAGE_SIZE),
    }
}

fn punch(file: &OwnedFd, at: usize, len: usize) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, at as u64, len as u64)?)
}

/// Moves shared memory in a run that waits, and punches a hole meanwhile.
fn punch_while_a_run_waits(runs: &Runs, kind: Kind, patience: Duration) -> Result<Seen> {
    let ground = Ground::new(kind, NR_PMDS)?;
    let file = ground.map_shared()?;
    let (old, new) = (ground.old(), ground.new_place());
    (0..old.len())
        .step_by(PAGE_SIZE)
        .for_each(|at| old.word(at).store(STAMP, Relaxed));
    let (at, len) = place(kind);
    let (step, read) = (AtomicUsize::new(0), AtomicU64::new(0));
    let punched_early = thread::scope(|scope| {
        let reader = scope.spawn(|| read_after_punch(&old.part(at, len), &step, &read));
        wait_for(|| step.load(Acquire) >= WARM, PATIENCE);
        // Both before the move: while that waits, nobody can be given a stack.
        let puncher = scope.spawn(|| -> Result<()> {
            cpu::pin_worker(2)?;
            wait_for(|| step.load(Acquire) >= OPEN, PATIENCE);
            punch(&file, at, len)
        });
        let mover = scope.spawn(|| -> Result<()> {
            cpu::pin_worker(1)?;
            Ok(old.move_to(&new, Leave::Mapping)?)
        });
        runs.await_window()?;
        step.store(OPEN, Release);
        let punched_early = wait_for(|| puncher.is_finished(), patience);
        if !punched_early {
            runs.close_window()?;
        }
        puncher.join().expect("the puncher does not panic")?;
        step.store(PUNCHED, Release);
        // A reader who knows no old translation waits for the mover.
        wait_for(|| step.load(Acquire) >= READ, patience);
        runs.close_window()?;
        mover.join().expect("the mover does not panic")?;
        reader.join().expect("the reader does not panic")?;
        Ok::<_, anyhow::Error>(punched_early)
    })?;
    let read = read.into_inner();
    Ok(Seen {
        punched_early,
        read,
    })
}

fn read_after_punch(old: &Span<'_>, step: &AtomicUsize, read: &AtomicU64) -> Result<()> {
    cpu::pin_worker(0)?;
    let before = old.word(0).load(Relaxed);
    step.store(WARM, Release);
    while step.load(Acquire) < PUNCHED {
        hint::spin_loop();
    }
    read.store(old.word(0).load(Relaxed), Relaxed);
    step.store(READ, Release);
    ensure!(before == STAMP, "{before:#x} before");
    Ok(())
}

/// Waits until `done`, but not for longer than `patience`; returns whether it is.
fn wait_for(done: impl Fn() -> bool, patience: Duration) -> bool {
    let start = Instant::now();
    while !done() && start.elapsed() < patience {
        thread::sleep(Duration::from_millis(1));
    }
    done()
}

pub fn a_punch_waits_for_the_flush(_: &Options) -> Result<()> {
    let runs = broken(fault::HOLD)?;
    let _huge = Setting::huge_pages_by_advice()?;
    for kind in KINDS {
        for _ in 0..NR_ATTEMPTS {
            let seen = punch_while_a_run_waits(&runs, kind, WHILE)?;
            ensure!(!seen.punched_early && seen.read == 0, "{kind:?}: {seen:x?}");
        }
    }
    Ok(())
}
