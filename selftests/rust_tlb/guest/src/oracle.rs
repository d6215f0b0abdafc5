// SPDX-License-Identifier: GPL-2.0

//! The stale-access oracle: threads that read and write the mapping all the time.
//!
//! Each is pinned to a CPU other than the driver's and never sleeps, so that its translations stay
//! in the TLB until somebody flushes them. [`crate::verdict`] says what its reads mean.

use core::hint;
use core::time::Duration;
use std::sync::Arc;
use std::thread;

use anyhow::Result;

use crate::abi;
use crate::barrier::Wait;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::progress;
use crate::selection::Selection;
use crate::stillness::Stillness;
use crate::watcher::{Access, Ledger, Report, Watcher};
use crate::workers::{Shape, Worker, Workers};

/// Passes after which no more can be expected of the TLBs.
const MAX_LOOKS: u32 = 50;

/// The watching threads and what they are told.
pub struct Oracle {
    ledger: Arc<Ledger>,
    workers: Workers,
    nr_workers: usize,
}

impl Oracle {
    /// Sets threads of this process to watch `mapping`, and keeps `nr_spare` slots for watchers
    /// that the caller runs.
    pub fn of_threads(
        mapping: &Arc<Mapping>,
        nr_workers: usize,
        nr_spare: usize,
        access: Access,
    ) -> Result<Self> {
        let ledger = Arc::new(Ledger::new(mapping.nr_pages(), nr_workers + nr_spare)?);
        let shown = ledger.clone();
        let body = move |worker: &Worker<'_>| watch(&shown, worker, access);
        Ok(Self {
            workers: Workers::of_threads(mapping, nr_workers, Wait::Sleep, body)?,
            ledger,
            nr_workers,
        })
    }

    /// Sets new processes to watch the first `nr_pages`. They end with the watch, and with them
    /// whatever stale translations a negative control has left: none of them can be used for what
    /// is mapped at the same addresses later.
    pub fn of_processes(
        device: &Device,
        nr_pages: u64,
        shape: Shape,
        access: Access,
    ) -> Result<Self> {
        let ledger = Arc::new(Ledger::new(nr_pages, shape.nr_workers())?);
        let body = |worker: &Worker<'_>| watch(&ledger, worker, access);
        Ok(Self {
            workers: Workers::of_processes(device, nr_pages, shape, Wait::Sleep, body)?,
            ledger: ledger.clone(),
            nr_workers: shape.nr_workers(),
        })
    }

    /// What watchers of the caller's need; their slots come after those of the workers.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The first slot that is not a worker's.
    pub fn spare_slot(&self) -> usize {
        self.nr_workers
    }

    /// Waits until each worker has begun and ended `nr` passes over all pages.
    pub fn await_passes(&self, nr: u64) -> Result<()> {
        let passes = |slot| self.ledger.nr_passes(slot);
        // The pass that is under way has begun already.
        let goals: Vec<u64> = (0..self.nr_workers)
            .map(|slot| passes(slot) + nr + 1)
            .collect();
        for (slot, goal) in goals.into_iter().enumerate() {
            while passes(slot) < goal {
                self.workers.check()?;
                thread::sleep(Duration::from_millis(1));
            }
            progress::step();
        }
        Ok(())
    }

    /// Waits, without sleeping, until one more pass of the first worker has ended.
    pub fn await_next_pass(&self) -> Result<()> {
        let before = self.ledger.nr_passes(0);
        while self.ledger.nr_passes(0) == before {
            self.workers.check()?;
            hint::spin_loop();
        }
        Ok(())
    }

    /// Waits for a pass of all workers that finds every page in the TLB; no such pass comes if their
    /// TLBs cannot hold what they use. Returns what tells whether they have kept them, from the look
    /// at them on.
    pub fn await_residency(&self, device: &Device) -> Result<Option<Stillness>> {
        let nr_pages = self.ledger.nr_pages();
        for _ in 0..MAX_LOOKS {
            let stillness = Stillness::of(self.ledger.threads(self.nr_workers))?;
            device.accessed(0, nr_pages, abi::ACCESSED_CLEAR)?;
            self.await_passes(1)?;
            let bits = device.accessed(0, nr_pages, abi::ACCESSED_READ)?;
            if bits.accessed == 0 && bits.mapped.count_ones() as u64 == nr_pages {
                return Ok(Some(stillness));
            }
        }
        Ok(None)
    }

    /// Unmaps `selection` under the eyes of the workers. With [`abi::UNMAP_DEFER`] the old pages
    /// may be seen until [`Oracle::flush`], or until somebody has seen a fresh one.
    pub fn unmap(
        &self,
        device: &Device,
        selection: &Selection,
        strategy: u32,
        flags: u32,
    ) -> Result<abi::Unmap> {
        let pages = selection.pages();
        pages.iter().for_each(|&page| self.ledger.begin(page));
        let reply = device.unmap(selection, strategy, flags)?;
        if flags & abi::UNMAP_DEFER == 0 {
            pages.iter().for_each(|&page| self.ledger.end(page));
        }
        Ok(reply)
    }

    /// Somebody was given a fresh page in the place of one that was unmapped: the flush is over.
    pub fn saw_fresh(&self, page: u64) {
        self.ledger.end(page);
    }

    /// Flushes what was deferred.
    pub fn flush(&self, device: &Device) -> Result<abi::Flush> {
        let reply = device.flush()?;
        self.ledger.end_all();
        Ok(reply)
    }

    /// Ends the watch; watchers of the caller's end when they see [`Ledger::stopped`].
    pub fn stop(&self) {
        self.ledger.stop();
    }

    /// Ends the watch and tells what was found. The caller's own watchers have ended.
    pub fn finish(self, device: &Device) -> Result<Report> {
        self.ledger.stop();
        self.workers.join()?;
        Ok(Report {
            nr_stale_writes: device.counters()?.nr_stale_writes,
            ..self.ledger.report()
        })
    }
}

fn watch(ledger: &Ledger, worker: &Worker<'_>, access: Access) -> Result<()> {
    let mut watcher = Watcher::new(ledger, worker.index);
    while !ledger.stopped() && !worker.stopped() {
        watcher.pass(worker.mapping, access);
        // A hypervisor with fewer CPUs than the guest may run another one now.
        hint::spin_loop();
    }
    Ok(())
}
