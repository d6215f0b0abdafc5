// SPDX-License-Identifier: GPL-2.0

//! One watching thread of the oracle, and the ledger that it shares with the driver.

use core::sync::atomic::{fence, AtomicU64, Ordering};

use anyhow::{ensure, Result};

use crate::mapping::Mapping;
use crate::shared::Shared;
use crate::stillness::this_thread;
use crate::verdict::{judge, stamp, Verdict, Write};

/// What a watching thread does with the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only: translations stay clean.
    Read,
    /// Read, and write on some passes where the read was in order: translations are dirty.
    ReadWrite,
    /// Write without a look: a stale write goes unnoticed here, and covers the poison, which the
    /// device notices.
    Write,
}

/// Passes from one that writes to the next, with [`Access::ReadWrite`].
const PASSES_PER_WRITE: u64 = 4;

/// What was found, over all watching threads, and by the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub nr_accesses: u64,
    pub nr_stale: u64,
    pub nr_lost: u64,
    pub nr_garbage: u64,
    /// Released pages that were written to, as the device counts them.
    pub nr_stale_writes: u64,
}

impl Report {
    /// Stale accesses of any kind.
    pub fn nr_findings(&self) -> u64 {
        self.nr_stale + self.nr_lost + self.nr_garbage + self.nr_stale_writes
    }

    /// Demands that nothing was found, by a search that was one.
    pub fn expect_silence(self) -> Result<()> {
        ensure!(self.nr_accesses > 0, "nobody looked");
        ensure!(self.nr_findings() == 0, "{self:?}");
        Ok(())
    }
}

/// What is counted for each watching thread.
#[derive(Clone, Copy)]
enum Tally {
    Passes,
    Accesses,
    Stale,
    Lost,
    Garbage,
}

const NR_TALLIES: usize = 5;

/// What the driver and the watching threads, of any processes, tell each other.
pub struct Ledger {
    stopped: Shared<AtomicU64>,
    started: Shared<AtomicU64>,
    done: Shared<AtomicU64>,
    tallies: Shared<AtomicU64>,
    threads: Shared<AtomicU64>,
    nr_slots: usize,
}

impl Ledger {
    /// A ledger for so many pages and watching threads. Forked processes inherit it.
    pub fn new(nr_pages: u64, nr_slots: usize) -> Result<Self> {
        Ok(Self {
            stopped: Shared::new(1)?,
            started: Shared::new(nr_pages as usize)?,
            done: Shared::new(nr_pages as usize)?,
            tallies: Shared::new(nr_slots * NR_TALLIES)?,
            threads: Shared::new(nr_slots)?,
            nr_slots,
        })
    }

    /// Whether the watch is over.
    pub fn stopped(&self) -> bool {
        self.stopped[0].load(Ordering::Acquire) != 0
    }

    /// Ends the watch.
    pub fn stop(&self) {
        self.stopped[0].store(1, Ordering::Release);
    }

    /// An unmap of `page` is about to start.
    pub fn begin(&self, page: u64) {
        self.started[page as usize].fetch_add(1, Ordering::SeqCst);
    }

    /// All unmaps of `page` that have started are flushed.
    pub fn end(&self, page: u64) {
        let started = self.started[page as usize].load(Ordering::SeqCst);
        self.done[page as usize].fetch_max(started, Ordering::SeqCst);
    }

    /// All unmaps that have started are flushed.
    pub fn end_all(&self) {
        (0..self.started.len() as u64).for_each(|page| self.end(page));
    }

    /// Pages that are watched.
    pub fn nr_pages(&self) -> u64 {
        self.started.len() as u64
    }

    /// Passes that the thread in `slot` has ended.
    pub fn nr_passes(&self, slot: usize) -> u64 {
        self.tally(slot, Tally::Passes).load(Ordering::Acquire)
    }

    /// The threads of the first `nr` slots, once they have ended a pass.
    pub fn threads(&self, nr: usize) -> Vec<u64> {
        let threads = self.threads.iter().take(nr);
        threads
            .map(|thread| thread.load(Ordering::Acquire))
            .collect()
    }

    /// The sums over all threads.
    pub fn report(&self) -> Report {
        let sum = |which| -> u64 {
            let tallies = (0..self.nr_slots).map(|slot| self.tally(slot, which));
            tallies.map(|tally| tally.load(Ordering::Acquire)).sum()
        };
        Report {
            nr_accesses: sum(Tally::Accesses),
            nr_stale: sum(Tally::Stale),
            nr_lost: sum(Tally::Lost),
            nr_garbage: sum(Tally::Garbage),
            nr_stale_writes: 0,
        }
    }

    fn tally(&self, slot: usize, which: Tally) -> &AtomicU64 {
        &self.tallies[slot * NR_TALLIES + which as usize]
    }
}

/// One watching thread's memory of the pages.
pub struct Watcher<'a> {
    ledger: &'a Ledger,
    slot: usize,
    writes: Vec<Option<Write>>,
    nr_passes: u64,
}

impl<'a> Watcher<'a> {
    /// A watcher that has written nothing yet, for the calling thread; the slot is its own.
    pub fn new(ledger: &'a Ledger, slot: usize) -> Self {
        ledger.threads[slot].store(this_thread(), Ordering::Release);
        Self {
            ledger,
            slot,
            writes: vec![None; ledger.started.len()],
            nr_passes: 0,
        }
    }

    /// Visits each page that is used once, through any mapping of them.
    pub fn pass(&mut self, mapping: &Mapping, access: Access) {
        let writes = match access {
            Access::Read => false,
            Access::ReadWrite => self.nr_passes.is_multiple_of(PASSES_PER_WRITE),
            Access::Write => true,
        };
        let mut nr_accesses = 0;
        for page in mapping.used() {
            nr_accesses += 1;
            let in_order = access == Access::Write || self.read(mapping, page);
            if in_order && writes {
                self.write(mapping, page);
            }
        }
        self.nr_passes += 1;
        self.count(Tally::Accesses, nr_accesses);
        self.count(Tally::Passes, 1);
    }

    /// Whether the page may be written: a page known to be stale is left as the evidence it is.
    fn read(&mut self, mapping: &Mapping, page: u64) -> bool {
        let last = self.writes[page as usize];
        let done = self.ledger.done[page as usize].load(Ordering::Acquire);
        let value = mapping.word(page, self.slot).load(Ordering::Acquire);
        let started = self.ledger.started[page as usize].load(Ordering::Acquire);
        match judge(value, last, done, started) {
            Verdict::Same => return true,
            Verdict::Fresh => {
                self.saw_fresh(page);
                return true;
            }
            Verdict::Stale => self.count(Tally::Stale, 1),
            Verdict::Lost => self.count(Tally::Lost, 1),
            Verdict::Garbage => self.count(Tally::Garbage, 1),
        }
        false
    }

    /// A fresh page in the place of one that was written after `done_before` unmaps: one more is
    /// over, and flushed, or the device would not have mapped a fresh page there. Who still gets at
    /// the old one from now on does so through a stale translation.
    fn saw_fresh(&mut self, page: u64) {
        if let Some(last) = self.writes[page as usize].take() {
            self.ledger.done[page as usize].fetch_max(last.done_before + 1, Ordering::SeqCst);
        }
    }

    fn write(&mut self, mapping: &Mapping, page: u64) {
        let started = &self.ledger.started[page as usize];
        let done_before = self.ledger.done[page as usize].load(Ordering::Acquire);
        let started_before = started.load(Ordering::Acquire);
        let value = stamp(self.slot, page, self.nr_passes);
        mapping
            .word(page, self.slot)
            .store(value, Ordering::Release);
        // The write is in the page before `started` is read: a later unmap takes it away.
        fence(Ordering::SeqCst);
        self.writes[page as usize] = Some(Write {
            value,
            done_before,
            started_before,
            started_after: started.load(Ordering::Acquire),
        });
    }

    fn count(&self, which: Tally, nr: u64) {
        let tally = self.ledger.tally(self.slot, which);
        tally.fetch_add(nr, Ordering::Release);
    }
}
