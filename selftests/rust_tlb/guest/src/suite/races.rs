// SPDX-License-Identifier: GPL-2.0

//! What the core does with page tables while the device unmaps: by random strategies, under the
//! eyes of the oracle, a fixed number of times.

pub(super) mod turns;

use std::sync::{Arc, RwLock};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{ensure, Result};
use rustix::io::Errno;

use crate::abi;
use crate::cpu;
use crate::device::{Device, REAL_STRATEGIES};
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::turns::{await_one_of_each, Turns};
use crate::watcher::{Access, Ledger, Watcher};

use turns::{
    turn_dontneed, turn_fork, turn_mprotect, turn_mremap, turn_munmap, turn_readv, Turn, ALL_TURNS,
};

crate::tests! {
    munmap,
    mprotect,
    madvise_dontneed,
    mremap,
    fork,
    process_vm_readv,
    everything_at_once,
}

const NR_PAGES: u64 = 8;

/// Workers of the oracle that do nothing but watch: the rest of the CPUs is the racers'.
const NR_WATCHING: usize = 2;

/// Unmaps, at least. If more are needed, each racer takes a turn before each of them; and if that is
/// because too few tables went, all racers wait between two turns during every other one: one that holds
/// the `mmap_lock` nearly always keeps nearly all of them.
const NR_UNMAPS: u64 = 100;
/// Unmaps, at most: whatever has not come by then does not come.
const MAX_UNMAPS: u64 = 10 * NR_UNMAPS;

/// Turns of a racer, at least: if it is alone, and if many share what CPUs there are.
const NR_TURNS: u64 = 30;
const NR_TURNS_OF_MANY: u64 = 10;

/// What is raced over.
pub(super) struct Ground {
    device: Device,
    map: fn(&Device) -> Result<Mapping, Errno>,
    /// Each unmap takes all pages.
    takes_all: bool,
    /// Page tables that are freed, at least.
    nr_tables: u64,
}

impl Ground {
    /// A few pages, of which some are unmapped.
    fn pages() -> Result<Self> {
        Ok(Self {
            device: Device::open()?,
            map: |device| device.map(NR_PAGES),
            takes_all: false,
            nr_tables: 0,
        })
    }

    /// The first pages of a page table, which is freed when all are unmapped: `nr_tables` times at
    /// least.
    pub(super) fn tables(nr_tables: u64) -> Result<Self> {
        let device = Device::open()?;
        device.setup(abi::SETUP_FREE_TABLES)?;
        Ok(Self {
            device,
            map: |device| Ok(Mapping::of_tables(device, PAGES_PER_TABLE)?.only(NR_PAGES)),
            takes_all: true,
            nr_tables,
        })
    }

    fn map(&self) -> Result<Mapping> {
        Ok((self.map)(&self.device)?)
    }
}

fn munmap(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_munmap])
}

fn mprotect(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_mprotect])
}

fn madvise_dontneed(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_dontneed])
}

fn mremap(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_mremap])
}

fn fork(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_fork])
}

fn process_vm_readv(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_readv])
}

fn everything_at_once(options: &Options) -> Result<()> {
    race_over_pages(options, &ALL_TURNS)
}

/// Who takes turns of one kind, over and over, with a mapping of its own.
struct Racer<'r> {
    ground: &'r Ground,
    ledger: &'r Ledger,
    /// Among the racers.
    number: usize,
    turn: Turn,
    turns: Turns,
    /// Held, with the other racers, during a turn.
    gate: &'r RwLock<()>,
}

impl Racer<'_> {
    /// Until all have had enough.
    fn run(&self) -> Result<()> {
        cpu::pin_beside(NR_WATCHING, self.number)?;
        let mut mapping = self.ground.map()?;
        let mut watcher = Watcher::new(self.ledger, NR_WATCHING + self.number);
        while !self.ledger.stopped() {
            let _in_turn = self.gate.read().expect("no racer panics");
            (self.turn)(self.ground, &mut mapping, &mut watcher)?;
            self.turns.count();
        }
        Ok(())
    }
}

fn race_over_pages(options: &Options, turns: &[Turn]) -> Result<()> {
    race(options, &Ground::pages()?, turns)
}

/// Has a racer for each of `turns`, all at once, while pages are unmapped.
pub(super) fn race(options: &Options, ground: &Ground, turns: &[Turn]) -> Result<()> {
    let mapping = Arc::new(ground.map()?);
    let oracle = Oracle::of_threads(&mapping, NR_WATCHING, turns.len(), Access::ReadWrite)?;
    let ledger = oracle.ledger().clone();
    let gate = RwLock::new(());
    let racer = |(number, &turn)| Racer {
        ground,
        ledger: &ledger,
        number,
        turn,
        turns: Turns::default(),
        gate: &gate,
    };
    let racers: Vec<Racer<'_>> = turns.iter().enumerate().map(racer).collect();
    let nr_unmaps = thread::scope(|scope| {
        let runs = racers
            .iter()
            .map(|racer| || racer.turns.run(|| racer.run()));
        let threads: Vec<_> = runs.map(|run| scope.spawn(run)).collect();
        let driven = drive(options, ground, &oracle, &racers, &gate);
        oracle.stop();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("no racer panics");
        let raced: Result<()> = threads.into_iter().try_for_each(join);
        raced.and(driven)
    })?;
    let report = oracle.finish(&ground.device)?;
    let nr_taken: Vec<u64> = racers.iter().map(|racer| racer.turns.nr()).collect();
    println!("# {nr_unmaps} unmaps, {nr_taken:?} turns, {report:?}");
    println!("# {:?}", ground.device.counters()?);
    report.expect_silence()
}

/// Unmaps pages until there was enough of everything, or a racer has ended, who says why.
fn drive(
    options: &Options,
    ground: &Ground,
    oracle: &Oracle,
    racers: &[Racer<'_>],
    gate: &RwLock<()>,
) -> Result<u64> {
    let effort = u64::from(options.effort);
    let nr_turns = match racers.len() {
        1 => NR_TURNS * effort,
        _ => NR_TURNS_OF_MANY * effort,
    };
    let all_went = || {
        let nr_freed = ground.device.counters()?.nr_tables_freed;
        anyhow::Ok(nr_freed >= ground.nr_tables * effort)
    };
    let all_raced = || racers.iter().all(|racer| racer.turns.nr() >= nr_turns);
    let mut rng = options.rng();
    let mut nr_unmaps = 0;
    while nr_unmaps < NR_UNMAPS * effort || !all_raced() || !all_went()? {
        let counters = ground.device.counters()?;
        ensure!(nr_unmaps < MAX_UNMAPS * effort, "not enough: {counters:?}");
        let are_more = nr_unmaps >= NR_UNMAPS * effort;
        if are_more {
            await_one_of_each(racers.iter().map(|racer| &racer.turns));
        }
        if racers.iter().any(|racer| racer.turns.are_over()) {
            break;
        }
        // So that there are pages to unmap; what the racers do meanwhile is left to chance.
        oracle.await_next_pass()?;
        let is_between_turns = are_more && nr_unmaps % 2 == 1 && !all_went()?;
        let _between_turns = is_between_turns.then(|| gate.write().expect("no racer panics"));
        unmap_some(&mut rng, ground, oracle)?;
        nr_unmaps += 1;
    }
    Ok(nr_unmaps)
}

/// Unmaps random pages, or all, by a random strategy, now and then deferred.
fn unmap_some(rng: &mut fastrand::Rng, ground: &Ground, oracle: &Oracle) -> Result<()> {
    let device = &ground.device;
    let selection = match ground.takes_all {
        true => Selection::run(0, NR_PAGES),
        false => random_selection(rng),
    };
    let strategy = REAL_STRATEGIES[rng.usize(..REAL_STRATEGIES.len())];
    let can_defer = abi::strategy::ALL[strategy as usize].defers;
    let defer = if can_defer && rng.bool() {
        abi::UNMAP_DEFER
    } else {
        0
    };
    let free = if rng.bool() { abi::UNMAP_FREE } else { 0 };
    oracle.unmap(device, &selection, strategy, defer | free)?;
    // Else it stays owed for a while, and the core has to see to it itself.
    if defer != 0 && rng.bool() {
        oracle.flush(device)?;
    }
    Ok(())
}

fn random_selection(rng: &mut fastrand::Rng) -> Selection {
    let nr = rng.u64(1..=NR_PAGES / 2);
    match rng.u8(..3) {
        0 => Selection::run(rng.u64(..=NR_PAGES - nr), nr),
        1 => Selection::scattered(rng.u64(..2), nr),
        _ => Selection::random(rng, NR_PAGES, nr as usize),
    }
}
