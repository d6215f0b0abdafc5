// SPDX-License-Identifier: GPL-2.0

//! mremap of whole page tables, to and fro, beside unmaps that save contents: each page is found,
//! wherever its table is by then, and nothing of it is lost.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use anyhow::{ensure, Result};

use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::selection::Selection;

const NR_PAGES: u64 = 2 * PAGES_PER_TABLE;
/// Of these, how many are looked at after each move.
const STEP: usize = 31;

const SAVE: u32 = abi::UNMAP_WRITE_BACK;

/// Ways to unmap that have a window between the PTE and the flush.
const WAYS: [(u32, u32); 4] = [
    (strategy::BROADCAST, SAVE),
    (strategy::PRECISE, SAVE),
    (strategy::PRECISE, SAVE | abi::UNMAP_DEFER),
    (strategy::PRECISE, SAVE | abi::UNMAP_TWO_PHASE),
];

/// Unmaps and moves, at least.
const NR_UNMAPS: u32 = 60;
const NR_MOVES: u64 = 20;

pub fn tables_that_move_are_unmapped(options: &Options) -> Result<()> {
    for (strategy, flags) in WAYS {
        let device = Device::open()?;
        let mut mapping = Mapping::of_tables(&device, NR_PAGES)?;
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
        let (stop, nr_moves) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let mover = scope.spawn(|| {
                cpu::pin_member(0)?;
                while !stop.load(Relaxed) {
                    mapping.relocate_tables()?;
                    look(&mapping, nr_moves.fetch_add(1, Relaxed))?;
                }
                anyhow::Ok(())
            });
            let unmapped = unmap_many(&device, strategy, flags, options, || {
                mover.is_finished() || nr_moves.load(Relaxed) >= NR_MOVES
            });
            stop.store(true, Relaxed);
            mover
                .join()
                .expect("the mover does not panic")
                .and(unmapped)
        })?;
        device.flush()?;
        let counters = device.counters()?;
        let name = strategy_name(strategy);
        ensure!(counters.nr_stale_writes == 0, "{name}: {counters:?}");
        println!("# {name}, {flags:#x}: {nr_moves:?} moves");
    }
    Ok(())
}

/// Some of the pages, others each time, hold what was written, and are written again.
fn look(mapping: &Mapping, turn: u64) -> Result<()> {
    for page in (turn % STEP as u64..NR_PAGES).step_by(STEP) {
        let value = mapping.word(page, 0).load(Relaxed);
        ensure!(value == page + 1, "page {page} holds {value:#x}");
        mapping.word(page, 0).store(page + 1, Relaxed);
    }
    Ok(())
}

fn unmap_many(
    device: &Device,
    strategy: u32,
    flags: u32,
    options: &Options,
    is_enough: impl Fn() -> bool,
) -> Result<()> {
    let mut rng = options.rng();
    let mut nr_unmaps = 0;
    while nr_unmaps < NR_UNMAPS * options.effort || !is_enough() {
        let nr = rng.u64(1..=64);
        let selection = Selection::run(rng.u64(..=NR_PAGES - nr), nr);
        device.unmap(&selection, strategy, flags)?;
        nr_unmaps += 1;
        thread::yield_now();
    }
    Ok(())
}
