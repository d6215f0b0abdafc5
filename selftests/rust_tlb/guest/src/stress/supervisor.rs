// SPDX-License-Identifier: GPL-2.0

//! Starts the crowd, tells how it goes, ends it in time, and sums up.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{bail, Result};

use crate::child::{describe, Child};
use crate::flush_ring::{self, Counts};
use crate::stress::arena::{Arena, Books};
use crate::stress::board::{Board, Count};
use crate::stress::crowd::Scenery;
use crate::stress::Options;
use crate::watcher::Report;

/// How often is looked whether all is well.
const PERIOD: Duration = Duration::from_millis(200);
/// How often is told how it goes.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long the processes may take to end when they are told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// Seconds beyond its duration in which a run has ended, one way or the other.
pub const GRACE_S: u64 = 20;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Summary {
    pub seed: u64,
    pub nr_operations: u64,
    pub nr_unmaps: u64,
    pub nr_forks: u64,
    /// What the oracle's rules found in the watched pages.
    pub watched: Report,
    /// Writes to saved pages that are gone.
    pub nr_lost_saved: u64,
    /// Whatever else is not as it should be.
    pub complaints: Vec<String>,
}

impl Summary {
    /// Findings of any kind.
    pub fn nr_findings(&self) -> u64 {
        self.watched.nr_findings() + self.nr_lost_saved + self.complaints.len() as u64
    }

    /// Demands that there are none, by a search that was one.
    pub fn expect_silence(&self) -> Result<()> {
        self.complaints.iter().for_each(|line| println!("# {line}"));
        println!("# {:?}", self.watched);
        if self.nr_findings() > 0 {
            let (nr, seed) = (self.nr_findings(), self.seed);
            bail!(
                "{nr} findings, of them {} lost writes to saved pages; seed {seed}",
                self.nr_lost_saved
            );
        }
        if self.nr_unmaps == 0 || self.watched.nr_accesses == 0 {
            bail!("nothing was done");
        }
        Ok(())
    }
}

/// Runs it.
pub fn run(options: &Options) -> Result<Summary> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("# seed {seed}");
    let board = Board::new()?;
    let books = [Books::new(options)?, Books::new(options)?];
    let rings = flush_ring::exists().then(Counts::read).transpose()?;
    let shared = Arena::open(&books[0])?;
    let scenery = Scenery {
        options,
        seed,
        board: &board,
        shared: &shared,
        own_books: &books[1],
    };
    let mut run = Run {
        started: Instant::now(),
        options,
        children: scenery.populate()?.into_iter().map(Some).collect(),
        scenery,
        complaints: Vec::new(),
    };
    run.watch_until(Duration::from_secs(options.duration))?;
    board.stop();
    run.end()?;
    let summary = run.summary(seed)?;
    println!("# {}", run.progress(&summary.watched));
    if let Some(before) = rings {
        println!("# rings: {:?}", Counts::read()?.grown(&before)?);
    }
    Ok(summary)
}

/// A run that is under way.
struct Run<'a> {
    started: Instant,
    options: &'a Options,
    scenery: Scenery<'a>,
    /// [`None`] when it has ended.
    children: Vec<Option<Child>>,
    complaints: Vec<String>,
}

impl Run<'_> {
    /// Until time is up, all have ended, or something was found.
    fn watch_until(&mut self, limit: Duration) -> Result<()> {
        let mut next_progress = PROGRESS;
        while self.started.elapsed() < limit && self.children.iter().any(Option::is_some) {
            thread::sleep(PERIOD);
            self.reap()?;
            let report = self.report()?;
            let lost = self.scenery.board.get(Count::LostSaved);
            if report.nr_findings() + lost > 0 || !self.complaints.is_empty() {
                break;
            }
            if self.started.elapsed() >= next_progress {
                println!("# {}", self.progress(&report));
                next_progress += PROGRESS;
            }
        }
        Ok(())
    }

    /// Takes note of those that have ended: nobody may before it is over, unless it has done all
    /// that it was asked for.
    fn reap(&mut self) -> Result<()> {
        for (index, child) in self.children.iter_mut().enumerate() {
            let Some(running) = child else { continue };
            let stopped = self.scenery.board.stopped();
            let Some(status) = running.wait_for(Duration::ZERO)? else {
                continue;
            };
            *child = None;
            let too_early = !stopped && self.options.operations.is_none();
            if status.exit_status() != Some(0) || too_early {
                let how = describe(status);
                self.complaints.push(format!("process {index} {how}"));
            }
        }
        Ok(())
    }

    /// Waits for all to end; who does not is killed.
    fn end(&mut self) -> Result<()> {
        let told = Instant::now();
        while self.children.iter().any(Option::is_some) && told.elapsed() < PATIENCE {
            thread::sleep(PERIOD / 10);
            self.reap()?;
        }
        for (index, child) in self.children.iter_mut().enumerate() {
            if let Some(child) = child.take() {
                let line = format!("process {index} does not end");
                println!("# {line}");
                self.complaints.push(line);
                child.kill()?;
            }
        }
        Ok(())
    }

    /// The watched pages of both arenas.
    fn report(&self) -> Result<Report> {
        let (shared, own) = (
            self.scenery.shared.books.ledger.report(),
            self.scenery.own_books.ledger.report(),
        );
        let arena = self.scenery.shared;
        Ok(Report {
            nr_accesses: shared.nr_accesses + own.nr_accesses,
            nr_stale: shared.nr_stale + own.nr_stale,
            nr_lost: shared.nr_lost + own.nr_lost,
            nr_garbage: shared.nr_garbage + own.nr_garbage,
            nr_stale_writes: arena.watched.counters()?.nr_stale_writes
                + arena.saved.counters()?.nr_stale_writes,
        })
    }

    /// How it goes; faults are those of the shared files.
    fn progress(&self, report: &Report) -> String {
        let (board, arena) = (self.scenery.board, self.scenery.shared);
        let faults = [&arena.watched, &arena.saved]
            .map(|device| device.counters().map_or(0, |counters| counters.nr_faults));
        format!(
            "{:3} s: {} operations, {} unmaps, {} forks, {} faults, {} findings",
            self.started.elapsed().as_secs(),
            board.get(Count::Operations),
            board.get(Count::Unmaps),
            board.get(Count::Forks),
            faults.iter().sum::<u64>(),
            report.nr_findings() + board.get(Count::LostSaved) + self.complaints.len() as u64
        )
    }

    /// When all have ended.
    fn summary(&mut self, seed: u64) -> Result<Summary> {
        if let Err(error) = self.scenery.shared.settle() {
            self.complaints.push(format!("{error:#}"));
        }
        let board = self.scenery.board;
        Ok(Summary {
            seed,
            nr_operations: board.get(Count::Operations),
            nr_unmaps: board.get(Count::Unmaps),
            nr_forks: board.get(Count::Forks),
            watched: self.report()?,
            nr_lost_saved: board.get(Count::LostSaved),
            complaints: core::mem::take(&mut self.complaints),
        })
    }
}
