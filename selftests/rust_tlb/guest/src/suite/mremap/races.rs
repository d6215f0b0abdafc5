// SPDX-License-Identifier: GPL-2.0

//! Memory is moved to and fro while threads write to it by both addresses, and others take its pages,
//! clean them or move them to other places. No write is lost, and nobody reads what was never there.
//!
//! A file is mapped at two places, between which its pages are moved, and at a third that stays. Each
//! writer has words of its own; what he wrote by one of the two he finds by the third, unless a hole
//! was punched meanwhile.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};
use core::time::Duration;
use std::fs;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Result};
use rustix::fd::OwnedFd;
use rustix::fs::FallocateFlags;
use rustix::mm::MapFlags;

use super::memory::{Ground, Kind, KINDS};
use super::runs;
use crate::arena::{Arena, Leave, Span, PMD_SIZE};
use crate::cpu;
use crate::huge_pages::Setting;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::memory_group::Group;
use crate::progress;
use crate::ram_disk::{self, Swap};

const NR_PMDS: usize = 4;
const LEN: usize = NR_PMDS * PMD_SIZE;
/// As many as a disk in memory has, if nobody asks for another size.
const NR_PMDS_OF_DISK: usize = 2;
const NR_WRITERS: usize = 2;
/// Moves of each kind of run.
const NR_MOVES: u64 = 60;

/// Times that pages are taken, at least, and how long that is waited for.
const MIN_DROPS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(20);

/// What is found, and what is done.
#[derive(Debug, Default)]
struct Tally {
    nr_checked: AtomicU64,
    nr_lost: AtomicU64,
    nr_garbage: AtomicU64,
    nr_drops: AtomicU64,
}

/// What all of them share.
struct Race<'a> {
    places: [Span<'a>; 2],
    /// The third place.
    fixed: Span<'a>,
    file: &'a OwnedFd,
    stop: AtomicBool,
    /// Odd while contents are thrown away.
    epoch: AtomicU64,
    tally: Tally,
}

/// A turn of the one who takes pages.
type Drop<'a> = &'a (dyn Fn(&Race<'_>) -> Result<()> + Sync);

impl Race<'_> {
    /// Lets `discard` throw contents away: what was written before may be gone.
    fn discarding(&self, discard: impl FnOnce() -> Result<()>) -> Result<()> {
        self.epoch.fetch_add(1, Release);
        let done = discard();
        self.epoch.fetch_add(1, Release);
        done
    }

    /// Writes `value`, greater than all before, by one place, and looks for it by the third.
    fn write(&self, place: usize, at: usize, value: u64) {
        let epoch = self.epoch.load(Acquire);
        let before = self.places[place].word(at).load(Relaxed);
        self.places[place].word(at).store(value, Relaxed);
        let found = self.fixed.word(at).load(Relaxed);
        if before >= value || found > value {
            self.tally.nr_garbage.fetch_add(1, Relaxed);
        }
        // A read of the epoch that is not before that of the word.
        core::sync::atomic::fence(Acquire);
        if epoch.is_multiple_of(2) && self.epoch.load(Relaxed) == epoch {
            self.tally.nr_checked.fetch_add(1, Relaxed);
            if found != value && !self.is_found_later(at, value, epoch) {
                self.tally.nr_lost.fetch_add(1, Relaxed);
            }
        }
    }

    /// Reclaim takes a clean page of a file out of all mappings, and out of the file, before it
    /// flushes: until then, what was written to the page that takes its place is not found by a
    /// translation that is there still. That ends with the turn of the one who takes pages; a write
    /// that is lost is lost for good.
    fn is_found_later(&self, at: usize, value: u64, epoch: u64) -> bool {
        let nr_drops = self.nr_drops();
        let is_found = || self.fixed.word(at).load(Relaxed) == value;
        while self.nr_drops() < nr_drops + 2 && !self.stop.load(Relaxed) {
            if is_found() {
                return true;
            }
            core::hint::spin_loop();
        }
        // By then it may have been thrown away.
        is_found() || self.stop.load(Relaxed) || self.epoch.load(Acquire) != epoch
    }

    fn write_on(&self, writer: usize) -> Result<()> {
        cpu::pin_worker(writer)?;
        let page = (3 + 100 * writer) * PAGE_SIZE;
        for value in 1.. {
            if self.stop.load(Relaxed) {
                break;
            }
            let nr_pmds = self.fixed.len() / PMD_SIZE;
            let at = (value as usize % nr_pmds) * PMD_SIZE + page;
            self.write(value as usize / nr_pmds % 2, at, value);
        }
        Ok(())
    }

    fn drop_on(&self, drops: &[Drop<'_>]) -> Result<()> {
        cpu::pin_worker(NR_WRITERS)?;
        for drop in drops.iter().cycle() {
            if self.stop.load(Relaxed) {
                break;
            }
            drop(self)?;
            self.tally.nr_drops.fetch_add(1, Relaxed);
            // To write takes longer than to drop where a page is huge: one write may be through first.
            while self.nr_checked() == 0 && !self.stop.load(Relaxed) {
                thread::yield_now();
            }
        }
        Ok(())
    }

    /// The pages go to the other place and back, until there was enough of everything.
    fn move_to_and_fro(&self, nr_moves: u64) -> Result<()> {
        let [here, there] = &self.places;
        let start = Instant::now();
        let mut nr_done = 0;
        let is_enough = || {
            let is_much = self.nr_drops() >= MIN_DROPS || start.elapsed() >= PATIENCE;
            is_much && self.was_tried()
        };
        while nr_done < nr_moves || !is_enough() {
            here.move_to(there, Leave::Mapping)?;
            there.move_to(here, Leave::Mapping)?;
            if nr_done < nr_moves {
                // Not of those that wait for somebody else.
                progress::step();
            }
            nr_done += 2;
        }
        Ok(())
    }

    fn nr_drops(&self) -> u64 {
        self.tally.nr_drops.load(Relaxed)
    }

    fn nr_checked(&self) -> u64 {
        self.tally.nr_checked.load(Relaxed)
    }

    /// Without which nothing is said. It takes as long as it takes; a test that hangs is ended.
    fn was_tried(&self) -> bool {
        self.nr_drops() > 0 && self.nr_checked() > 0
    }

    fn run(&self, nr_moves: u64, drops: &[Drop<'_>]) -> Result<()> {
        thread::scope(|scope| {
            let writers: Vec<_> = (0..NR_WRITERS)
                .map(|writer| scope.spawn(move || self.write_on(writer)))
                .collect();
            let dropper = scope.spawn(|| self.drop_on(drops));
            let moved = self.move_to_and_fro(nr_moves);
            self.stop.store(true, Relaxed);
            for thread in writers.into_iter().chain([dropper]) {
                thread.join().expect("nobody panics")?;
            }
            moved
        })
    }
}

fn race(
    kind: Kind,
    file: &OwnedFd,
    nr_pmds: usize,
    nr_moves: u64,
    drops: &[Drop<'_>],
) -> Result<()> {
    let ground = Ground::new(kind, nr_pmds)?;
    let places = [ground.old(), ground.new_place()];
    let len = nr_pmds * PMD_SIZE;
    let arena = Arena::new(len)?;
    let fixed = arena.span(0, len);
    for span in [&places[0], &places[1], &fixed] {
        span.map_file(file, 0, MapFlags::SHARED)?;
    }
    if kind == Kind::HugePmds {
        places[0].advise(rustix::mm::Advice::LinuxHugepage)?;
    }
    extend_when_asked(file)?;
    let race = Race {
        places,
        fixed,
        file,
        stop: AtomicBool::new(false),
        epoch: AtomicU64::new(0),
        tally: Tally::default(),
    };
    race.run(nr_moves, drops)?;
    println!("# {kind:?}, {nr_moves} moves: {:?}", race.tally);
    let Tally {
        nr_checked,
        nr_lost,
        nr_garbage,
        nr_drops,
    } = race.tally;
    ensure!(
        nr_checked.into_inner() > 0 && nr_drops.into_inner() > 0,
        "nothing was tried"
    );
    ensure!(
        nr_lost.into_inner() == 0 && nr_garbage.into_inner() == 0,
        "{kind:?}"
    );
    Ok(())
}

/// The file whose end a thread may have found.
static FILE: AtomicI32 = AtomicI32::new(-1);

/// Beyond the end of a file is a SIGBUS: it makes the file as long again, and the access goes on.
fn extend_when_asked(file: &OwnedFd) -> Result<()> {
    extern "C" fn extend(_: libc::c_int) {
        // SAFETY: A system call on a number; whatever file it stands for, it is a test's.
        unsafe { libc::ftruncate(FILE.load(Relaxed), LEN as libc::off_t) };
    }
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    FILE.store(file.as_raw_fd(), Relaxed);
    let installed = INSTALLED.get_or_init(|| {
        let handler = extend as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: The handler makes one system call, and is async-signal-safe.
        unsafe { libc::signal(libc::SIGBUS, handler) != libc::SIG_ERR }
    });
    ensure!(*installed, "no handler for SIGBUS");
    Ok(())
}

fn punch(race: &Race<'_>) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    race.discarding(|| Ok(rustix::fs::fallocate(race.file, flags, 0, LEN as u64)?))
}

fn truncate(race: &Race<'_>) -> Result<()> {
    race.discarding(|| {
        rustix::fs::ftruncate(race.file, 0)?;
        Ok(rustix::fs::ftruncate(race.file, LEN as u64)?)
    })
}

fn clean(race: &Race<'_>) -> Result<()> {
    Ok(rustix::fs::fdatasync(race.file)?)
}

fn compact(_: &Race<'_>) -> Result<()> {
    Ok(fs::write("/proc/sys/vm/compact_memory", "1")?)
}

fn expect_nothing_lost(options: &Options, kinds: &[Kind], drops: &[Drop<'_>]) -> Result<()> {
    let _runs = runs()?;
    let _huge = Setting::huge_pages_by_advice()?;
    for kind in kinds {
        let file = rustix::fs::memfd_create("mremap", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, LEN as u64)?;
        race(
            *kind,
            &file,
            NR_PMDS,
            NR_MOVES * u64::from(options.effort),
            drops,
        )?;
    }
    Ok(())
}

pub fn a_race_with_a_punch(options: &Options) -> Result<()> {
    expect_nothing_lost(options, &KINDS, &[&punch])
}

pub fn a_race_with_a_truncate(options: &Options) -> Result<()> {
    expect_nothing_lost(options, &KINDS, &[&truncate])
}

pub fn a_race_with_compaction(options: &Options) -> Result<()> {
    // Holes, so that there is something to compact.
    expect_nothing_lost(options, &KINDS, &[&compact, &punch])
}

/// Shared memory, and so to swap and back.
pub fn a_race_with_reclaim(options: &Options) -> Result<()> {
    let group = Group::join()?;
    let _swap = Swap::on()?;
    expect_nothing_lost(options, &KINDS, &[&|_| group.reclaim(LEN as u64)])
}

/// Cleaned and taken, over and over: a write that sets no Dirty bit is lost.
pub fn a_race_with_writeback(options: &Options) -> Result<()> {
    let group = Group::join()?;
    let _runs = runs()?;
    let disk = ram_disk::open()?;
    let nr_moves = NR_MOVES * u64::from(options.effort);
    for kind in [Kind::Tables, Kind::Ptes] {
        wipe(&disk)?;
        let before = group.nr_reclaimed()?;
        // The more is asked for beyond what there is, the longer the kernel looks for it.
        let drops: [Drop<'_>; 2] = [&clean, &|_| group.reclaim(PMD_SIZE as u64)];
        race(kind, &disk, NR_PMDS_OF_DISK, nr_moves, &drops)?;
        let nr_reclaimed = group.nr_reclaimed()? - before;
        println!("# {nr_reclaimed} pages were reclaimed");
        ensure!(nr_reclaimed > 0, "nothing was taken");
    }
    Ok(())
}

/// What was written before, by whomever, is no garbage. The race begins without a page in the page
/// cache: of those that `write()` has left there Linux 7.3.4, without any of our patches, loses what is
/// written by a mapping while they are reclaimed for the first time, and nothing is moved
/// (`Documentation/mm/tlb_batch_mremap.rst`).
fn wipe(disk: &OwnedFd) -> Result<()> {
    let zeros = vec![0; NR_PMDS_OF_DISK * PMD_SIZE];
    let nr = rustix::io::pwrite(disk, &zeros, 0)?;
    ensure!(nr == zeros.len(), "the disk has {nr} bytes");
    rustix::fs::fdatasync(disk)?;
    Ok(rustix::fs::fadvise(
        disk,
        0,
        None,
        rustix::fs::Advice::DontNeed,
    )?)
}
