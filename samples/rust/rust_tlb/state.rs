// SPDX-License-Identifier: GPL-2.0

//! The state of one open file: which page is where, what may be done with it, and what becomes of those
//! whose flush is made.
//!
//! All of it is protected by a mutex. A fault looks its page up under that mutex, and so
//! do all who take pages away: no page is mapped again while it is on its way into a batch. Rules H7
//! and H14 are those of `Documentation/mm/tlb_batch.rst`.

use crate::{
    abi::{
        self,
        Counters,
        Unmap,
        POISON, //
    },
    deferred::Deferred,
    marks::Marks,
    membership::{
        Membership,
        OpenScope, //
    },
    pool::{
        Findings,
        Pool,
        Pooled, //
    },
    request::{
        EmptyTables,
        Limits,
        Setup,
        UnmapRequest,
        WriteBack, //
    },
    slots::{
        Found,
        SlotRoom,
        Slots, //
    },
    statistics::STATISTICS,
    strategy::{
        self,
        BatchOfPages, //
    }, //
};
#[cfg(CONFIG_RUST_TLB_FAULTS)]
use core::iter;
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::tlb::{
        self,
        owed::OwedCount,
        tables::Counts,
        Batch,
        DriverPage,
        ExclusivePage,
        FileMappings,
        Flushed,
        Report,
        Unwritable,
        Why, //
    },
    prelude::*,
    sync::Arc, //
};

type FlushedPages = Flushed<DriverPage, tlb::AnyPolicy>;

/// Pages that a batch may have held to be kept for the next time, empty.
const MAX_KEPT_PAGES: usize = 128;

/// The state of one open file.
///
/// # Invariants
///
/// A slot is pending if and only if its page is in a batch: outside of an unmap, in `deferred`.
pub(crate) struct State {
    pub(crate) slots: Slots<DriverPage, ExclusivePage>,
    pool: Pool<ExclusivePage>,
    pub(crate) deferred: Option<Deferred>,
    /// Where page tables may be empty.
    pub(crate) marks: Marks,
    /// Flushes that are left to later, for the mappings of this file: others are made before this is
    /// unlocked.
    pub(crate) owed: Arc<OwedCount>,
    /// For each strategy the batch that was flushed last, empty.
    pub(crate) used: [Option<BatchOfPages>; abi::strategy::NR as usize],
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

/// What a page may need that is not there yet, allocated with the state unlocked.
#[derive(Default)]
pub(crate) struct Spare {
    pub(crate) page: Option<ExclusivePage>,
    pub(crate) room: Option<Room>,
}

/// What came of [`State::populate`].
pub(crate) enum Populated {
    /// There was a page, or there can be none.
    Already,
    /// There is one now.
    Now,
    /// None is left: one has to be allocated, with the state unlocked.
    NeedsPage,
    /// There is no room: memory for that many slots has to be allocated, with the state unlocked.
    NeedsRoom(usize),
}

/// Most pages that are kept for the next fault.
const MAX_POOL_PAGES: usize = 1 << 20;

/// Pages that memory pressure takes at a time: what the kernel's shrinkers scan at a time.
pub(crate) const SPARE_PAGES: usize = 128;

impl State {
    /// Makes empty slots, in place: it is too much for the stack.
    pub(crate) fn new(limits: &Limits) -> Result<impl Init<Self>> {
        let (nr_pages, setup) = (limits.nr_pages as usize, limits.setup);
        let mut slots = Slots::new(nr_pages, GFP_KERNEL_ACCOUNT)?;
        slots.set_order(setup.folio_order);
        let pool = Pool::new(nr_pages.min(MAX_POOL_PAGES), GFP_KERNEL_ACCOUNT)?;
        let marks = Marks::new(nr_pages, GFP_KERNEL_ACCOUNT)?;
        let owed = Arc::new(OwedCount::new(), GFP_KERNEL_ACCOUNT)?;
        let broadcast = tlb::Broadcast::new(tlb::Cpus::new(GFP_KERNEL_ACCOUNT)?);
        let spare = Batch::new(broadcast, SPARE_PAGES, GFP_KERNEL_ACCOUNT)?;
        // INVARIANT: Nothing is pending, and there is no batch.
        Ok(init!(Self {
            slots,
            pool,
            deferred: None,
            marks,
            owed,
            used: [const { None }; abi::strategy::NR as usize],
            scanned_to: 0,
            spare: Some(spare),
            membership: None,
            setup,
            is_set_up: false,
            is_broken: false,
            counters: Counters::default(),
        }))
    }

    /// Says how the file is mapped.
    ///
    /// # Errors
    ///
    /// - `EBUSY`: it is too late.
    pub(crate) fn set_up(&mut self, setup: Setup) -> Result {
        if self.is_set_up {
            return Err(EBUSY);
        }
        self.slots.set_order(setup.folio_order);
        self.setup = setup;
        Ok(())
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
            self.counters.nr_pages_held += self.nr_per_slot();
        }
        Populated::Now
    }

    /// Fills `pgoffs` with `block`, as many pages, in that order. All of them are free, and have room.
    /// The file has no folios.
    pub(crate) fn fill_block(
        &mut self,
        pgoffs: core::ops::Range<usize>,
        block: KVec<ExclusivePage>,
    ) {
        self.is_set_up = true;
        for (pgoff, page) in pgoffs.zip(block) {
            // There is nothing, and room.
            if self.slots.fill(pgoff, DriverPage::new(page)).is_ok() {
                self.counters.nr_pages_held += 1;
            }
        }
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
        self.counters.nr_pages_held += self.nr_per_slot();
        self.slots.store(pgoff, copy);
        true
    }

    /// Returns how many pages, or folios, it takes to save the contents of `pgoffs`, which are sorted,
    /// beyond those of the pool.
    pub(crate) fn nr_missing_to_store(&self, pgoffs: &[usize]) -> usize {
        let is_present = |first: &usize| self.slots.get(*first).is_some();
        let nr_present = self.slots.firsts_of(pgoffs).filter(is_present).count();
        nr_present.saturating_sub(self.pool.len())
    }

    /// Makes a batch for `nr_pages` pages, in `scope` or on its own. If it is not to be deferred, it has to
    /// be flushed before the state is unlocked.
    pub(crate) fn open_batch(
        &mut self,
        scope: Option<Arc<OpenScope>>,
        request: &UnmapRequest,
        nr_pages: usize,
        defer: bool,
    ) -> Result<Deferred> {
        let batch = self.batch(scope.as_deref(), request.strategy, nr_pages)?;
        let owed = defer.then(|| self.owed.clone());
        Ok(Deferred::new(batch, scope, request, owed))
    }

    /// The one that was used last, or a new one.
    fn batch(
        &mut self,
        scope: Option<&OpenScope>,
        strategy: u32,
        nr_pages: usize,
    ) -> Result<BatchOfPages> {
        let used = self.used.get_mut(strategy as usize);
        let policy = match (scope, used.and_then(Option::take)) {
            (Some(scope), _) => scope.policy()?,
            (None, Some(mut batch)) => {
                batch.reserve(nr_pages, GFP_KERNEL_ACCOUNT)?;
                return Ok(batch);
            }
            (None, None) => strategy::policy(strategy)?,
        };
        Ok(Batch::with_policy(policy, nr_pages, GFP_KERNEL_ACCOUNT)?)
    }

    /// Flushes a batch, and releases its pages.
    pub(crate) fn flush(&mut self, work: Deferred, why: Why) -> Report {
        self.flush_up_to(work, why, usize::MAX, |batch, _| batch.flush_because(why))
    }

    /// As [`State::flush`], for a batch whose pages from number `nr_released` on may still be mapped:
    /// those stay where they were.
    pub(crate) fn put_back(&mut self, work: Deferred, nr_released: usize) {
        self.flush_up_to(work, Why::End, nr_released, |batch, _| batch.flush());
    }

    /// As [`State::flush`], and frees the page tables that its pages have left empty, if the open file
    /// is set up so. A table that shows a chunk with a page that can be mapped is not looked at.
    #[inline]
    pub(crate) fn flush_with_tables<T: Send + Sync + 'static>(
        &mut self,
        work: Deferred,
        mappings: &FileMappings<'_, T>,
        why: Why,
    ) -> Report {
        if self.setup.empty_tables != EmptyTables::Free {
            return self.flush(work, why);
        }
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        let broken = work.broken;
        self.flush_up_to(work, why, usize::MAX, |batch, state| {
            let is_unused = |first, last| !state.slots.is_used(first, last);
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            let taken = broken.take_tables(batch, mappings, is_unused);
            #[cfg(not(CONFIG_RUST_TLB_FAULTS))]
            let taken = batch.take_tables(mappings, is_unused);
            state.count_tables(taken.counts());
            taken.flush(why)
        })
    }

    fn flush_up_to(
        &mut self,
        work: Deferred,
        why: Why,
        nr_released: usize,
        flush: impl FnOnce(BatchOfPages, &mut Self) -> FlushedPages,
    ) -> Report {
        let mut flushed = flush(work.batch, self);
        let report = flushed.report();
        let nr_pages = flushed.nr_entries() * self.slots.nr_per_slot();
        STATISTICS.batch(nr_pages, report.nr_mms, why);
        if let Some((since, _)) = work.since {
            STATISTICS.deferral(since.elapsed());
        }
        let is_small = flushed.nr_entries() <= MAX_KEPT_PAGES;
        let keep = work.write_back != WriteBack::No;
        let some_stay = keep || nr_released < flushed.nr_entries();
        let released = flushed.iter().take(nr_released);
        self.slots
            .settle(released.map(|(pgoff, page)| (pgoff, keep && !page.is_bad())));
        self.mark_for_later(flushed.iter().map(|(pgoff, _)| pgoff));
        for (pgoff, page) in flushed.drain() {
            if some_stay && self.slots.find(pgoff) == Found::Pending {
                self.slots.put_back(pgoff, page);
            } else {
                self.release(page, work.free);
            }
        }
        if let Some(used) = self.used.get_mut(work.strategy as usize) {
            if is_small && work.scope.is_none() {
                *used = Some(flushed.into_empty());
            }
        }
        self.counters.nr_batches += 1;
        self.counters.nr_flush_calls += report.nr_calls as u64;
        report
    }

    /// Releases the pages of `work`, and flushes some other time: the negative control.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) fn release_unflushed(&mut self, work: &mut Deferred) {
        for (pgoff, page) in work.batch.drain_unflushed() {
            self.slots.settle(iter::once((pgoff, false)));
            self.release(page, work.free);
        }
    }

    /// Saves the contents of the pages that are new in `work`, after a flush if one of them can still
    /// be written to (H14). What cannot be saved, for want of memory, is kept.
    pub(crate) fn write_back(
        &mut self,
        work: &mut Deferred,
        nr_before: usize,
        mut spare: KVVec<ExclusivePage>,
        out: &mut Unmap,
    ) {
        let settled = match work.write_back {
            WriteBack::No => return,
            WriteBack::Yes => work.batch.flush_dirty(),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            WriteBack::Broken => work.batch.flush_dirty_left_out(),
        };
        let nr_calls = settled.report().nr_calls as u64;
        if nr_calls > 0 {
            STATISTICS.why(Why::Dirty);
        }
        out.nr_flush_calls += nr_calls;
        self.counters.nr_flush_calls += nr_calls;
        for (pgoff, page) in settled.pages().skip(nr_before) {
            let stored = page.is_some_and(|page| self.store(pgoff, &page, &mut spare));
            out.nr_written_back += if stored { self.nr_per_slot() } else { 0 };
        }
    }

    /// Flushes the deferred batch, if there is one, and releases its pages.
    pub(crate) fn flush_deferred(&mut self, why: Why) -> Report {
        self.deferred
            .take()
            .map_or(Report::default(), |work| self.flush(work, why))
    }

    /// As [`State::flush_deferred`], and frees page tables, if that is wanted. Not in a fault, where
    /// the `mmap_lock` is held.
    pub(crate) fn flush_deferred_with_tables<T: Send + Sync + 'static>(
        &mut self,
        mappings: &FileMappings<'_, T>,
        why: Why,
    ) -> Report {
        self.deferred.take().map_or(Report::default(), |work| {
            self.flush_with_tables(work, mappings, why)
        })
    }

    /// The pages at `pgoffs` were unmapped: their page tables are to be looked at later, if that is
    /// wanted.
    pub(crate) fn mark_for_later(&mut self, pgoffs: impl Iterator<Item = usize>) {
        if self.setup.empty_tables == EmptyTables::FreeLater {
            let nr_new = pgoffs.filter(|pgoff| self.marks.set(*pgoff)).count();
            self.counters.nr_tables_later += nr_new as u64;
        }
    }

    /// Page tables were looked at.
    pub(crate) fn count_tables(&mut self, counts: Counts) {
        self.counters.nr_tables_freed += counts.nr_taken as u64;
        self.counters.nr_tables_used += counts.nr_used as u64;
        self.counters.nr_tables_busy += counts.nr_busy as u64;
    }

    /// Releases the pages of the deferred batch, if its scope has flushed them meanwhile.
    pub(crate) fn reap(&mut self) {
        if self.deferred.as_ref().is_some_and(Deferred::is_flushed) {
            self.flush_deferred(Why::Scope);
        }
    }

    /// Poisons a page that no CPU reaches any more, and keeps it for the next fault, or frees it.
    pub(crate) fn release(&mut self, page: DriverPage, free: bool) {
        self.counters.nr_pages_held -= self.nr_per_slot();
        match page.into_exclusive() {
            Ok(page) => self.keep(page, free),
            // Someone holds a reference, for example for direct I/O, and may go on reading and
            // writing. The page is freed when the last one lets go (H7).
            Err(_page) => self.counters.nr_shared += self.nr_per_slot(),
        }
    }

    /// Of the pages that are counted, how many a slot is for.
    fn nr_per_slot(&self) -> u64 {
        self.slots.nr_per_slot() as u64
    }

    /// Returns how many pages wait for the flush of the deferred batch.
    pub(crate) fn nr_pending(&self) -> usize {
        let nr_entries = self.deferred.as_ref().map_or(0, Deferred::nr_entries);
        nr_entries * self.slots.nr_per_slot()
    }

    /// Returns how many pages are idle.
    pub(crate) fn nr_idle(&self) -> usize {
        self.slots.nr_idle() * self.slots.nr_per_slot()
    }

    fn keep(&mut self, mut page: ExclusivePage, free: bool) {
        if free && !self.is_broken {
            page.poison();
            self.counters.nr_freed += self.nr_per_slot();
            return;
        }
        match self.pool.keep(page) {
            Ok(()) => {
                self.counters.nr_recycled += self.nr_per_slot();
                self.counters.nr_pages_held += self.nr_per_slot();
            }
            Err(refused) if self.is_broken => core::mem::forget(refused),
            Err(_) => self.counters.nr_freed += self.nr_per_slot(),
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
        let nr_taken = u64::from(page.is_some()) + found.nr_bad as u64;
        self.counters.nr_pages_held -= nr_taken * self.nr_per_slot();
        self.counters.nr_shared += found.nr_bad as u64 * self.nr_per_slot();
        self.counters.nr_stale_writes += found.nr_written as u64;
        page.or_else(otherwise)
    }

    /// Returns how many pages could be freed, page tables among them.
    pub(crate) fn nr_reclaimable(&self) -> usize {
        let nr_pooled = self.pool.len() * self.slots.nr_per_slot();
        nr_pooled + self.nr_idle() + self.nr_pending() + self.marks.nr()
    }

    /// Frees up to `nr` pages of the pool, and returns how many.
    pub(crate) fn shrink_pool(&mut self, nr: usize) -> usize {
        if self.is_broken {
            return 0;
        }
        let nr_per_slot = self.slots.nr_per_slot();
        let nr = self.pool.shrink(nr.div_ceil(nr_per_slot)) * nr_per_slot;
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
