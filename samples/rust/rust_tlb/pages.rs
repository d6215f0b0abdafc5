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
    scope::Membership,
    slots::{
        Found,
        Slots, //
    }, //
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

/// The pages of one open file.
///
/// # Invariants
///
/// A slot is pending if and only if its page is in a batch: outside of an unmap, in `deferred`.
pub(crate) struct Pages {
    pub(crate) slots: Slots<DriverPage, ExclusivePage>,
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
        // INVARIANT: Nothing is pending, and there is no batch.
        Ok(Self {
            slots: Slots::new(nr_pages, GFP_KERNEL)?,
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
        if self.slots.find(pgoff) == Found::Pending {
            self.counters.nr_pending_hits += 1;
            if let Some(deferred) = &self.deferred {
                deferred.note_hit(pgoff);
            }
            self.flush_deferred(Why::Refault);
        }
        match self.slots.find(pgoff) {
            Found::Nothing => {
                let page = self.fresh_for_mapping()?;
                // A page for which there is no room is freed, and none is mapped.
                self.slots.fill(pgoff, page).map_err(|_page| EBUSY)?;
            }
            Found::Copy => self.slots.restore(pgoff, DriverPage::new),
            Found::Page | Found::Pending | Found::Nowhere => {}
        }
        Ok(self.slots.get(pgoff))
    }

    /// Saves the contents of the page at `pgoff`, which is on its way out.
    pub(crate) fn store(&mut self, pgoff: usize, page: &Unwritable<'_>) -> Result {
        let mut copy = self.fresh()?;
        copy.copy_from(page);
        self.counters.nr_pages_held += 1;
        self.slots.store(pgoff, copy);
        Ok(())
    }

    /// Takes back `page`, which was at `pgoff` and is flushed now: it is released, or stays, if its
    /// contents were to be saved and could not be.
    pub(crate) fn settle(&mut self, pgoff: usize, page: DriverPage, keep: bool, free: bool) {
        if let Some(page) = self.slots.settle(pgoff, page, keep) {
            self.release(page, free);
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
        self.pool.len() + self.slots.nr_idle() + nr_pending
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
