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
use crate::crew::{Crew, Member, Shape};
use crate::device::Device;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;

/// Who maps the pages, the driver included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// One process with so many threads.
    Threads(usize),
    /// So many processes with a thread each.
    Processes(usize),
}

impl Cast {
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
pub struct Scene {
    device: Device,
    mapping: Arc<Mapping>,
    crew: Crew,
    touch: Touch,
    nr_pages: u64,
}

impl Scene {
    /// Maps the first `nr_pages` of a new open file in every process of the cast.
    pub fn new(cast: Cast, nr_pages: u64) -> Result<Self> {
        Self::on(Device::open()?, cast, nr_pages)
    }

    /// Maps the first `nr_pages` of `device`, which nobody has mapped yet, in every process of the
    /// cast.
    pub fn on(device: Device, cast: Cast, nr_pages: u64) -> Result<Self> {
        Self::touched(device, cast, nr_pages, Touch::Read)
    }

    /// As [`Scene::on`], with a way in which everybody uses the pages.
    pub fn touched(device: Device, cast: Cast, nr_pages: u64, touch: Touch) -> Result<Self> {
        let act = move |member: &Member<'_>| act(member, touch);
        // One page more, see `flush_everything()`.
        let nr_mapped = nr_pages + 1;
        let (mapping, crew) = match cast {
            Cast::Threads(nr) => {
                let mapping = device.map(nr_mapped)?;
                return Self::over(device, mapping, nr, touch);
            }
            // Forked before the driver maps the pages: nobody is to inherit its mapping.
            Cast::Processes(nr) => {
                let shape = Shape {
                    processes: nr - 1,
                    threads: 1,
                };
                let crew = Crew::of_processes(&device, nr_mapped, shape, Wait::Spin, act)?;
                (Arc::new(device.map(nr_mapped)?), crew)
            }
        };
        touch.prepare(&mapping)?;
        Ok(Self {
            device,
            mapping,
            crew,
            touch,
            nr_pages,
        })
    }

    /// In one process with `nr_threads`, over a mapping of `device` with a page more than are used.
    pub fn over(device: Device, mapping: Mapping, nr_threads: usize, touch: Touch) -> Result<Self> {
        let act = move |member: &Member<'_>| act(member, touch);
        let mapping = Arc::new(mapping);
        let crew = Crew::of_threads(&mapping, nr_threads - 1, Wait::Spin, act)?;
        touch.prepare(&mapping)?;
        Ok(Self {
            device,
            nr_pages: mapping.nr_pages() - 1,
            mapping,
            crew,
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
        self.crew.step()?;
        self.touch.all(&self.mapping);
        self.crew.step()?;
        let before = read_events()?;
        let done = what(&self.device)?;
        let events = read_events()?.since(before);
        self.crew.step()?;
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

/// The part of a member: touch all pages when told to, spin through the unmap.
fn act(member: &Member<'_>, touch: Touch) -> Result<()> {
    touch.prepare(member.mapping)?;
    loop {
        member.step()?;
        touch.all(member.mapping);
        member.step()?;
        member.step()?;
    }
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}
