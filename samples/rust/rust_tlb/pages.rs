// SPDX-License-Identifier: GPL-2.0

//! The pages of one open file: which is where, and what may be done with it.
//!
//! All of it is protected by the device's mutex. A fault looks its page up under that mutex, and so
//! do all who take pages away: no page is mapped again while it is on its way into a batch.

use crate::{
    abi::{
        Counters,
        POISON, //
    },
    unmap::Deferred, //
};
use kernel::{
    alloc::flags::{
        GFP_KERNEL,
        GFP_KERNEL_ACCOUNT, //
    },
    mm::tlb::{
        ExclusivePage,
        Report,
        Unwritable, //
    },
    page::Page,
    prelude::*, //
};

/// What is at one offset.
pub(crate) enum Slot {
    /// Nothing: a fault maps a fresh page.
    Empty,
    /// A page, that a fault maps.
    Present(Page),
    /// A page was here, and is in the deferred batch: other CPUs may still reach it. A fault has to
    /// flush before it maps another (H3).
    Pending,
    /// As `Pending`, with its contents saved here.
    PendingStored(ExclusivePage),
    /// A copy of the page that was here: a fault maps it.
    Stored(ExclusivePage),
}

impl Slot {
    /// A copy becomes the page.
    fn restore(&mut self) {
        if let Self::Stored(copy) = core::mem::replace(self, Self::Empty) {
            *self = Self::Present(copy.into_page());
        }
    }

    /// The page of which this is the copy was flushed.
    fn settle(&mut self) {
        if let Self::PendingStored(copy) = core::mem::replace(self, Self::Empty) {
            *self = Self::Stored(copy);
        }
    }
}

/// The pages of one open file.
///
/// # Invariants
///
/// A slot is [`Slot::Pending`] or [`Slot::PendingStored`] if and only if its page is in a batch:
/// outside of an unmap, in `deferred`.
pub(crate) struct Pages {
    slots: KVVec<Slot>,
    pool: KVVec<ExclusivePage>,
    pub(crate) deferred: Option<Deferred>,
    pub(crate) counters: Counters,
}

impl Pages {
    /// Makes `nr_pages` empty slots.
    pub(crate) fn new(nr_pages: usize) -> Result<Self> {
        let mut slots = KVVec::with_capacity(nr_pages, GFP_KERNEL)?;
        for _ in 0..nr_pages {
            slots.push(Slot::Empty, GFP_KERNEL)?;
        }
        // INVARIANT: Nothing is pending, and there is no batch.
        Ok(Self {
            slots,
            pool: KVVec::with_capacity(nr_pages, GFP_KERNEL)?,
            deferred: None,
            counters: Counters::default(),
        })
    }

    /// Returns the page at `pgoff`, with a fresh one if there is none; [`None`] behind the device.
    pub(crate) fn get_or_populate(&mut self, pgoff: usize) -> Result<Option<&Page>> {
        if self.is_pending(pgoff) {
            self.counters.nr_pending_hits += 1;
            self.flush_deferred();
        }
        match self.slots.get_mut(pgoff) {
            Some(Slot::Empty) => {
                let page = self.fresh()?.into_page();
                self.set(pgoff, Slot::Present(page));
                self.counters.nr_pages_held += 1;
            }
            Some(slot @ Slot::Stored(_)) => slot.restore(),
            _ => {}
        }
        Ok(match self.slots.get(pgoff) {
            Some(Slot::Present(page)) => Some(page),
            _ => None,
        })
    }

    /// Returns whether there is a page at `pgoff` already.
    pub(crate) fn is_present(&self, pgoff: usize) -> bool {
        matches!(self.slots.get(pgoff), Some(Slot::Present(_)))
    }

    fn is_pending(&self, pgoff: usize) -> bool {
        let slot = self.slots.get(pgoff);
        matches!(slot, Some(Slot::Pending | Slot::PendingStored(_)))
    }

    /// Saves the contents of the page at `pgoff`, which is on its way out.
    pub(crate) fn store(&mut self, pgoff: usize, page: &Unwritable<'_>) -> Result {
        let mut copy = self.fresh()?;
        copy.copy_from(page);
        self.counters.nr_pages_held += 1;
        self.set(pgoff, Slot::PendingStored(copy));
        Ok(())
    }

    /// Takes back `page`, which was at `pgoff` and is flushed now: it is released, or stays, if its
    /// contents were to be saved and could not be.
    pub(crate) fn settle(&mut self, pgoff: usize, page: Page, keep: bool, free: bool) {
        match self.slots.get_mut(pgoff) {
            Some(slot @ Slot::PendingStored(_)) => slot.settle(),
            Some(slot) if keep => return *slot = Slot::Present(page),
            Some(slot) => *slot = Slot::Empty,
            None => {}
        }
        self.release(page, free);
    }

    /// Takes the page at `pgoff` out, and leaves `instead`.
    pub(crate) fn take(&mut self, pgoff: usize, instead: Slot) -> Option<Page> {
        let slot = self.slots.get_mut(pgoff)?;
        if !matches!(slot, Slot::Present(_)) {
            return None;
        }
        match core::mem::replace(slot, instead) {
            Slot::Present(page) => Some(page),
            _ => None,
        }
    }

    /// Puts `slot` at `pgoff`.
    pub(crate) fn set(&mut self, pgoff: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(pgoff) {
            *place = slot;
        }
    }

    /// Flushes the deferred batch, if there is one, and releases its pages.
    pub(crate) fn flush_deferred(&mut self) -> Report {
        self.deferred
            .take()
            .map_or(Report::default(), |deferred| deferred.flush(self))
    }

    /// Poisons a page that no CPU reaches any more, and keeps it for the next fault, or frees it.
    pub(crate) fn release(&mut self, page: Page, free: bool) {
        self.counters.nr_pages_held -= 1;
        match ExclusivePage::new(page) {
            Ok(mut page) => {
                page.fill(POISON);
                self.keep(page, free);
            }
            // Someone holds a reference, for example for direct I/O, and may go on reading and
            // writing. The page is freed when the last one lets go (H7).
            Err(_page) => self.counters.nr_shared += 1,
        }
    }

    fn keep(&mut self, page: ExclusivePage, free: bool) {
        if !free && self.pool.push(page, GFP_KERNEL).is_ok() {
            self.counters.nr_recycled += 1;
            self.counters.nr_pages_held += 1;
        } else {
            self.counters.nr_freed += 1;
        }
    }

    /// Takes a zeroed page from the pool, or a new one.
    fn fresh(&mut self) -> Result<ExclusivePage> {
        let Some(mut page) = self.pool.pop() else {
            return ExclusivePage::alloc_zeroed(GFP_KERNEL_ACCOUNT);
        };
        self.counters.nr_pages_held -= 1;
        self.counters.nr_stale_writes += u64::from(!page.is_filled_with(POISON));
        page.zero();
        Ok(page)
    }

    /// Looks for pages of the pool that someone wrote to.
    pub(crate) fn check_pool(&mut self) {
        for page in self.pool.iter_mut().filter(|p| !p.is_filled_with(POISON)) {
            self.counters.nr_stale_writes += 1;
            page.fill(POISON);
        }
    }
}
