// SPDX-License-Identifier: GPL-2.0

//! mremap of whole page tables, to and fro, beside unmaps that save contents: each page is found,
//! wherever its table is by then, and nothing of it is lost.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use anyhow::{ensure, Context, Result};

use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::kernel_module::{self, Unloaded};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::selection::Selection;

/// What is moved.
struct Moving {
    nr_pages: u64,
    /// What its place is a multiple of, in pages.
    align: u64,
    /// From one page that is used to the next.
    stride: u64,
    /// At least.
    nr_moves: u64,
    nr_unmaps: u32,
}

/// Two page tables.
const TABLES: Moving = Moving {
    nr_pages: 2 * PAGES_PER_TABLE,
    align: PAGES_PER_TABLE,
    stride: 1,
    nr_moves: 20,
    nr_unmaps: 60,
};
/// A table of page tables, each used in one place or two.
const GIGABYTE: Moving = Moving {
    nr_pages: PAGES_PER_TABLE * PAGES_PER_TABLE,
    align: PAGES_PER_TABLE * PAGES_PER_TABLE,
    stride: 409,
    nr_moves: 10,
    nr_unmaps: 30,
};
/// Of the pages that are used, how many are looked at after each move: one in so many.
const STEP: usize = 31;

const SAVE: u32 = abi::UNMAP_WRITE_BACK;

/// Ways to unmap that have a window between the PTE and the flush.
const WAYS: [(u32, u32); 4] = [
    (strategy::BROADCAST, SAVE),
    (strategy::PRECISE, SAVE),
    (strategy::PRECISE, SAVE | abi::UNMAP_DEFER),
    (strategy::PRECISE, SAVE | abi::UNMAP_TWO_PHASE),
];

pub fn tables_that_move_are_unmapped(options: &Options) -> Result<()> {
    TABLES.is_unmapped(options)
}

pub fn a_gigabyte_that_moves_is_unmapped(options: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip(format!("{} is not set", kernel_module::PATH_VARIABLE));
    }
    let _again = Unloaded::new()?;
    let parameters = format!("pages_per_device={}", GIGABYTE.nr_pages);
    kernel_module::load(&parameters)?.context(parameters)?;
    GIGABYTE.is_unmapped(options)
}

impl Moving {
    fn is_unmapped(&self, options: &Options) -> Result<()> {
        for (strategy, flags) in WAYS {
            let device = Device::open()?;
            let mut mapping = Mapping::aligned(&device, self.nr_pages, self.align)?;
            self.used()
                .for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
            let (stop, nr_moves) = (AtomicBool::new(false), AtomicU64::new(0));
            thread::scope(|scope| {
                let mover = scope.spawn(|| {
                    cpu::pin_worker(0)?;
                    while !stop.load(Relaxed) {
                        mapping.relocate_aligned(self.align)?;
                        self.look(&mapping, nr_moves.fetch_add(1, Relaxed))?;
                    }
                    anyhow::Ok(())
                });
                let unmapped = self.unmap_many(&device, strategy, flags, options, || {
                    mover.is_finished() || nr_moves.load(Relaxed) >= self.nr_moves
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

    fn used(&self) -> impl Iterator<Item = u64> {
        (0..self.nr_pages).step_by(self.stride as usize)
    }

    /// Some of the pages, others each time, hold what was written, and are written again.
    fn look(&self, mapping: &Mapping, turn: u64) -> Result<()> {
        for page in self.used().skip(turn as usize % STEP).step_by(STEP) {
            let value = mapping.word(page, 0).load(Relaxed);
            ensure!(value == page + 1, "page {page} holds {value:#x}");
            mapping.word(page, 0).store(page + 1, Relaxed);
        }
        Ok(())
    }

    fn unmap_many(
        &self,
        device: &Device,
        strategy: u32,
        flags: u32,
        options: &Options,
        is_enough: impl Fn() -> bool,
    ) -> Result<()> {
        let mut rng = options.rng();
        let used: Vec<_> = self.used().collect();
        let mut nr_unmaps = 0;
        while nr_unmaps < self.nr_unmaps * options.effort || !is_enough() {
            let nr = rng.usize(1..=64);
            let first = rng.usize(..=used.len() - nr);
            let selection = Selection::List(used[first..first + nr].to_vec());
            device.unmap(&selection, strategy, flags)?;
            nr_unmaps += 1;
            thread::yield_now();
        }
        Ok(())
    }
}
