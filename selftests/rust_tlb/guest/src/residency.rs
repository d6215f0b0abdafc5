// SPDX-License-Identifier: GPL-2.0

//! The residency probe: which translations a CPU has in its TLB.
//!
//! The Accessed bit of a PTE is cleared without a flush, and a CPU reads the page. If the bit is
//! set then, the CPU has walked the page table; if it is still clear, the translation was in its
//! TLB.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use anyhow::{ensure, Result};

use crate::abi;
use crate::barrier::Wait;
use crate::crew::{Crew, Member, Shape};
use crate::device::Device;
use crate::mapping::Mapping;
use crate::stillness::{this_thread, Stillness};

/// Touch, flush everything: a TLB that has just grown evicts by itself, a warm one does not.
const NR_WARM_UPS: u64 = 20;

/// A thread on another CPU, or several, whose TLB is probed for the first pages of a device.
pub struct Probe<'a> {
    device: &'a Device,
    crew: Crew,
    thread: Arc<AtomicU64>,
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
        let thread = Arc::new(AtomicU64::new(0));
        let shown = thread.clone();
        let crew = Crew::of_threads(&mapping, 1, wait, move |member| {
            shown.store(this_thread(), Ordering::Release);
            act(member)
        })?;
        Self::warmed(device, crew, thread, nr_pages)
    }

    /// A process for each other CPU. A page counts as walked for if one of them did.
    pub fn of_processes(device: &'a Device, nr_pages: u64, nr: usize) -> Result<Self> {
        let shape = Shape {
            processes: nr,
            threads: 1,
        };
        let crew = Crew::of_processes(device, nr_pages, shape, Wait::Spin, act)?;
        Self::warmed(device, crew, Arc::default(), nr_pages)
    }

    fn warmed(
        device: &'a Device,
        crew: Crew,
        thread: Arc<AtomicU64>,
        nr_pages: u64,
    ) -> Result<Self> {
        let probe = Self {
            device,
            crew,
            thread,
            nr_pages,
        };
        for _ in 0..NR_WARM_UPS {
            probe.touch()?;
            device.invalidate(0, nr_pages, abi::strategy::BROADCAST)?;
        }
        probe.touch()?;
        Ok(probe)
    }

    /// From now on the thread is to keep what it has in its TLB. Not known of processes.
    pub fn stillness(&self) -> Result<Stillness> {
        let thread = self.thread.load(Ordering::Acquire);
        ensure!(thread != 0, "only a thread's switches are known");
        Stillness::of(vec![thread])
    }

    /// Lets the thread read each page once.
    pub fn touch(&self) -> Result<()> {
        self.crew.step()?;
        self.crew.step()
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
        let all = u64::MAX >> (u64::BITS as u64 - self.nr_pages);
        ensure!(
            bits.mapped == all,
            "pages {:#x} are mapped, not {all:#x}",
            bits.mapped
        );
        Ok(bits.accessed)
    }

    /// What the CPU walks for when it reads every page after `flush`.
    pub fn evicted_by(&self, flush: impl FnOnce(&Device) -> Result<()>) -> Result<u64> {
        self.clear()?;
        flush(self.device)?;
        self.touch()?;
        self.walked()
    }
}

/// The part of who is probed.
fn act(member: &Member<'_>) -> Result<()> {
    loop {
        member.step()?;
        read_all(member.mapping);
        member.step()?;
    }
}

/// Reads only: a write through a clean translation walks in any case.
fn read_all(mapping: &Mapping) {
    for page in 0..mapping.nr_pages() {
        mapping.word(page, 0).load(Ordering::Relaxed);
    }
}
