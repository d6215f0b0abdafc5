// SPDX-License-Identifier: GPL-2.0

//! The processes, and the threads in each: workers, and one that does nothing but watch.

use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{anyhow, Context, Result};

use crate::abi;
use crate::child::Child;
use crate::cpu;
use crate::stress::action::Chooser;
use crate::stress::arena::{Arena, Books};
use crate::stress::board::{Alarm, Board};
use crate::stress::worker::Worker;
use crate::stress::Options;
use crate::watcher::Access;

/// What the watching threads do, one process after the other: those that only write are told by the
/// device if they were wrong.
const WATCHES: [Access; 3] = [Access::ReadWrite, Access::Write, Access::Read];

/// What every process knows.
pub struct Scenery<'a> {
    pub options: &'a Options,
    pub seed: u64,
    pub board: &'a Board,
    /// The files that all processes share, but for the last.
    pub shared: &'a Arena<'a>,
    /// About those that the last opens.
    pub own_books: &'a Books,
}

impl Scenery<'_> {
    /// Forks all processes.
    pub fn populate(&self) -> Result<Vec<Child>> {
        let fork = |process| Child::fork(|| self.live(process));
        (0..self.options.processes).map(fork).collect()
    }

    /// The life of one process.
    fn live(&self, process: u64) -> Result<()> {
        let is_last = process + 1 == self.options.processes;
        if !is_last || process == 0 {
            return self.run_threads(process, self.shared);
        }
        // The seed says of which kind its mappings are: any of 24.
        let tables = abi::SETUP_FREE_TABLES | abi::SETUP_FREE_TABLES_LATER;
        let kinds = abi::SETUP_PFNMAP | abi::SETUP_NOTIFY | abi::SETUP_RING | tables;
        let setup = match self.seed as u32 & kinds {
            setup if setup & tables == abi::SETUP_FREE_TABLES_LATER => setup & !tables,
            setup => setup,
        };
        let own = Arena::open_as(self.own_books, setup)?;
        self.run_threads(process, &own)?;
        own.settle()
    }

    fn run_threads(&self, process: u64, arena: &Arena<'_>) -> Result<()> {
        let nr_threads = self.options.threads;
        let workers_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| self.guarded(|| self.watch(process, arena, &workers_done)));
            let work = |worker| scope.spawn(move || self.guarded(|| self.work(worker, arena)));
            let first = process * nr_threads;
            let workers: Vec<_> = (first..first + nr_threads).map(work).collect();
            // All are joined, whatever the first says: the errors are told when nobody forks.
            let worked = workers.into_iter().map(join).fold(Ok(()), Result::and);
            workers_done.store(true, Ordering::Release);
            worked.and(join(watch))
        })
    }

    /// Runs a thread's part; if it fails, all are to stop.
    fn guarded(&self, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let alarm = Alarm::new(self.board);
        let done = body();
        if done.is_ok() {
            alarm.all_went_well();
        }
        done
    }

    fn watch(&self, process: u64, arena: &Arena<'_>, workers_done: &AtomicBool) -> Result<()> {
        let slot = (self.options.nr_workers() + process) as usize;
        cpu::pin_worker(slot)?;
        let access = WATCHES[process as usize % WATCHES.len()];
        let mut watched = arena.watched_ground(slot)?;
        let mut saved = arena.saved_ground(self.board, slot)?;
        while !self.board.stopped() && !workers_done.load(Ordering::Acquire) {
            watched.pass(access);
            saved.pass(access);
            // A hypervisor with fewer CPUs than the guest may run another one now.
            hint::spin_loop();
        }
        Ok(())
    }

    fn work(&self, index: u64, arena: &Arena<'_>) -> Result<()> {
        cpu::pin_worker(index as usize)?;
        let mut chooser = Chooser::new(self.options, self.seed, index);
        let log = self.options.log.as_deref();
        let mut log = log.map(|path| open_log(path, index)).transpose()?;
        let mut worker = Worker::new(arena, self.board, index)?;
        for nr in 0.. {
            if self.board.stopped() || Some(nr) == self.options.operations {
                break;
            }
            let action = chooser.choose();
            if let Some(log) = log.as_mut() {
                writeln!(log, "{action:?}")?;
            }
            worker
                .perform(&action)
                .with_context(|| format!("worker {index}, action {nr}: {action:?}"))?;
        }
        Ok(())
    }
}

fn open_log(path: &Path, index: u64) -> Result<BufWriter<File>> {
    let path = format!("{}.{index}", path.display());
    let file = File::create(&path).with_context(|| path.clone())?;
    Ok(BufWriter::new(file))
}

fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
