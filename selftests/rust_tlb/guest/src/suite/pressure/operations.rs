// SPDX-License-Identifier: GPL-2.0

//! Every call of the device, and what the kernel calls it for, to be made while allocations fail.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};
use rustix::io::Errno;

use crate::abi::{self, strategy};
use crate::child::Child;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::selection::Selection;

const NR_PAGES: u64 = 16;

/// A device with all pages mapped and written to.
pub struct Fixture {
    device: Device,
    mapping: Mapping,
}

/// What an operation leaves, to be taken away when allocations work again.
pub enum Left {
    Nothing,
    Mapping(Mapping),
    Child(Child),
}

impl Left {
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Mapping(mapping) => {
                drop(mapping);
                Ok(())
            }
            Self::Child(child) => child.join(),
        }
    }
}

pub struct Operation {
    pub name: &'static str,
    /// What comes first, while allocations work.
    pub prepare: fn(&Fixture) -> Result<()>,
    pub run: fn(&Fixture) -> Result<Left, Errno>,
    /// Whether the contents of the pages have to survive it.
    keeps: bool,
}

impl Fixture {
    pub fn new() -> Result<Self> {
        Self::of_folios(0, 0)
    }

    /// Of a device that is set up so, in folios of so many pages, as a power of two.
    pub fn of_folios(setup: u32, folio_order: u32) -> Result<Self> {
        let device = Device::open()?;
        device.setup_folios(setup, folio_order)?;
        let mapping = device.map(NR_PAGES)?;
        let fixture = Self { device, mapping };
        fixture.fill();
        Ok(fixture)
    }

    fn fill(&self) {
        (0..NR_PAGES).for_each(|page| self.mapping.word(page, 0).store(page + 1, Relaxed));
    }

    /// Looks at the pages after an operation, and makes all as it was before.
    pub fn settle(&self, operation: &Operation) -> Result<()> {
        while self.device.leave().is_ok() {}
        self.device.flush()?;
        self.device.idle(0, NR_PAGES, abi::IDLE_UNMARK)?;
        for page in 0..NR_PAGES {
            let value = self.mapping.word(page, 0).load(Relaxed);
            let is_fresh = value == 0 && !operation.keeps;
            ensure!(
                value == page + 1 || is_fresh,
                "{}: page {page} holds {value:#x}",
                operation.name
            );
        }
        let counters = self.device.counters()?;
        let left = (
            counters.nr_stale_writes,
            counters.nr_pending,
            counters.nr_idle,
        );
        ensure!(left == (0, 0, 0), "{}: {counters:?}", operation.name);
        self.fill();
        Ok(())
    }

    pub fn into_device(self) -> Device {
        self.device
    }

    fn unmap(&self, strategy: u32, flags: u32) -> Result<Left, Errno> {
        self.device.unmap(&all(), strategy, flags)?;
        Ok(Left::Nothing)
    }

    fn unmap_later(&self, strategy: u32) -> Result<Left, Errno> {
        self.unmap(strategy, abi::UNMAP_DEFER)?;
        self.device.flush()?;
        Ok(Left::Nothing)
    }

    fn touch(&self) {
        for page in 0..NR_PAGES {
            self.mapping.word(page, 0).load(Relaxed);
        }
    }
}

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

fn nothing(_: &Fixture) -> Result<()> {
    Ok(())
}

/// Gives the pages back to the system, so that others have to be allocated.
fn free_all(fixture: &Fixture) -> Result<()> {
    fixture
        .device
        .unmap(&all(), strategy::BROADCAST, abi::UNMAP_FREE)?;
    Ok(())
}

fn save_all(fixture: &Fixture) -> Result<()> {
    fixture
        .device
        .unmap(&all(), strategy::BROADCAST, abi::UNMAP_WRITE_BACK)?;
    Ok(())
}

/// An operation that may lose contents.
const fn loses(name: &'static str, run: fn(&Fixture) -> Result<Left, Errno>) -> Operation {
    Operation {
        name,
        prepare: nothing,
        run,
        keeps: false,
    }
}

const fn keeps(name: &'static str, run: fn(&Fixture) -> Result<Left, Errno>) -> Operation {
    Operation {
        name,
        prepare: nothing,
        run,
        keeps: true,
    }
}

impl Operation {
    const fn after(self, prepare: fn(&Fixture) -> Result<()>) -> Self {
        Self { prepare, ..self }
    }
}

pub const OPERATIONS: &[Operation] = &[
    keeps("open and close", open),
    keeps("setup", setup),
    keeps("mmap", map),
    keeps("fork", fork),
    keeps("accessed", read_accessed),
    keeps("invalidate", invalidate),
    keeps("idle", mark_and_unmark),
    loses("populate", populate).after(free_all),
    loses("fault", fault).after(free_all),
    keeps("populate what was saved", populate).after(save_all),
    keeps("fault on what was saved", fault).after(save_all),
    loses("page", |fixture| fixture.unmap(strategy::PAGE, 0)),
    loses("zap", |fixture| fixture.unmap(strategy::ZAP, 0)),
    loses("unmap_mapping", |fixture| {
        fixture.unmap(strategy::UNMAP_MAPPING, 0)
    }),
    loses("broadcast", |fixture| fixture.unmap(strategy::BROADCAST, 0)),
    loses("precise", |fixture| {
        fixture.unmap(strategy::PRECISE, abi::UNMAP_FREE)
    }),
    loses("two phases", |fixture| {
        fixture.unmap(strategy::PRECISE, abi::UNMAP_TWO_PHASE)
    }),
    loses("broadcast, later", |fixture| {
        fixture.unmap_later(strategy::BROADCAST)
    }),
    loses("precise, later", |fixture| {
        fixture.unmap_later(strategy::PRECISE)
    }),
    loses("scope", scope),
    keeps("save by page", |fixture| {
        fixture.unmap(strategy::PAGE, SAVE)
    }),
    keeps("save by broadcast", |fixture| {
        fixture.unmap(strategy::BROADCAST, SAVE)
    }),
    keeps("save by precise, later", |fixture| {
        fixture.unmap(strategy::PRECISE, SAVE | abi::UNMAP_DEFER)
    }),
    keeps("save in two phases", |fixture| {
        fixture.unmap(strategy::BROADCAST, SAVE | abi::UNMAP_TWO_PHASE)
    }),
];

const SAVE: u32 = abi::UNMAP_WRITE_BACK;

fn open(_: &Fixture) -> Result<Left, Errno> {
    Device::open()?;
    Ok(Left::Nothing)
}

fn setup(_: &Fixture) -> Result<Left, Errno> {
    let device = Device::open()?;
    device.setup(abi::SETUP_PFNMAP)?;
    Ok(Left::Nothing)
}

/// Needs page tables too, unlike the mapping that is there.
fn map(fixture: &Fixture) -> Result<Left, Errno> {
    let mapping = fixture.device.map(NR_PAGES)?;
    for page in 0..NR_PAGES {
        mapping.word(page, 0).load(Relaxed);
    }
    Ok(Left::Mapping(mapping))
}

fn fork(fixture: &Fixture) -> Result<Left, Errno> {
    let keeps = |page| fixture.mapping.word(page, 0).load(Relaxed) == page + 1;
    let child = Child::fork_with_code(|| i32::from(!(0..NR_PAGES).all(keeps)));
    match child {
        Ok(child) => Ok(Left::Child(child)),
        Err(error) => {
            let errno = error.downcast_ref().and_then(Errno::from_io_error);
            Err(errno.unwrap_or(Errno::IO))
        }
    }
}

fn read_accessed(fixture: &Fixture) -> Result<Left, Errno> {
    fixture.device.accessed(0, NR_PAGES, abi::ACCESSED_CLEAR)?;
    Ok(Left::Nothing)
}

fn invalidate(fixture: &Fixture) -> Result<Left, Errno> {
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        fixture.device.invalidate(0, NR_PAGES, strategy)?;
    }
    Ok(Left::Nothing)
}

fn mark_and_unmark(fixture: &Fixture) -> Result<Left, Errno> {
    fixture.device.idle(0, NR_PAGES, abi::IDLE_MARK)?;
    fixture.device.idle(0, NR_PAGES, abi::IDLE_UNMARK)?;
    Ok(Left::Nothing)
}

fn populate(fixture: &Fixture) -> Result<Left, Errno> {
    fixture.device.populate(0, NR_PAGES)?;
    Ok(Left::Nothing)
}

/// The kernel comes back until the fault succeeds.
fn fault(fixture: &Fixture) -> Result<Left, Errno> {
    fixture.touch();
    Ok(Left::Nothing)
}

fn scope(fixture: &Fixture) -> Result<Left, Errno> {
    fixture.device.enter(strategy::BROADCAST, None)?;
    fixture.unmap(strategy::BROADCAST, 0)?;
    fixture.device.leave()?;
    Ok(Left::Nothing)
}
