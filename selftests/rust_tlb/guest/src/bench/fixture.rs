// SPDX-License-Identifier: GPL-2.0

//! A device that many processes on many CPUs map, and in which they use pages. One of them is looked
//! at more closely: how many of its own translations a flush costs it.

use core::cell::Cell;
use core::hint;
use core::time::Duration;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;
use crate::workers::{Shape, Worker, Workers};

use super::clock::{self, Elapsed};
use super::mapped_file::MappedFile;
use super::pages::Pages;
use super::topology::Topology;
use super::workload::{Role, Whose, Workload, NR_HOT};

/// Spins between two looks at whether the workers are alive.
const SPINS_PER_CHECK: u32 = 1 << 16;
/// Time in which those who are about to sleep do so.
const FALLING_ASLEEP: Duration = Duration::from_millis(1);

/// What something cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub events: TlbEvents,
    pub elapsed: Elapsed,
    /// The share of the victim's hot translations that were still in its TLB afterwards.
    pub kept: f64,
}

/// How an open file of the device is set up, and what is mapped of it beside the pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSetup {
    /// `SETUP_*`.
    pub flags: u32,
    /// By folios of so many pages, as a power of two.
    pub folio_order: u32,
    /// Mappings of a page that is not taken back.
    pub nr_bystanders: usize,
}

impl FileSetup {
    pub fn is_pfnmap(self) -> bool {
        self.flags & abi::SETUP_PFNMAP != 0
    }

    pub fn is_huge(self) -> bool {
        self.flags & abi::SETUP_HUGE != 0
    }

    /// Maps the first pages of `device`: where there may be leaves, at an address that is aligned to
    /// them.
    fn map(self, device: &Device, nr_pages: u64) -> Result<Mapping> {
        Ok(match self.is_huge() {
            true => Mapping::of_tables(device, nr_pages)?,
            false => device.map(nr_pages)?,
        })
    }
}

/// A device, mapped by all workers of a topology.
pub struct Fixture {
    device: Device,
    mapping: Arc<Mapping>,
    _bystanders: Vec<Mapping>,
    workload: Arc<Workload>,
    /// The first is the measured one.
    groups: Vec<Workers>,
    nr_measured: u64,
    busy: bool,
    /// A page that everybody uses, and nobody counts.
    spare: u64,
    /// Calls to flush it.
    settled: Cell<u64>,
}

impl Fixture {
    /// Maps the first `nr_pages` of a new open file in every process of the topology; and as many of
    /// ordinary shared memory, if there is only one.
    pub fn new(topology: Topology, nr_pages: u64, setup: FileSetup) -> Result<Self> {
        // One more: see `Fixture::settle()`.
        let nr_pages = nr_pages + 1;
        let device = Device::open()?;
        device.setup_folios(setup.flags, setup.folio_order)?;
        let file = match topology.nr_mms {
            1 => Some(MappedFile::in_memory(nr_pages)?),
            _ => None,
        };
        let workload = Arc::new(Workload::new(nr_pages, file)?);
        let roles = roles(topology);
        let act = |role: Role| {
            let workload = workload.clone();
            move |worker: &Worker<'_>| workload.act(worker, role)
        };
        // Processes are forked before the driver maps the pages: nobody is to inherit its mapping.
        let (mapping, groups) = if topology.nr_mms > 1 {
            let workers = |&(shape, role): &(Shape, Role)| {
                Workers::of_processes(&device, nr_pages, shape, Wait::Sleep, act(role))
            };
            let groups = roles.iter().map(workers).collect::<Result<_>>()?;
            (Arc::new(setup.map(&device, nr_pages)?), groups)
        } else {
            let mapping = Arc::new(setup.map(&device, nr_pages)?);
            let workers = |&(shape, role): &(Shape, Role)| {
                Workers::of_threads(&mapping, shape.nr_workers(), Wait::Sleep, act(role))
            };
            let groups = roles.iter().map(workers).collect::<Result<_>>()?;
            (mapping, groups)
        };
        // Of the same page, so that no two become one.
        let bystander = |_| Mapping::new(&device, nr_pages, 1);
        let bystanders: Result<_, _> = (0..setup.nr_bystanders).map(bystander).collect();
        Ok(Self {
            _bystanders: bystanders?,
            device,
            mapping,
            workload,
            groups,
            nr_measured: roles[0].0.nr_workers() as u64,
            busy: topology.busy().nr_groups > 0,
            spare: nr_pages - 1,
            settled: Cell::new(0),
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Opens a device that nobody maps; beyond that, it is set up as `setup` says. By reference: it is about
    /// what is beside the unmap.
    pub fn unmapped(setup: FileSetup) -> Result<Device> {
        let device = Device::open()?;
        let by_number = abi::SETUP_PFNMAP | abi::SETUP_HUGE | abi::SETUP_BUNDLES;
        let beside = setup.flags & !by_number;
        device.setup_folios(beside, setup.folio_order)?;
        Ok(device)
    }

    /// The ordinary memory.
    pub fn file(&self) -> Result<&MappedFile> {
        let file = self.workload.file.as_ref();
        file.context("there is no ordinary memory for several processes")
    }

    /// Lets everybody use `pages`, then does `what`, and counts.
    pub fn counted<T>(
        &self,
        whose: Whose,
        pages: Pages,
        what: impl FnOnce(&Device) -> Result<T>,
    ) -> Result<(T, Cost)> {
        self.workload.tell(whose, pages);
        // New pages of a file are on a list of the CPU that used them first, where only that CPU's
        // reclaim finds them.
        self.workload.touch(&self.mapping);
        self.groups.iter().try_for_each(Workers::step)?;
        self.groups.iter().try_for_each(Workers::step)?;
        self.settle()?;
        self.begin()?;
        self.workload.probe(abi::ACCESSED_CLEAR)?;
        let before = read_events()?;
        let (done, elapsed) = clock::timed(|| what(&self.device));
        let events = read_events()?.since(before);
        self.workload.end();
        self.groups[0].step()?;
        self.groups[0].step()?;
        let walked = self.workload.probe(abi::ACCESSED_READ)?;
        let kept = 1.0 - f64::from(walked.count_ones()) / NR_HOT as f64;
        let cost = Cost {
            events,
            elapsed,
            kept,
        };
        Ok((done?, cost))
    }

    /// Waits until those who are measured are busy, or asleep.
    fn begin(&self) -> Result<()> {
        let all = self.workload.nr_ready() + self.nr_measured;
        self.groups[0].step()?;
        while self.workload.nr_ready() != all {
            self.groups[0].check()?;
            (0..SPINS_PER_CHECK)
                .take_while(|_| self.workload.nr_ready() != all)
                .for_each(|_| hint::spin_loop());
        }
        if !self.busy {
            thread::sleep(FALLING_ASLEEP);
        }
        Ok(())
    }

    /// Has the core make up for the batch before: the first to look at a page table after a batch
    /// flushes once more, since it cannot tell that the batch has flushed. Nobody's round pays for
    /// another one's.
    fn settle(&self) -> Result<()> {
        let spare = Selection::run(self.spare, 1);
        let reply = self.device.unmap(&spare, strategy::ZAP, 0)?;
        self.settled.set(self.settled.get() + reply.nr_flush_calls);
        Ok(())
    }

    /// Leaves that were mapped since the device was opened.
    pub fn nr_leaves(&self) -> Result<u64> {
        Ok(self.device.counters()?.nr_huge_faults)
    }

    /// Calls to flush that the device has made since it was opened, without those of
    /// `settle()`.
    pub fn nr_flush_calls(&self) -> Result<u64> {
        Ok(self.device.counters()?.nr_flush_calls - self.settled.get())
    }
}

/// The groups of a topology, and what they do.
fn roles(topology: Topology) -> Vec<(Shape, Role)> {
    let (busy, asleep) = (topology.busy(), topology.asleep());
    let has_busy = busy.nr_groups > 0;
    let measured = if has_busy { busy } else { asleep };
    let nr_beside = if has_busy { asleep.nr_groups } else { 0 };
    let mut roles = vec![(measured.shape, Role::Measured { busy: has_busy })];
    roles.extend((0..nr_beside).map(|_| (asleep.shape, Role::Beside)));
    roles
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}
