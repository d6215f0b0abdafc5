// SPDX-License-Identifier: GPL-2.0

//! A fixture for one stale access: a thread that reads one page when it is told to, and one that
//! unmaps, each on a CPU of its own, and the driver.

use core::hint;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::Arc;
use std::thread;

use anyhow::{anyhow, ensure, Result};

use super::ring_device;
use crate::abi;
use crate::barrier::Wait;
use crate::cpu;
use crate::device::Device;
use crate::flush_ring::{Counts, Stop};
use crate::mapping::Mapping;
use crate::page_user::Fate;
use crate::selection::Selection;
use crate::workers::Workers;

/// Pages of the one file, and of the other.
const NR_PAGES: [u64; 2] = [8, 128];

/// The file whose pages the thread elsewhere unmaps.
pub const ONE: usize = 0;
/// The file whose pages the driver unmaps.
pub const OTHER: usize = 1;

/// A page of the other file that is left alone: the reader has to have it in its TLB as long as there
/// was no flush of everything, nobody else on its CPU, and no host that took that CPU away.
const WITNESS: u64 = NR_PAGES[OTHER] - 1;

/// The CPU of the one that reads, by its place among those that are not the driver's.
const VICTIM: usize = 0;
const ELSEWHERE: usize = 1;

/// Two files in one address space.
pub struct Fixture {
    pub one: Arc<Device>,
    pub other: Device,
    workers: Workers,
    told: Arc<[AtomicU64; 3]>,
}

impl Fixture {
    /// Everything is mapped, and read once.
    pub fn new(wait: Wait) -> Result<Self> {
        ensure!(cpu::nr_cpus() > 2, "three CPUs are needed");
        let (one, other) = (Arc::new(ring_device()?), ring_device()?);
        // In page tables of their own: who is stopped with the lock of one does not hold the other's.
        let maps = [
            Arc::new(Mapping::of_tables(&one, NR_PAGES[ONE])?),
            Arc::new(Mapping::of_tables(&other, NR_PAGES[OTHER])?),
        ];
        one.populate(0, NR_PAGES[ONE])?;
        other.populate(0, NR_PAGES[OTHER])?;
        let told: Arc<[AtomicU64; 3]> = Arc::default();
        let (orders, all) = (told.clone(), maps.clone());
        let workers = Workers::of_threads(&maps[ONE], VICTIM + 1, wait, move |worker| loop {
            worker.step()?;
            let file = orders[0].load(Ordering::Acquire) as usize;
            let page = orders[1].load(Ordering::Acquire);
            let value = all[file].word(page, 0).load(Ordering::Acquire);
            orders[2].store(value, Ordering::Release);
            worker.step()?;
        })?;
        let fixture = Self {
            one,
            other,
            workers,
            told,
        };
        for file in [ONE, OTHER] {
            for page in 0..NR_PAGES[file] {
                fixture.is_stale(file, page)?;
            }
        }
        Ok(fixture)
    }

    /// Has the page read. Returns whether it is what the device makes of pages that it took back.
    pub fn is_stale(&self, file: usize, page: u64) -> Result<bool> {
        self.told[0].store(file as u64, Ordering::Release);
        self.told[1].store(page, Ordering::Release);
        self.workers.step()?;
        self.workers.step()?;
        Ok(self.told[2].load(Ordering::Acquire) == abi::POISON)
    }

    /// From now on the reader is to keep `page` of `file` in its TLB. [`None`] if it does not have it
    /// there now, although it has just read it.
    pub fn watch(&self, file: usize, page: u64) -> Result<Option<Watch<'_>>> {
        let device = [&*self.one, &self.other][file];
        self.is_stale(file, page)?;
        device.accessed(page, 1, abi::ACCESSED_CLEAR)?;
        let watch = self.watch_blindly(file, page)?;
        let walked = device.accessed(page, 1, abi::ACCESSED_READ)?.accessed != 0;
        Ok(watch.filter(|_| !walked))
    }

    /// As [`Fixture::watch`], where the page's own bit cannot be asked for, since somebody has its lock:
    /// the witness alone says that what was just read is there.
    pub fn watch_blindly(&self, file: usize, page: u64) -> Result<Option<Watch<'_>>> {
        let touch = || -> Result<()> {
            self.is_stale(file, page)?;
            self.is_stale(OTHER, WITNESS)?;
            Ok(())
        };
        touch()?;
        self.other.accessed(WITNESS, 1, abi::ACCESSED_CLEAR)?;
        touch()?;
        let watch = Watch {
            fixture: self,
            file,
            page,
            before: Counts::read()?,
        };
        Ok((!watch.has_walked()?).then_some(watch))
    }

    /// A thread on a third CPU that will unmap page 0 of the one file.
    pub fn elsewhere(&self, strategy: u32) -> Result<Elsewhere> {
        let device = self.one.clone();
        let signs: Arc<[AtomicBool; 3]> = Arc::default();
        let seen = signs.clone();
        let (tell, done) = mpsc::channel();
        thread::spawn(move || {
            let unmap = || {
                cpu::pin_worker(ELSEWHERE)?;
                seen[0].store(true, Ordering::Release);
                while !seen[1].load(Ordering::Acquire) {
                    hint::spin_loop();
                }
                device.unmap(&Selection::run(0, 1), strategy, 0)?;
                Ok(())
            };
            let done = unmap();
            seen[2].store(true, Ordering::Release);
            // Fails if nobody wants to know.
            let _ = tell.send(done);
            // It stays until the process ends: a thread that ends unmaps its stack, and so flushes
            // whatever is owed.
            loop {
                thread::park();
            }
        });
        while !signs[0].load(Ordering::Acquire) {
            hint::spin_loop();
        }
        Ok(Elsewhere { done, signs })
    }
}

/// A page that the reader has in its TLB, until something takes it from there.
pub struct Watch<'s> {
    fixture: &'s Fixture,
    file: usize,
    page: u64,
    before: Counts,
}

impl Watch<'_> {
    /// Whether the reader had to look the witness up.
    fn has_walked(&self) -> Result<bool> {
        let bits = self
            .fixture
            .other
            .accessed(WITNESS, 1, abi::ACCESSED_READ)?;
        Ok(bits.accessed != 0)
    }

    /// What became of the page, now that it is flushed: gone by a flush, if a CPU flushed everything
    /// because it did not believe the ring.
    pub fn fate(&self) -> Result<Fate> {
        let is_stale = self.fixture.is_stale(self.file, self.page)?;
        let grown = Counts::read()?.grown(&self.before)?;
        self.fixture.is_stale(OTHER, WITNESS)?;
        let doubted = grown.iter().any(|(name, _)| is_doubt(name));
        Ok(if is_stale {
            Fate::Used
        } else if doubted {
            Fate::GoneByAFlush
        } else if !self.has_walked()? {
            Fate::Gone
        } else {
            Fate::GoneByASwitch
        })
    }

    /// Whether a CPU has since found in the ring what this kernel has not put there.
    pub fn believed_another(&self) -> Result<bool> {
        let after = Counts::read()?;
        let since = |name| after.since(&self.before, name);
        Ok(since("asked_exact")? > 0 && since("published")? == 0)
    }
}

fn is_doubt(count: &str) -> bool {
    let is_asked = count.starts_with("asked_") || count.starts_with("lazy_");
    is_asked && !count.contains("_exact")
}

/// A thread that waits to be let go.
pub struct Elsewhere {
    done: Receiver<Result<()>>,
    signs: Arc<[AtomicBool; 3]>,
}

impl Elsewhere {
    /// Lets it go, and waits until a CPU has stopped because of it. Returns false if none does.
    pub fn start_until(&self, stop: &Stop) -> Result<bool> {
        self.start();
        while !self.signs[2].load(Ordering::Acquire) {
            if stop.is_reached()? {
                return Ok(true);
            }
            hint::spin_loop();
        }
        Ok(false)
    }

    pub fn start(&self) {
        self.signs[1].store(true, Ordering::Release);
    }

    /// Waits until the thread has unmapped its page.
    pub fn join(self) -> Result<()> {
        self.done
            .recv()
            .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
    }
}

/// The number of the CPU that reads.
pub fn victims_cpu() -> usize {
    cpu::worker(VICTIM)
}

/// The number of the CPU of the thread elsewhere.
pub fn elsewheres_cpu() -> usize {
    cpu::worker(ELSEWHERE)
}
