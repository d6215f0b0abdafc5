// SPDX-License-Identifier: GPL-2.0

//! Pages of the device are moved to and fro, in part or all, in either mode, while threads write to
//! them by both places and by a third, and somebody takes them away and uses them again: by the
//! device, by madvise, and by mapping it anew.
//!
//! Of one device contents are saved when pages are taken: there no write is lost. Of the other they
//! are not: there, what is written to a page that was taken already is seen by the device.
//!
//! One device frees page tables that it leaves empty: out of both places, unless they are just moved.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

use anyhow::{ensure, Result};
use rustix::mm::{Advice, MapFlags};

use super::{Ground, MODES, SETUPS, SKEW};
use crate::abi::{self, strategy};
use crate::arena::{Arena, Span};
use crate::cpu;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::selection::Selection;

/// Three page tables and a bit, of which the writers write to some pages.
const NR_PAGES: usize = 3 * PAGE_SIZE / 8 + 9;
const STEP: usize = 97;
const NR_WRITERS: usize = 2;
/// Moves of each device.
const NR_MOVES: u64 = 40;
/// Times that pages are taken, at least.
const MIN_DROPS: u64 = 8;
/// Pages that are taken at once, at most, if no page table has to be left empty.
const MAX_RUN: u64 = 64;

const SAVE: u32 = abi::UNMAP_WRITE_BACK;

/// Ways to take pages.
const WAYS: [(u32, u32); 5] = [
    (strategy::PRECISE, 0),
    (strategy::BROADCAST, 0),
    (strategy::PRECISE, abi::UNMAP_DEFER),
    (strategy::PRECISE, abi::UNMAP_TWO_PHASE),
    (strategy::PAGE, 0),
];

#[derive(Debug, Default)]
struct Tally {
    nr_moved_ptes: AtomicU64,
    nr_moved_tables: AtomicU64,
    nr_writes: AtomicU64,
    nr_lost: AtomicU64,
    nr_drops: AtomicU64,
}

struct Race<'a> {
    ground: &'a Ground,
    /// The two places of the moves, and one that stays.
    places: [Span<'a>; 3],
    saves: bool,
    max_run: u64,
    stop: AtomicBool,
    tally: Tally,
}

/// What each writer has written last, page by page.
type Written = Vec<(usize, u64)>;

impl Race<'_> {
    /// Writes by any of the places, to words of its own.
    fn write_on(&self, writer: usize, mut rng: fastrand::Rng) -> Result<Written> {
        cpu::pin_worker(writer)?;
        let mut last: Written = (0..NR_PAGES).step_by(STEP).map(|page| (page, 0)).collect();
        while !self.stop.load(Relaxed) {
            let place = &self.places[rng.usize(..3)];
            for (page, last) in &mut last {
                let word = place.word(*page * PAGE_SIZE + 8 * writer);
                let found = word.load(Acquire);
                if self.saves && found != *last {
                    self.tally.nr_lost.fetch_add(1, Relaxed);
                }
                *last += 1;
                word.store(*last, Release);
            }
            self.tally.nr_writes.fetch_add(last.len() as u64, Relaxed);
        }
        Ok(last)
    }

    fn drop_on(&self, mut rng: fastrand::Rng) -> Result<()> {
        cpu::pin_worker(NR_WRITERS)?;
        let device = &self.ground.device;
        let save = if self.saves { SAVE } else { 0 };
        for turn in 0.. {
            if self.stop.load(Relaxed) {
                break;
            }
            let nr = rng.u64(1..=NR_PAGES as u64);
            let run = Selection::run(rng.u64(..=NR_PAGES as u64 - nr), nr.min(self.max_run));
            let (strategy, flags) = WAYS[turn % WAYS.len()];
            match turn % 8 {
                3 => self.places[rng.usize(..3)]
                    .advise(Advice::LinuxDontNeed)
                    .or_else(|errno| {
                        // PFNs cannot be unmapped so.
                        if errno == rustix::io::Errno::INVAL {
                            Ok(())
                        } else {
                            Err(errno)
                        }
                    })?,
                6 => self.ground.map(&self.places[rng.usize(..3)])?,
                _ => _ = device.unmap(&run, strategy, flags | save)?,
            }
            self.tally.nr_drops.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// A part of the pages goes from one place to the other, in either direction.
    fn move_some(&self, rng: &mut fastrand::Rng) -> Result<()> {
        let (first, nr) = if rng.bool() {
            (0, NR_PAGES)
        } else {
            let nr = rng.usize(1..=NR_PAGES);
            (rng.usize(..=NR_PAGES - nr), nr)
        };
        let part = |place: &Span<'_>| place.part(first * PAGE_SIZE, nr * PAGE_SIZE).address();
        let from = rng.usize(..2);
        // Nothing is mapped where they go to, unless a writer is quick.
        self.ground.map(&self.places[1 - from])?;
        let mut argument = abi::Move {
            flags: MODES[rng.usize(..2)],
            old: part(&self.places[from]).addr() as u64,
            new: part(&self.places[1 - from]).addr() as u64,
            len: (nr * PAGE_SIZE) as u64,
            ..Default::default()
        };
        self.ground.device.call(&mut argument)?;
        self.tally
            .nr_moved_ptes
            .fetch_add(argument.nr_ptes, Relaxed);
        self.tally
            .nr_moved_tables
            .fetch_add(argument.nr_tables, Relaxed);
        Ok(())
    }

    fn move_on(&self, mut rng: fastrand::Rng, nr_moves: u64) -> Result<()> {
        let mut nr_done = 0;
        while nr_done < nr_moves || self.tally.nr_drops.load(Relaxed) < MIN_DROPS {
            self.move_some(&mut rng)?;
            nr_done += 1;
        }
        Ok(())
    }

    /// Runs all of them, and returns what the writers have written last.
    fn run(&self, rng: &mut fastrand::Rng, nr_moves: u64) -> Result<Vec<Written>> {
        thread::scope(|scope| {
            let writers: Vec<_> = (0..NR_WRITERS)
                .map(|writer| {
                    let rng = rng.fork();
                    scope.spawn(move || self.write_on(writer, rng))
                })
                .collect();
            let own = rng.fork();
            let dropper = scope.spawn(move || self.drop_on(own));
            let moved = self.move_on(rng.fork(), nr_moves);
            self.stop.store(true, Relaxed);
            dropper.join().expect("nobody panics")?;
            moved?;
            writers
                .into_iter()
                .map(|w| w.join().expect("nobody panics"))
                .collect()
        })
    }
}

fn race(
    setup: u32,
    skew: usize,
    saves: bool,
    rng: &mut fastrand::Rng,
    nr_moves: u64,
) -> Result<()> {
    let ground = Ground::new(setup, NR_PAGES, skew)?;
    let arena = Arena::new(NR_PAGES * PAGE_SIZE)?;
    let fixed = arena.span(0, NR_PAGES * PAGE_SIZE);
    fixed.map_file(ground.device.file(), 0, MapFlags::SHARED)?;
    let [old, new] = ground.places();
    let race = Race {
        ground: &ground,
        places: [old, new, fixed],
        saves,
        max_run: match setup & abi::SETUP_FREE_TABLES {
            0 => MAX_RUN,
            _ => NR_PAGES as u64,
        },
        stop: AtomicBool::new(false),
        tally: Tally::default(),
    };
    let written = race.run(rng, nr_moves)?;
    ground.device.flush()?;
    let mut nr_gone = 0;
    for (writer, written) in written.iter().enumerate().filter(|_| saves) {
        let last =
            |(page, _): &(usize, u64)| fixed.word(page * PAGE_SIZE + 8 * writer).load(Acquire);
        nr_gone += written
            .iter()
            .filter(|entry| last(entry) != entry.1)
            .count();
    }
    let counters = ground.device.counters()?;
    println!(
        "# {setup:#x}, {skew} behind, {nr_moves} moves: {:?}, {nr_gone} gone, {counters:?}",
        race.tally
    );
    ensure!(
        race.tally.nr_moved_ptes.into_inner() > 0,
        "nothing was moved"
    );
    ensure!(race.tally.nr_writes.into_inner() > 0, "nothing was written");
    let nr_lost = race.tally.nr_lost.into_inner();
    ensure!(
        nr_lost == 0 && nr_gone == 0,
        "{nr_lost} lost, {nr_gone} gone"
    );
    ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    Ok(())
}

fn all_kinds(options: &Options, saves: bool) -> Result<()> {
    let mut rng = options.rng();
    let kinds = SETUPS
        .into_iter()
        .flat_map(|setup| [(setup, 0), (setup, SKEW)]);
    for (setup, skew) in kinds.chain([(abi::SETUP_FREE_TABLES, 0)]) {
        race(
            setup,
            skew,
            saves,
            &mut rng,
            NR_MOVES * u64::from(options.effort),
        )?;
    }
    Ok(())
}

pub fn a_race_of_device_moves(options: &Options) -> Result<()> {
    all_kinds(options, false)
}

pub fn no_write_is_lost_by_device_moves(options: &Options) -> Result<()> {
    all_kinds(options, true)
}
