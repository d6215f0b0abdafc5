// SPDX-License-Identifier: GPL-2.0

//! One worker: does what was chosen, and looks at the pages as the oracle does.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{ensure, Context, Result};

use crate::child::{describe, Child};
use crate::device::Device;
use crate::reclaim::Shrinkers;
use crate::stress::action::{unmap_any, unmap_saved, Action, Part, Place, Unmap, BAND_PAGES};
use crate::stress::arena::Arena;
use crate::stress::board::{Board, Count};
use crate::stress::ground::Ground;
use crate::watcher::Access;

/// Held while a thread forks: the child would wait for ever for a lock of stdout that another thread
/// held, which does not exist there.
static FORKING: Mutex<()> = Mutex::new(());

/// How long a child that has little to do may take.
const CHILD_LIMIT: Duration = Duration::from_secs(10);

/// A thread with mappings of its own.
pub struct Worker<'a> {
    arena: &'a Arena<'a>,
    board: &'a Board,
    watched: Ground<'a>,
    saved: Ground<'a>,
    band: Part,
    shrinkers: Shrinkers,
}

impl<'a> Worker<'a> {
    pub fn new(arena: &'a Arena<'a>, board: &'a Board, index: u64) -> Result<Self> {
        Ok(Self {
            watched: arena.watched_ground(index as usize)?,
            saved: arena.saved_ground(board, index as usize)?,
            band: Part {
                first: index * BAND_PAGES,
                nr: BAND_PAGES,
            },
            shrinkers: Shrinkers::open()?,
            arena,
            board,
        })
    }

    /// Does it. An error is an errno that should not be, or a child that did not end as it should.
    pub fn perform(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Read => self.pass(Access::Read),
            Action::Write => self.pass(Access::ReadWrite),
            Action::Unmap(unmap) => self.unmap(unmap)?,
            Action::Flush(place) => self.flush(*place)?,
            Action::Populate(place, part) => {
                let device = self.ground(*place).device;
                device.populate(part.first, part.nr)?;
            }
            Action::Replace(place, part) => self.ground(*place).replace(*part)?,
            Action::DontNeed(place, part) => self.ground(*place).dont_need(*part)?,
            Action::ReadOnly(place, part) => self.ground(*place).read_only(*part)?,
            Action::Forbid(place, part) => self.ground(*place).forbid(*part)?,
            Action::Renew(place) => self.ground(*place).renew()?,
            Action::Move(place) => self.ground(*place).relocate()?,
            Action::Shift(place, part, flags) => self.ground(*place).shift(*part, *flags)?,
            Action::Shrink => self.shrinkers.run()?,
            Action::Fork => self.fork_and_wait()?,
            Action::Kill { seed, after_us } => self.fork_and_kill(*seed, *after_us)?,
        }
        self.board.add(Count::Operations, 1);
        Ok(())
    }

    fn ground(&mut self, place: Place) -> &mut Ground<'a> {
        match place {
            Place::Watched => &mut self.watched,
            Place::Saved => &mut self.saved,
        }
    }

    fn pass(&mut self, access: Access) {
        self.watched.pass(access);
        self.saved.pass(access);
    }

    fn unmap(&mut self, unmap: &Unmap) -> Result<()> {
        let (selection, strategy, flags) = (&unmap.selection, unmap.strategy, unmap.flags);
        match unmap.place {
            Place::Watched => self.arena.unmap_watched(selection, strategy, flags)?,
            Place::Saved => drop(self.arena.saved.unmap(selection, strategy, flags)?),
        }
        self.board.add(Count::Unmaps, 1);
        Ok(())
    }

    /// The flush ends what this worker has deferred; what others have, it ends too, but they may
    /// have begun more by now.
    fn flush(&mut self, place: Place) -> Result<()> {
        self.ground(place).device.flush()?;
        if place == Place::Watched {
            let band = self.band.first..self.band.first + self.band.nr;
            band.for_each(|page| self.arena.books.ledger.end(page));
        }
        Ok(())
    }

    fn fork_and_wait(&mut self) -> Result<()> {
        let board = self.board;
        let mut child = fork(board, || {
            self.pass(Access::Read);
            Ok(())
        })?;
        let status = child
            .wait_for(CHILD_LIMIT)?
            .context("a child does not end")?;
        ensure!(
            status.exit_status() == Some(0),
            "a child {}",
            describe(status)
        );
        Ok(())
    }

    fn fork_and_kill(&mut self, seed: u64, after_us: u64) -> Result<()> {
        let child = fork(self.board, || self.live_alone(seed))?;
        thread::sleep(Duration::from_micros(after_us));
        let status = child.kill()?;
        ensure!(
            status.terminating_signal() == Some(9),
            "a child to be killed {} before",
            describe(status)
        );
        Ok(())
    }

    /// What a child does until it is killed: it has a file of its own, looks at all pages, and has
    /// saved ones unmapped. Not the watched ones: whether that came to pass would not be known.
    fn live_alone(&mut self, seed: u64) -> Result<()> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let own = Device::open()?;
        let mapping = own.map(BAND_PAGES)?;
        loop {
            (0..BAND_PAGES).for_each(|page| mapping.word(page, 0).store(seed, Ordering::Relaxed));
            let unmap = unmap_any(&mut rng, BAND_PAGES);
            own.unmap(&unmap.selection, unmap.strategy, unmap.flags)?;
            self.pass(Access::Read);
            self.unmap(&unmap_saved(&mut rng))?;
        }
    }
}

fn fork(board: &Board, body: impl FnOnce() -> Result<()>) -> Result<Child> {
    let _forking = FORKING.lock().unwrap_or_else(PoisonError::into_inner);
    board.add(Count::Forks, 1);
    Child::fork(body)
}
