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
    pool::{
        Findings,
        Pool,
        Pooled, //
    },
    request::Setup,
    scope::Membership,
    slots::{
        Found,
        SlotRoom,
        Slots, //
    },
    store::Store, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::tlb::{
        self,
        owed::OwedCount,
        Batch,
        DriverPage,
        ExclusivePage,
        Report,
        Unwritable,
        Why, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// The pages of one open file.
///
/// # Invariants
///
/// A slot is pending if and only if its page is in a batch: outside of an unmap, in `deferred`.
pub(crate) struct Pages {
    pub(crate) slots: Slots<DriverPage, ExclusivePage>,
    pool: Pool<ExclusivePage>,
    pub(crate) deferred: Option<Deferred>,
    /// Flushes owed for the mappings of this file.
    pub(crate) owed: Arc<OwedCount>,
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

/// Memory for slots of pages.
pub(crate) type Room = SlotRoom<DriverPage, ExclusivePage>;

/// What a page may need that is not there yet, allocated with the pages unlocked.
#[derive(Default)]
pub(crate) struct Spare {
    pub(crate) page: Option<ExclusivePage>,
    pub(crate) room: Option<Room>,
}

/// What came of [`Pages::populate`].
pub(crate) enum Populated {
    /// There was a page, or there can be none.
    Already,
    /// There is one now.
    Now,
    /// None is left: one has to be allocated, with the pages unlocked.
    NeedsPage,
    /// There is no room: memory for that many slots has to be allocated, with the pages unlocked.
    NeedsRoom(usize),
}

/// Most pages that are kept for the next fault.
const MAX_POOL_PAGES: usize = 1 << 20;

/// Pages that memory pressure takes at a time: what the kernel's shrinkers scan at a time.
pub(crate) const SPARE_PAGES: usize = 128;

impl Pages {
    /// Makes `nr_pages` empty slots, in place: it is too much for the stack.
    pub(crate) fn new(nr_pages: usize) -> Result<impl Init<Self>> {
        let slots = Slots::new(nr_pages, GFP_KERNEL_ACCOUNT)?;
        let pool = Pool::new(nr_pages.min(MAX_POOL_PAGES), GFP_KERNEL_ACCOUNT)?;
        let owed = Arc::new(OwedCount::new(), GFP_KERNEL_ACCOUNT)?;
        let broadcast = tlb::Broadcast::new(tlb::Cpus::new(GFP_KERNEL_ACCOUNT)?);
        let spare = Batch::new(broadcast, SPARE_PAGES, GFP_KERNEL_ACCOUNT)?;
        // INVARIANT: Nothing is pending, and there is no batch.
        Ok(init!(Self {
            slots,
            pool,
            deferred: None,
            owed,
            used: [const { None }; strategy::NR as usize],
            scanned_to: 0,
            spare: Some(spare),
            membership: None,
            setup: Setup::default(),
            is_set_up: false,
            is_broken: false,
            counters: Counters::default(),
        }))
    }

    /// Sees to it that there is a page at `pgoff`, unless that is behind the device; a fresh one is
    /// taken from the pool, or is `spare`.
    pub(crate) fn populate(&mut self, pgoff: usize, spare: &mut Spare) -> Populated {
        self.is_set_up = true;
        self.flush_if_pending(pgoff);
        match self.slots.find(pgoff) {
            Found::Nothing => {}
            Found::Copy => {
                self.slots.restore(pgoff, DriverPage::new);
                return Populated::Already;
            }
            Found::Page | Found::Pending | Found::Nowhere => return Populated::Already,
        }
        if let Some(room) = spare.room.take() {
            self.slots.grow(pgoff, room);
        }
        if let Some(nr) = self.slots.room_wanted(pgoff) {
            return Populated::NeedsRoom(nr);
        }
        let Some(page) = self.fresh(|| spare.page.take()) else {
            return Populated::NeedsPage;
        };
        // There is nothing, and room.
        if self.slots.fill(pgoff, DriverPage::new(page)).is_ok() {
            self.counters.nr_pages_held += 1;
        }
        Populated::Now
    }

    /// Flushes if the page that was at `pgoff` waits for that. Of flushes that are owed for other
    /// files, in the same process or not, it knows nothing.
    pub(crate) fn flush_if_pending(&mut self, pgoff: usize) {
        if !self.owed.is_owed() || self.slots.find(pgoff) != Found::Pending {
            return;
        }
        self.counters.nr_pending_hits += 1;
        if let Some(deferred) = &self.deferred {
            deferred.note_hit(pgoff);
        }
        self.flush_deferred(Why::Refault);
    }

    /// The page at `pgoff` is about to be written to, for the first time since it was clean.
    pub(crate) fn mkwrite(&mut self, pgoff: usize) {
        self.flush_if_pending(pgoff);
        self.counters.nr_mkwrites += 1;
    }

    /// Returns the page at `pgoff`, if there is one that can be used.
    pub(crate) fn get(&self, pgoff: usize) -> Option<&DriverPage> {
        let page = self.slots.get(pgoff)?;
        // What has gone bad is not mapped again.
        (!page.is_bad()).then_some(page)
    }

    /// Saves the contents of the page at `pgoff`, which is on its way out, in a page of the pool or
    /// of `spare`. Returns whether there was one.
    pub(crate) fn store(
        &mut self,
        pgoff: usize,
        page: &Unwritable<'_>,
        spare: &mut KVVec<ExclusivePage>,
    ) -> bool {
        let Some(mut copy) = self.fresh(|| spare.pop()) else {
            return false;
        };
        copy.copy_from(page);
        self.counters.nr_pages_held += 1;
        self.slots.store(pgoff, copy);
        true
    }

    /// Returns how many pages it takes to save the contents of `pgoffs`, beyond those of the pool.
    pub(crate) fn nr_missing_to_store(&self, pgoffs: &[usize]) -> usize {
        let is_present = |pgoff: &&usize| self.slots.get(**pgoff).is_some();
        let nr_present = pgoffs.iter().filter(is_present).count();
        nr_present.saturating_sub(self.pool.len())
    }

    /// Takes back `page`, which was at `pgoff` and is flushed now: it is released, or stays, if its
    /// contents were to be saved and could not be.
    pub(crate) fn settle(&mut self, pgoff: usize, page: DriverPage, keep: bool, free: bool) {
        let keep = keep && !page.is_bad();
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

    /// As [`Pages::flush_deferred`], and frees page tables, if that is wanted. Not in a fault, where
    /// the `mmap_lock` is held.
    pub(crate) fn flush_deferred_with_tables(
        &mut self,
        store: ArcBorrow<'_, Store>,
        why: Why,
    ) -> Report {
        self.deferred.take().map_or(Report::default(), |deferred| {
            deferred.flush_with_tables(self, store, why)
        })
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
            Ok(page) => self.keep(page, free),
            // Someone holds a reference, for example for direct I/O, and may go on reading and
            // writing. The page is freed when the last one lets go (H7).
            Err(_page) => self.counters.nr_shared += 1,
        }
    }

    fn keep(&mut self, mut page: ExclusivePage, free: bool) {
        if free && !self.is_broken {
            page.poison();
            self.counters.nr_freed += 1;
            return;
        }
        match self.pool.keep(page) {
            Ok(()) => {
                self.counters.nr_recycled += 1;
                self.counters.nr_pages_held += 1;
            }
            Err(refused) if self.is_broken => core::mem::forget(refused),
            Err(_) => self.counters.nr_freed += 1,
        }
    }

    /// Leaks the pages of the pool, if they must not be freed.
    pub(crate) fn leak_broken(&mut self) {
        if self.is_broken {
            self.pool.drain().for_each(core::mem::forget);
        }
    }

    /// Takes a zeroed page: from the pool, if there is one that has not gone bad, or `otherwise`.
    fn fresh(
        &mut self,
        otherwise: impl FnOnce() -> Option<ExclusivePage>,
    ) -> Option<ExclusivePage> {
        let mut found = Findings::default();
        let page = self.pool.take(&mut found);
        self.counters.nr_pages_held -= u64::from(page.is_some()) + found.nr_bad as u64;
        self.counters.nr_shared += found.nr_bad as u64;
        self.counters.nr_stale_writes += found.nr_written as u64;
        page.or_else(otherwise)
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
        let nr = self.pool.shrink(nr);
        self.counters.nr_pages_held -= nr as u64;
        self.counters.nr_reclaimed += nr as u64;
        nr
    }

    /// Looks for pages of the pool that someone wrote to.
    pub(crate) fn check_pool(&mut self) {
        self.counters.nr_stale_writes += self.pool.check().nr_written as u64;
    }
}

impl Pooled for ExclusivePage {
    fn is_bad(&self) -> bool {
        self.is_bad()
    }

    fn poison(&mut self) {
        self.fill(POISON);
    }

    fn is_poisoned(&self) -> bool {
        self.is_filled_with(POISON)
    }

    fn zero(&mut self) {
        self.zero();
    }
}
