// SPDX-License-Identifier: GPL-2.0

//! Reclaim takes the locks of the reverse mapping: who allocates with them held may wait for himself.
//! Told by the kernel's events.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::event::Event;
use rustix::thread::gettid;

use super::memory::{Ground, Kind, KINDS};
use super::{broken, runs};
use crate::arena::{Leave, PMD_SIZE};
use crate::ftrace::Tracing;
use crate::huge_pages::Setting;
use crate::ktap::Options;
use crate::mremap_runs::fault;

const NR_PMDS: usize = 16;

const EVENTS: [&str; 4] = [
    "mremap",
    "kmem/kmalloc",
    "kmem/kmem_cache_alloc",
    "kmem/mm_page_alloc",
];

/// What a move of a kind is told by, in the task that moves.
fn events_of(tracing: &Tracing, kind: Kind) -> Result<Vec<Event>> {
    let ground = Ground::new(kind, NR_PMDS)?;
    let (old, new) = (ground.map()?, ground.new_place());
    (0..old.len())
        .step_by(PMD_SIZE)
        .for_each(|at| old.word(at).store(1, Relaxed));
    let ((), mut events) = tracing.record(|| Ok(old.move_to(&new, Leave::Nothing)?))?;
    let tid = gettid().as_raw_nonzero().get() as u32;
    events.retain(|event| event.pid == tid);
    Ok(events)
}

/// Allocations in and outside of runs.
fn allocations(events: &[Event]) -> (usize, usize) {
    let (mut is_inside, mut inside, mut outside) = (false, 0, 0);
    for event in events {
        match event.name.as_str() {
            "mremap_run_begin" => is_inside = true,
            "mremap_run_end" => is_inside = false,
            _ if is_inside => inside += 1,
            _ => outside += 1,
        }
    }
    (inside, outside)
}

fn count(tracing: &Tracing, kind: Kind) -> Result<usize> {
    let events = events_of(tracing, kind)?;
    let nr_runs = events
        .iter()
        .filter(|event| event.name == "mremap_run_end")
        .count();
    let (inside, outside) = allocations(&events);
    println!("# {kind:?}: {nr_runs} runs, allocations: {inside} in them, {outside} outside");
    ensure!(
        nr_runs > 0 && outside > 0,
        "{kind:?}: no run, or nothing is told"
    );
    Ok(inside)
}

fn tracing() -> Result<Tracing> {
    Tracing::new(&EVENTS)?.context("the kernel does not have the events")
}

pub fn nothing_is_allocated_under_the_locks(_: &Options) -> Result<()> {
    let _runs = runs()?;
    let _huge = Setting::huge_pages_by_advice()?;
    let tracing = tracing()?;
    for kind in KINDS {
        let nr = count(&tracing, kind)?;
        ensure!(nr == 0, "{kind:?}: {nr} allocations");
    }
    Ok(())
}

pub fn control_an_allocation_under_the_locks(_: &Options) -> Result<()> {
    let _runs = broken(fault::ALLOCATE)?;
    let _huge = Setting::huge_pages_by_advice()?;
    let tracing = tracing()?;
    for kind in KINDS {
        ensure!(count(&tracing, kind)? > 0, "{kind:?}: nothing seen");
    }
    Ok(())
}
