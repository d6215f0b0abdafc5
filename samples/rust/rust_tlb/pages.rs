// SPDX-License-Identifier: GPL-2.0

//! The pages of one open file: which is where, and what may be done with it.
//!
//! All of it is protected by the device's mutex. A fault looks its page up under that mutex, and so
//! do all who take pages away: no page is mapped again while it is on its way into a batch.

use crate::{
    abi::{
        strategy,
        Counters,
        POISON, //
    },
    deferred::{
        BatchOfPages,
        Deferred, //
    },
    request::Setup,
    scope::Membership, //
};
use kernel::{
    alloc::flags::{
        GFP_KERNEL,
        GFP_KERNEL_ACCOUNT, //
    },
    mm::tlb::{
        self,
        Batch,
        DriverPage,
        ExclusivePage,
        Report,
        Unwritable,
        Why, //
    },
    prelude::*, //
};

/// What is at one offset.
pub(crate) enum Slot {
    /// Nothing: a fault maps a fresh page.
    Empty,
    /// A page, that a fault maps.
    Present(DriverPage),
    /// As `Present`, but memory pressure may take it. It `was_taken` before, and came back empty.
    Idle { page: DriverPage, was_taken: bool },
    /// Memory pressure took an idle page. A fault maps a fresh one, which is idle, too.
    Taken,
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
            *self = Self::Present(DriverPage::new(copy));
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
    /// For each strategy the batch that was flushed last, empty.
    pub(crate) used: [Option<BatchOfPages>; strategy::NR as usize],
    /// Where memory pressure goes on.
    pub(crate) scanned_to: usize,
    /// Empty: for when there is no memory to make one.
    pub(crate) spare: Option<Batch<DriverPage, tlb::Broadcast>>,
    /// The scope that the open file is in.
    pub(crate) membership: Option<Membership>,
    pub(crate) setup: Setup,
    /// `setup` cannot be changed any more.
    pub(crate) is_set_up: bool,
    /// A negative control released pages without a flush, so that CPUs may still write to them: no
    /// page is freed any more, for it would be somebody else's.
    pub(crate) is_broken: bool,
    pub(crate) counters: Counters,
}

/// Pages that memory pressure takes at a time: what the kernel's shrinkers scan at a time.
pub(crate) const SPARE_PAGES: usize = 128;

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
            used: [const { None }; strategy::NR as usize],
            scanned_to: 0,
            spare: Some(Batch::new(
                tlb::Broadcast::new(tlb::Cpus::new()),
                SPARE_PAGES,
                GFP_KERNEL,
            )?),
            membership: None,
            setup: Setup::default(),
            is_set_up: false,
            is_broken: false,
            counters: Counters::default(),
        })
    }

    /// Returns the page at `pgoff`, with a fresh one if there is none; [`None`] behind the device.
    pub(crate) fn get_or_populate(&mut self, pgoff: usize) -> Result<Option<&DriverPage>> {
        self.is_set_up = true;
        if self.is_pending(pgoff) {
            self.counters.nr_pending_hits += 1;
            if let Some(deferred) = &self.deferred {
                deferred.note_hit(pgoff);
            }
            self.flush_deferred(Why::Refault);
        }
        match self.slots.get_mut(pgoff) {
            Some(Slot::Empty) => {
                let page = self.fresh_for_mapping()?;
                self.set(pgoff, Slot::Present(page));
            }
            Some(Slot::Taken) => {
                let page = self.fresh_for_mapping()?;
                let was_taken = true;
                self.set(pgoff, Slot::Idle { page, was_taken });
                self.counters.nr_idle += 1;
            }
            Some(slot @ Slot::Stored(_)) => slot.restore(),
            _ => {}
        }
        Ok(match self.slots.get(pgoff) {
            Some(Slot::Present(page) | Slot::Idle { page, .. }) => Some(page),
            _ => None,
        })
    }

    /// Returns whether there is a page at `pgoff` already.
    pub(crate) fn is_present(&self, pgoff: usize) -> bool {
        let slot = self.slots.get(pgoff);
        matches!(slot, Some(Slot::Present(_) | Slot::Idle { .. }))
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
    pub(crate) fn settle(&mut self, pgoff: usize, page: DriverPage, keep: bool, free: bool) {
        match self.slots.get_mut(pgoff) {
            Some(slot @ Slot::PendingStored(_)) => slot.settle(),
            Some(slot) if keep => return *slot = Slot::Present(page),
            Some(slot) => *slot = Slot::Empty,
            None => {}
        }
        self.release(page, free);
    }

    /// Takes the page at `pgoff` out, and leaves `instead`.
    pub(crate) fn take(&mut self, pgoff: usize, instead: Slot) -> Option<DriverPage> {
        if !self.is_present(pgoff) {
            return None;
        }
        match core::mem::replace(self.slots.get_mut(pgoff)?, instead) {
            Slot::Present(page) => Some(page),
            Slot::Idle { page, .. } => {
                self.counters.nr_idle -= 1;
                Some(page)
            }
            _ => None,
        }
    }

    /// Takes the first idle page at `from` or behind it out, and leaves `Taken`.
    pub(crate) fn take_idle(&mut self, from: usize) -> Option<(usize, DriverPage)> {
        let behind = self.slots.get(from..)?;
        let nr = behind.iter().position(|s| matches!(s, Slot::Idle { .. }))?;
        Some((from + nr, self.take(from + nr, Slot::Taken)?))
    }

    /// Takes the first page at `from` or behind it out.
    pub(crate) fn take_any(&mut self, from: usize) -> Option<(usize, DriverPage)> {
        let pgoff = (from..self.slots.len()).find(|pgoff| self.is_present(*pgoff))?;
        Some((pgoff, self.take(pgoff, Slot::Empty)?))
    }

    /// Marks the page at `pgoff` as idle; returns whether there is one that was not.
    pub(crate) fn mark_idle(&mut self, pgoff: usize) -> bool {
        let Some(slot @ Slot::Present(_)) = self.slots.get_mut(pgoff) else {
            return false;
        };
        if let Slot::Present(page) = core::mem::replace(slot, Slot::Empty) {
            let was_taken = false;
            *slot = Slot::Idle { page, was_taken };
        }
        self.counters.nr_idle += 1;
        true
    }

    /// Takes the page at `pgoff` back into use. Returns whether it was idle, and whether it was
    /// taken since it was marked.
    pub(crate) fn unmark_idle(&mut self, pgoff: usize) -> (bool, bool) {
        let Some(slot) = self.slots.get_mut(pgoff) else {
            return (false, false);
        };
        match core::mem::replace(slot, Slot::Empty) {
            Slot::Idle { page, was_taken } => {
                *slot = Slot::Present(page);
                self.counters.nr_idle -= 1;
                (true, was_taken)
            }
            Slot::Taken => (false, true),
            other => {
                *slot = other;
                (false, false)
            }
        }
    }

    /// Puts `slot` at `pgoff`.
    pub(crate) fn set(&mut self, pgoff: usize, slot: Slot) {
        if let Some(place) = self.slots.get_mut(pgoff) {
            *place = slot;
        }
    }

    /// Flushes the deferred batch, if there is one, and releases its pages.
    pub(crate) fn flush_deferred(&mut self, why: Why) -> Report {
        self.deferred
            .take()
            .map_or(Report::default(), |deferred| deferred.flush(self, why))
    }

    /// Releases the pages of the deferred batch, if its scope has flushed them meanwhile.
    pub(crate) fn reap(&mut self) {
        if self.deferred.as_ref().is_some_and(Deferred::is_flushed) {
            self.flush_deferred(Why::Scope);
        }
    }

    /// Poisons a page that no CPU reaches any more, and keeps it for the next fault, or frees it.
    pub(crate) fn release(&mut self, page: DriverPage, free: bool) {
        self.counters.nr_pages_held -= 1;
        match page.into_exclusive() {
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
        // Memory pressure comes here, too: nothing is allocated.
        if free && !self.is_broken {
            self.counters.nr_freed += 1;
            return;
        }
        match self.pool.push_within_capacity(page) {
            Ok(()) => {
                self.counters.nr_recycled += 1;
                self.counters.nr_pages_held += 1;
            }
            Err(refused) if self.is_broken => core::mem::forget(refused.0),
            Err(_) => self.counters.nr_freed += 1,
        }
    }

    /// Leaks the pages of the pool, if they must not be freed.
    pub(crate) fn leak_broken(&mut self) {
        if self.is_broken {
            self.pool.drain_all().for_each(core::mem::forget);
        }
    }

    fn fresh_for_mapping(&mut self) -> Result<DriverPage> {
        let page = self.fresh()?;
        self.counters.nr_pages_held += 1;
        Ok(DriverPage::new(page))
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

    /// Returns how many pages could be freed.
    pub(crate) fn nr_reclaimable(&self) -> usize {
        let nr_pending = self.deferred.as_ref().map_or(0, Deferred::nr_pages);
        self.pool.len() + self.counters.nr_idle as usize + nr_pending
    }

    /// Frees up to `nr` pages of the pool, and returns how many.
    pub(crate) fn shrink_pool(&mut self, nr: usize) -> usize {
        if self.is_broken {
            return 0;
        }
        let nr = nr.min(self.pool.len());
        self.pool.truncate(self.pool.len() - nr);
        self.counters.nr_pages_held -= nr as u64;
        self.counters.nr_reclaimed += nr as u64;
        nr
    }

    /// Looks for pages of the pool that someone wrote to.
    pub(crate) fn check_pool(&mut self) {
        for page in self.pool.iter_mut().filter(|p| !p.is_filled_with(POISON)) {
            self.counters.nr_stale_writes += 1;
            page.fill(POISON);
        }
    }
}
