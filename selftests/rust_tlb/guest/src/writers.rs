// SPDX-License-Identifier: GPL-2.0

//! Threads that write to the pages all the time, and notice when a write is lost.

use core::hint;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use anyhow::Result;

use crate::barrier::Wait;
use crate::cpu;
use crate::mapping::Mapping;
use crate::shared::Shared;
use crate::stillness::{this_thread, Stillness};
use crate::workers::{Worker, Workers};

/// What writers and driver tell each other.
struct Desk {
    words: Shared<AtomicU64>,
}

const STOP: usize = 0;
const NR_WRITES: usize = 1;
const NR_LOST: usize = 2;
/// Then, for each writer, its writes and its thread.
const NR_WORDS: usize = 3;

impl Desk {
    fn get(&self, which: usize) -> u64 {
        self.words[which].load(Ordering::Acquire)
    }

    fn nr_writes_of(writer: usize) -> usize {
        NR_WORDS + 2 * writer
    }

    fn thread_of(writer: usize) -> usize {
        NR_WORDS + 2 * writer + 1
    }
}

/// The threads, one on each CPU but the driver's.
pub struct Writers {
    desk: Arc<Desk>,
    workers: Workers,
    nr_pages: u64,
}

impl Writers {
    /// Sets them to work on all pages of `mapping`, which are zero, or missing.
    pub fn start(mapping: &Arc<Mapping>) -> Result<Self> {
        let desk = Arc::new(Desk {
            words: Shared::new(NR_WORDS + 2 * nr_writers())?,
        });
        let shown = desk.clone();
        let body = move |worker: &Worker<'_>| write_all_the_time(&shown, worker);
        Ok(Self {
            workers: Workers::of_threads(mapping, nr_writers(), Wait::Sleep, body)?,
            desk,
            nr_pages: mapping.nr_pages(),
        })
    }

    /// Waits for `nr` more writes, by whomever.
    pub fn await_writes(&self, nr: u64) -> Result<()> {
        let goal = self.desk.get(NR_WRITES) + nr;
        while self.desk.get(NR_WRITES) < goal {
            self.workers.check()?;
            hint::spin_loop();
        }
        Ok(())
    }

    /// Waits for as many writes as all of them make to all pages, `nr` times over.
    pub fn await_passes(&self, nr: u64) -> Result<()> {
        self.await_writes(nr * self.nr_pages * nr_writers() as u64)
    }

    /// Waits until each of them has come to each page, and to each once more.
    pub fn await_everyone(&self) -> Result<()> {
        let nr_writes = |writer| self.desk.get(Desk::nr_writes_of(writer));
        let goals: Vec<u64> = (0..nr_writers())
            .map(|writer| nr_writes(writer) + 2 * self.nr_pages)
            .collect();
        for (writer, goal) in goals.into_iter().enumerate() {
            while nr_writes(writer) < goal {
                self.workers.check()?;
                hint::spin_loop();
            }
        }
        Ok(())
    }

    /// From now on they are to keep what they have in their TLBs, once they have written.
    pub fn stillness(&self) -> Result<Stillness> {
        let threads = (0..nr_writers()).map(|writer| self.desk.get(Desk::thread_of(writer)));
        Stillness::of(threads.collect())
    }

    /// Writes that were gone when their writer came to the page again.
    pub fn nr_lost(&self) -> u64 {
        self.desk.get(NR_LOST)
    }

    /// Lets them look at what they have written, stops them, and returns how many writes were lost.
    pub fn finish(self) -> Result<u64> {
        self.await_passes(2)?;
        self.desk.words[STOP].store(1, Ordering::Release);
        self.workers.join()?;
        Ok(self.desk.get(NR_LOST))
    }
}

fn nr_writers() -> usize {
    cpu::nr_cpus() - 1
}

/// Writes a rising number to a word of its own in each page, and looks whether the last one is still
/// there.
fn write_all_the_time(desk: &Desk, worker: &Worker<'_>) -> Result<()> {
    desk.words[Desk::thread_of(worker.index)].store(this_thread(), Ordering::Release);
    let mut last = vec![0u64; worker.mapping.nr_pages() as usize];
    while desk.get(STOP) == 0 && !worker.stopped() {
        for (page, last) in last.iter_mut().enumerate() {
            let word = worker.mapping.word(page as u64, worker.index);
            let lost = word.load(Ordering::Acquire) != *last;
            *last += 1;
            word.store(*last, Ordering::Release);
            desk.words[NR_LOST].fetch_add(u64::from(lost), Ordering::AcqRel);
            desk.words[NR_WRITES].fetch_add(1, Ordering::AcqRel);
            desk.words[Desk::nr_writes_of(worker.index)].fetch_add(1, Ordering::AcqRel);
        }
    }
    Ok(())
}
