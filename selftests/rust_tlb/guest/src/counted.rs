// SPDX-License-Identifier: GPL-2.0

//! One counted unmap at a time, with all other CPUs busy.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::mm::MprotectFlags;

use crate::abi;
use crate::barrier::Wait;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;
use crate::workers::{Shape, Worker, Workers};

/// Who maps the pages, the driver included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappedBy {
    /// One process with so many threads.
    Threads(usize),
    /// So many processes with a thread each.
    Processes(usize),
}

impl MappedBy {
    /// Address spaces that map the pages.
    pub fn nr_mms(self) -> usize {
        match self {
            Self::Threads(_) => 1,
            Self::Processes(nr) => nr,
        }
    }
}

/// How everybody uses the pages before they are unmapped: it decides what their PTEs are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Writable, and clean.
    Read,
    /// Writable, and dirty. The core's own gather flushes once more a page table for such pages,
    /// before it drops their reverse mappings.
    Write,
    /// Clean, in mappings that may only be read.
    ReadOnly,
}

impl Touch {
    /// Before the pages are touched for the first time.
    fn prepare(self, mapping: &Mapping) -> Result<()> {
        if self == Self::ReadOnly {
            mapping.protect(MprotectFlags::READ)?;
        }
        Ok(())
    }

    fn all(self, mapping: &Mapping) {
        for page in 0..mapping.nr_pages() {
            let word = mapping.word(page, 0);
            if self == Self::Write {
                word.store(1, Ordering::Relaxed);
            } else {
                word.load(Ordering::Relaxed);
            }
        }
    }
}

/// What one unmap did.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// The device's answer.
    pub reply: abi::Unmap,
    /// The kernel's counts.
    pub events: TlbEvents,
    /// Time the call took.
    pub elapsed: Duration,
}

/// A device, mapped on every CPU. Between the rounds the others spin on ordinary memory.
pub struct CountedDevice {
    device: Device,
    mapping: Arc<Mapping>,
    workers: Workers,
    touch: Touch,
    nr_pages: u64,
}

impl CountedDevice {
    /// Maps the first `nr_pages` of a new open file in every process.
    pub fn new(mapped_by: MappedBy, nr_pages: u64) -> Result<Self> {
        Self::on(Device::open()?, mapped_by, nr_pages)
    }

    /// Maps the first `nr_pages` of `device`, which nobody has mapped yet, in every
    /// process.
    pub fn on(device: Device, mapped_by: MappedBy, nr_pages: u64) -> Result<Self> {
        Self::touched(device, mapped_by, nr_pages, Touch::Read)
    }

    /// As [`CountedDevice::on`], with a way in which everybody uses the pages.
    pub fn touched(
        device: Device,
        mapped_by: MappedBy,
        nr_pages: u64,
        touch: Touch,
    ) -> Result<Self> {
        let act = move |worker: &Worker<'_>| act(worker, touch);
        // One page more, see `flush_everything()`.
        let nr_mapped = nr_pages + 1;
        let (mapping, workers) = match mapped_by {
            MappedBy::Threads(nr) => {
                let mapping = device.map(nr_mapped)?;
                return Self::over(device, mapping, nr, touch);
            }
            // Forked before the driver maps the pages: nobody is to inherit its mapping.
            MappedBy::Processes(nr) => {
                let shape = Shape {
                    processes: nr - 1,
                    threads: 1,
                };
                let workers = Workers::of_processes(&device, nr_mapped, shape, Wait::Spin, act)?;
                (Arc::new(device.map(nr_mapped)?), workers)
            }
        };
        touch.prepare(&mapping)?;
        Ok(Self {
            device,
            mapping,
            workers,
            touch,
            nr_pages,
        })
    }

    /// In one process with `nr_threads`, over a mapping of `device` with a page more than are used.
    pub fn over(device: Device, mapping: Mapping, nr_threads: usize, touch: Touch) -> Result<Self> {
        let act = move |worker: &Worker<'_>| act(worker, touch);
        let mapping = Arc::new(mapping);
        let workers = Workers::of_threads(&mapping, nr_threads - 1, Wait::Spin, act)?;
        touch.prepare(&mapping)?;
        Ok(Self {
            device,
            nr_pages: mapping.nr_pages() - 1,
            mapping,
            workers,
            touch,
        })
    }

    /// The driver's own mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Lets everybody touch every page, then unmaps `selection` and counts.
    pub fn round(&self, selection: &Selection, strategy: u32) -> Result<Round> {
        let mut elapsed = Duration::ZERO;
        let (reply, events) = self.counted(|device| {
            let start = Instant::now();
            let reply = device.unmap(selection, strategy, 0)?;
            elapsed = start.elapsed();
            Ok(reply)
        })?;
        if strategy == abi::strategy::NONE {
            self.flush_everything()?;
        }
        Ok(Round {
            reply,
            events,
            elapsed,
        })
    }

    /// Lets everybody touch every page, then does `what`, and counts.
    pub fn counted<T>(&self, what: impl FnOnce(&Device) -> Result<T>) -> Result<(T, TlbEvents)> {
        self.workers.step()?;
        self.touch.all(&self.mapping);
        self.workers.step()?;
        let before = read_events()?;
        let done = what(&self.device)?;
        let events = read_events()?.since(before);
        self.workers.step()?;
        Ok((done, events))
    }

    /// Ends the stale translations that the negative control leaves behind, so that the next round
    /// faults on the pages again: the flush of a broadcast is a full one on every CPU that runs one
    /// of the mms, whatever the page.
    fn flush_everything(&self) -> Result<()> {
        let spare = Selection::run(self.nr_pages, 1);
        self.device.unmap(&spare, abi::strategy::BROADCAST, 0)?;
        Ok(())
    }
}

/// The part of a worker: touch all pages when told to, spin through the unmap.
fn act(worker: &Worker<'_>, touch: Touch) -> Result<()> {
    touch.prepare(worker.mapping)?;
    loop {
        worker.step()?;
        touch.all(worker.mapping);
        worker.step()?;
        worker.step()?;
    }
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}
