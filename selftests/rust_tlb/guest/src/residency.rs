// SPDX-License-Identifier: GPL-2.0

//! The residency probe: which translations a CPU has in its TLB.
//!
//! The Accessed bit of a PTE is cleared without a flush, and a CPU reads the page. If the bit is
//! set then, the CPU has walked the page table; if it is still clear, the translation was in its
//! TLB.

use core::sync::atomic::Ordering;
use std::sync::Arc;

use anyhow::{bail, ensure, Result};

use crate::abi;
use crate::barrier::Wait;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::workers::{Shape, Worker, Workers};

/// Touch, flush everything: a TLB that has just grown evicts by itself, a warm one does not.
const NR_WARM_UPS: u64 = 20;

/// Attempts, of which each page that is to stay has to stay in one.
const MAX_ATTEMPTS: u32 = 10;

/// A thread on another CPU, or several, whose TLB is probed for the first pages of a device.
pub struct Probe<'a> {
    device: &'a Device,
    workers: Workers,
    nr_pages: u64,
}

impl<'a> Probe<'a> {
    /// Starts the thread and warms its TLB. At most [`abi::ACCESSED_MAX_PAGES`] pages.
    pub fn new(device: &'a Device, nr_pages: u64) -> Result<Self> {
        Self::waiting(device, nr_pages, Wait::Spin)
    }

    /// With [`Wait::Sleep`], the CPU is lazy whenever it is not told to read.
    pub fn waiting(device: &'a Device, nr_pages: u64, wait: Wait) -> Result<Self> {
        let mapping = Arc::new(device.map(nr_pages)?);
        let workers = Workers::of_threads(&mapping, 1, wait, act)?;
        Self::warmed(device, workers, nr_pages)
    }

    /// A process for each other CPU. A page counts as walked for if one of them did.
    pub fn of_processes(device: &'a Device, nr_pages: u64, nr: usize) -> Result<Self> {
        let shape = Shape {
            processes: nr,
            threads: 1,
        };
        let workers = Workers::of_processes(device, nr_pages, shape, Wait::Spin, act)?;
        Self::warmed(device, workers, nr_pages)
    }

    fn warmed(device: &'a Device, workers: Workers, nr_pages: u64) -> Result<Self> {
        let probe = Self {
            device,
            workers,
            nr_pages,
        };
        for _ in 0..NR_WARM_UPS {
            probe.touch()?;
            device.invalidate(0, nr_pages, abi::strategy::BROADCAST)?;
        }
        probe.touch()?;
        Ok(probe)
    }

    /// Lets the thread read each page once.
    pub fn touch(&self) -> Result<()> {
        self.workers.step()?;
        self.workers.step()
    }

    /// Clears the Accessed bits, without a flush.
    pub fn clear(&self) -> Result<()> {
        self.device
            .accessed(0, self.nr_pages, abi::ACCESSED_CLEAR)?;
        Ok(())
    }

    /// A bit for each page whose translation the CPU had to walk for since the last
    /// [`Probe::clear`].
    pub fn walked(&self) -> Result<u64> {
        let bits = self.device.accessed(0, self.nr_pages, abi::ACCESSED_READ)?;
        let (mapped, all) = (bits.mapped, self.all());
        ensure!(mapped == all, "pages {mapped:#x} are mapped, not {all:#x}");
        Ok(bits.accessed)
    }

    /// What the CPU walks for when it reads every page after `flush`.
    pub fn evicted_by(&self, flush: impl FnOnce(&Device) -> Result<()>) -> Result<u64> {
        self.clear()?;
        flush(self.device)?;
        self.touch()?;
        self.walked()
    }

    /// Demands that `flush` evicts the pages `expected` every time, and no other page every time.
    ///
    /// What the reading thread touches on the way, an interrupt, or a switch to another thread can
    /// take the place of any page in the TLB. A flush of too much takes the same pages each time: one
    /// that does so now and then is not found here, but by the kernel's counts.
    pub fn expect_evicted(
        &self,
        expected: u64,
        flush: impl Fn(&Device) -> Result<()>,
    ) -> Result<()> {
        let (mut always, mut seen) = (self.all(), Vec::new());
        for _ in 0..MAX_ATTEMPTS {
            let evicted = self.evicted_by(&flush)?;
            let left = expected & !evicted;
            ensure!(left == 0, "not evicted: {left:#x} of {expected:#x}");
            always &= evicted;
            if always == expected {
                return Ok(());
            }
            seen.push(evicted);
        }
        bail!("evicted {seen:x?} by a flush of {expected:#x}, and {always:#x} every time")
    }

    fn all(&self) -> u64 {
        u64::MAX >> (u64::BITS as u64 - self.nr_pages)
    }
}

/// The part of who is probed.
fn act(worker: &Worker<'_>) -> Result<()> {
    loop {
        worker.step()?;
        read_all(worker.mapping);
        worker.step()?;
    }
}

/// Reads only: a write through a clean translation walks in any case.
fn read_all(mapping: &Mapping) {
    for page in 0..mapping.nr_pages() {
        mapping.word(page, 0).load(Ordering::Relaxed);
    }
}
