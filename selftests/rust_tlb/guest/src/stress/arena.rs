// SPDX-License-Identifier: GPL-2.0

//! The two open files of a crowd, and what is written down about them.

use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Context, Result};

use crate::abi::{self, strategy};
use crate::device::Device;
use crate::flush_ring;
use crate::selection::Selection;
use crate::shared::Shared;
use crate::stress::action::{BAND_PAGES, SAVED_PAGES};
use crate::stress::board::Board;
use crate::stress::ground::{Ground, Memory, Stamps};
use crate::stress::Options;
use crate::watcher::{Ledger, Watcher};

/// What is known about an arena. It is made before the processes are forked, so that all see it,
/// also what one of them opens later.
pub struct Books {
    pub ledger: Ledger,
    nr_unmapped: Shared<AtomicU64>,
    nr_watched: u64,
}

impl Books {
    pub fn new(options: &Options) -> Result<Self> {
        let nr_watched = options.nr_workers() * BAND_PAGES;
        Ok(Self {
            ledger: Ledger::new(nr_watched, options.nr_slots())?,
            nr_unmapped: Shared::new(1)?,
            nr_watched,
        })
    }
}

/// Two open files.
pub struct Arena<'a> {
    pub books: &'a Books,
    pub watched: Device,
    pub saved: Device,
    setup: u32,
}

impl<'a> Arena<'a> {
    /// Opens files whose mappings give their processes a ring of flushes, if the kernel has it.
    pub fn open(books: &'a Books) -> Result<Self> {
        Self::open_as(books, abi::SETUP_RING)
    }

    /// Opens files that are to be mapped as `setup` says: `SETUP_*`.
    pub fn open_as(books: &'a Books, mut setup: u32) -> Result<Self> {
        if !flush_ring::exists() {
            setup &= !abi::SETUP_RING;
        }
        let open = || -> Result<Device> {
            let device = Device::open().context("open")?;
            device.setup(setup).context("setup")?;
            Ok(device)
        };
        Ok(Self {
            books,
            watched: open()?,
            saved: open()?,
            setup,
        })
    }

    /// The watched pages, as the thread of this slot maps and judges them.
    pub fn watched_ground(&self, slot: usize) -> Result<Ground<'_>> {
        let watcher = Watcher::new(&self.books.ledger, slot);
        let memory = Memory::Watched(watcher);
        Ground::new(&self.watched, self.setup, self.books.nr_watched, memory)
    }

    /// The saved pages, as the thread of this slot maps and judges them.
    pub fn saved_ground<'b>(&'b self, board: &'b Board, slot: usize) -> Result<Ground<'b>> {
        let memory = Memory::Saved(Stamps::new(board, slot, SAVED_PAGES));
        Ground::new(&self.saved, self.setup, SAVED_PAGES, memory)
    }

    /// Unmaps watched pages, which are the caller's to unmap, under the eyes of all.
    pub fn unmap_watched(&self, selection: &Selection, strategy: u32, flags: u32) -> Result<()> {
        let pages = selection.pages();
        pages.iter().for_each(|&page| self.books.ledger.begin(page));
        let reply = self.watched.unmap(selection, strategy, flags)?;
        if flags & abi::UNMAP_DEFER == 0 {
            pages.iter().for_each(|&page| self.books.ledger.end(page));
        }
        self.books.nr_unmapped[0].fetch_add(reply.nr_pages, Ordering::AcqRel);
        Ok(())
    }

    /// When nobody uses the files any more: the device's counters agree with ours, and with each
    /// other.
    pub fn settle(&self) -> Result<()> {
        let counted = self.watched.counters()?.nr_unmapped;
        let expected = self.books.nr_unmapped[0].load(Ordering::Acquire);
        ensure!(
            counted == expected,
            "{expected} pages were unmapped, and the device counts {counted}"
        );
        empty(&self.watched, self.books.nr_watched).context("the watched pages")?;
        empty(&self.saved, SAVED_PAGES).context("the saved pages")
    }
}

/// Takes all pages out of the device, then those of its pool, and demands that it says so.
fn empty(device: &Device, nr_pages: u64) -> Result<()> {
    free_first(device, nr_pages)?;
    let in_pool = device.counters()?.nr_pages_held;
    let limit = device.describe()?.nr_pages;
    ensure!(in_pool <= limit, "{in_pool} pages in the pool");
    if in_pool > 0 {
        free_first(device, in_pool)?;
    }
    let counters = device.counters()?;
    ensure!(counters.nr_pages_held == 0, "held at the end: {counters:?}");
    ensure!(
        counters.nr_stale_writes == 0,
        "released pages were written to: {counters:?}"
    );
    Ok(())
}

/// Fills the offsets first: what is saved comes back, and the pool is used before new pages are.
fn free_first(device: &Device, nr_pages: u64) -> Result<()> {
    device.flush()?;
    device.populate(0, nr_pages)?;
    let all = Selection::run(0, nr_pages);
    let reply = device.unmap(&all, strategy::BROADCAST, abi::UNMAP_FREE)?;
    ensure!(reply.nr_pages == nr_pages, "{reply:?}");
    Ok(())
}
