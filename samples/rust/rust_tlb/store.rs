// SPDX-License-Identifier: GPL-2.0

//! What an open file and its mappings share, and who comes for its pages: faults, the deadline of a
//! deferred flush, memory pressure. Rule H7 is one of `Documentation/mm/tlb_batch.rst`.

use crate::{
    later,
    request::{
        Limits,
        Setup, //
    },
    state::{
        Populated,
        Room,
        Spare,
        State,
        SPARE_PAGES, //
    },
    statistics::STATISTICS, //
};
use core::ops::{
    Deref,
    DerefMut, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::{
        deadline::Overdue,
        rmap::{
            AddressSpace,
            RmapGuard, //
        },
        shrinker::{
            Payer,
            Wanted, //
        },
        tlb::{
            DriverPage,
            ExclusivePage,
            Why, //
        },
        vm_ops::{
            FaultError,
            VmFault,
            VmOperations, //
        }, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

/// What an open file and its mappings share.
///
/// Lock order: `mmap_lock` (a fault) → `state` → `i_mmap_rwsem` → page-table lock. User memory is
/// read and written outside of `state`: it may be a mapping of this very device. Pages are
/// allocated outside of it, too: whoever waits for one is to keep nobody from the others. What is
/// allocated under it is batches, scopes and the page of a ring, so memory pressure only tries to
/// lock it.
#[pin_data(PinnedDrop)]
pub(crate) struct Store {
    limits: Limits,
    mapping: ARef<AddressSpace>,
    /// Who opened the file, and pays for its pages, whoever touches them.
    payer: Payer,
    /// To be told whenever there is something again that memory pressure could take.
    tell: fn(&Payer),
    #[pin]
    state: Mutex<State>,
    /// What memory pressure could take, as of the last time that `state` was unlocked.
    nr_reclaimable: Atomic<usize>,
    /// Page tables are to be freed later, as of then.
    is_marked: Atomic<bool>,
}

/// The sum over all open files.
pub(crate) static NR_RECLAIMABLE: Atomic<usize> = Atomic::new(0);

#[pinned_drop]
impl PinnedDrop for Store {
    fn drop(self: Pin<&mut Self>) {
        NR_RECLAIMABLE.fetch_sub(self.nr_reclaimable(), Relaxed);
    }
}

/// The state of an open file, locked.
pub(crate) struct LockedState<'a> {
    store: &'a Store,
    state: Guard<'a, State, MutexBackend>,
}

impl Deref for LockedState<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for LockedState<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for LockedState<'_> {
    fn drop(&mut self) {
        self.store.tell_reclaimable(self.state.nr_reclaimable());
        self.store
            .is_marked
            .store(self.state.marks.nr() > 0, Relaxed);
    }
}

impl Store {
    pub(crate) fn new(
        limits: Limits,
        mapping: ARef<AddressSpace>,
        tell: fn(&Payer),
    ) -> Result<Arc<Self>> {
        let state = State::new(&limits)?;
        Arc::pin_init(
            pin_init!(Self {
                limits,
                mapping,
                payer: Payer::current(),
                tell,
                state <- new_mutex!(state),
                nr_reclaimable: Atomic::new(0),
                is_marked: Atomic::new(false),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn mapping(&self) -> &AddressSpace {
        &self.mapping
    }

    pub(crate) fn lock(&self) -> LockedState<'_> {
        LockedState {
            store: self,
            state: self.state.lock(),
        }
    }

    fn try_lock(&self) -> Option<LockedState<'_>> {
        let state = self.state.try_lock()?;
        Some(LockedState { store: self, state })
    }

    /// Locks the state, with a page at `pgoff`, unless that is behind the device; returns also whether
    /// there was none.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: there is no memory for it.
    pub(crate) fn lock_populated(&self, pgoff: usize) -> Result<(LockedState<'_>, bool)> {
        let mut spare = Spare::default();
        loop {
            let mut state = self.lock();
            let setup = state.setup;
            match state.populate(pgoff, &mut spare) {
                Populated::Already => return Ok((state, false)),
                Populated::Now => return Ok((state, true)),
                Populated::NeedsPage => {
                    drop(state);
                    spare.page = Some(self.alloc_page(&setup)?);
                }
                Populated::NeedsRoom(nr) => {
                    drop(state);
                    spare.room = Some(self.alloc_room(nr)?);
                }
            }
        }
    }

    /// Allocates as many pages as a page table maps, one behind the other in memory, at the expense
    /// of who opened the file.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: there are none.
    pub(crate) fn alloc_block(&self) -> Result<KVec<ExclusivePage>> {
        self.payer
            .charge(|| ExclusivePage::alloc_huge(GFP_KERNEL_ACCOUNT))
    }

    /// Allocates memory for the slots of `nr` pages, at the expense of who opened the file.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: there is none.
    pub(crate) fn alloc_room(&self, nr: usize) -> Result<Room> {
        self.payer.charge(|| Ok(Room::new(nr, GFP_KERNEL_ACCOUNT)?))
    }

    /// Allocates a page, a folio or a bundle, as `setup` says, at the expense of who opened the file.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: there is none.
    pub(crate) fn alloc_page(&self, setup: &Setup) -> Result<ExclusivePage> {
        let order = setup.folio_order;
        self.payer.charge(|| match setup.bundles {
            true => ExclusivePage::alloc_bundle(order, GFP_KERNEL_ACCOUNT),
            false => ExclusivePage::alloc_folio(order, GFP_KERNEL_ACCOUNT),
        })
    }

    /// Returns how many pages memory pressure could take, if it is after them.
    pub(crate) fn nr_wanted(&self, wanted: &Wanted<'_>) -> usize {
        match self.nr_reclaimable() {
            0 => 0,
            nr if wanted.is_of(&self.payer) => nr,
            _ => 0,
        }
    }

    /// Returns how many pages memory pressure could take.
    fn nr_reclaimable(&self) -> usize {
        self.nr_reclaimable.load(Relaxed)
    }

    /// Returns whether page tables are to be freed later.
    pub(crate) fn is_marked(&self) -> bool {
        self.is_marked.load(Relaxed)
    }

    /// Called with `state` locked.
    fn tell_reclaimable(&self, nr: usize) {
        let before = self.nr_reclaimable();
        if nr != before {
            self.nr_reclaimable.store(nr, Relaxed);
            NR_RECLAIMABLE.fetch_add(nr.wrapping_sub(before), Relaxed);
        }
        if before == 0 && nr > 0 {
            (self.tell)(&self.payer);
        }
    }

    /// Unmaps up to `nr` slots' pages, [`SPARE_PAGES`] at most, that `next` finds at `scanned_to` or
    /// behind and takes out, flushes, and frees them. Allocates nothing. Returns how many there
    /// were.
    fn evict(
        this: ArcBorrow<'_, Self>,
        rmap: RmapGuard<'_>,
        state: &mut State,
        nr: usize,
        mut next: impl FnMut(&mut State, usize) -> Option<(usize, DriverPage)>,
    ) -> usize {
        let Some(mut batch) = state.spare.take() else {
            return 0;
        };
        let mut staging = batch.stage();
        for _ in 0..nr.min(SPARE_PAGES) {
            let Some((pgoff, page)) = next(state, state.scanned_to) else {
                // From the start, next time.
                state.scanned_to = 0;
                break;
            };
            state.scanned_to = pgoff + state.slots.nr_per_slot();
            if staging.push(pgoff, page).is_err() {
                break;
            }
        }
        staging.unmap(&rmap.over(this));
        drop(rmap);
        let mut flushed = batch.flush_because(Why::Pressure);
        let report = flushed.report();
        let nr_per_slot = state.slots.nr_per_slot();
        let nr_evicted = flushed.nr_entries() * nr_per_slot;
        if nr_evicted > 0 {
            STATISTICS.batch(nr_evicted, report.nr_mms, Why::Pressure);
        }
        state.mark_for_later(flushed.iter().map(|(pgoff, _)| pgoff));
        for (_, page) in flushed.drain() {
            // Someone holds a reference: it is freed when the last one lets go (H7).
            let is_shared = page.into_exclusive().is_err();
            state.counters.nr_shared += if is_shared { nr_per_slot as u64 } else { 0 };
        }
        state.spare = Some(flushed.into_empty());
        state.counters.nr_flush_calls += report.nr_calls as u64;
        state.counters.nr_pages_held -= nr_evicted as u64;
        nr_evicted
    }

    /// What memory pressure does: first what nobody maps, then idle pages, one batch, and so one
    /// round, per call. A deferred batch is flushed and settled as a whole: up to `max_pending` pages,
    /// whatever `nr` is, but each of them once. Returns how many pages were freed, or [`None`] if a
    /// lock is taken.
    pub(crate) fn shrink(this: ArcBorrow<'_, Self>, nr: usize) -> Option<usize> {
        let mut state = this.try_lock()?;
        let nr_freed_before = state.counters.nr_freed;
        if state.deferred.is_some() {
            state.counters.nr_flushed_pressure += 1;
            state.flush_deferred(Why::Pressure);
        }
        let nr_settled = (state.counters.nr_freed - nr_freed_before) as usize;
        let nr_tables = match (state.marks.nr() > 0).then(|| this.mapping().try_lock()) {
            Some(Some(rmap)) => later::free_some(&mut state, &rmap.over(this)),
            _ => 0,
        };
        let nr_freed = nr_settled + nr_tables;
        let nr_freed = nr_freed + state.shrink_pool(nr.saturating_sub(nr_freed));
        let nr_left = nr.saturating_sub(nr_freed);
        let nr_slots_left = nr_left.div_ceil(state.slots.nr_per_slot());
        if nr_left == 0 || state.slots.nr_idle() == 0 {
            return Some(nr_freed);
        }
        let mut nr_evicted = 0;
        // The second time from the start.
        for _ in 0..2 {
            if let (0, Some(rmap)) = (nr_evicted, this.mapping.try_lock()) {
                nr_evicted = Self::evict(this, rmap, &mut state, nr_slots_left, |state, from| {
                    state.slots.take_idle(from)
                });
            }
        }
        state.counters.nr_scans += u64::from(nr_evicted > 0);
        state.counters.nr_reclaimed += nr_evicted as u64;
        Some(nr_freed + nr_evicted)
    }

    /// Takes all pages out of mappings that are gone: what was mapped by its frame number is freed
    /// only with this proof.
    pub(crate) fn clear(this: ArcBorrow<'_, Self>) {
        let mut state = this.lock();
        state.flush_deferred(Why::Dropped);
        state.leak_broken();
        if !state.setup.pfnmap {
            return;
        }
        state.scanned_to = 0;
        let mut evict = || {
            let rmap = this.mapping.lock();
            Self::evict(this, rmap, &mut state, SPARE_PAGES, |state, from| {
                state.slots.take_any(from)
            })
        };
        while evict() > 0 {}
    }
}

#[vtable]
impl VmOperations for Store {
    type Data = Store;

    fn fault(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        let (mut state, _) = match store.lock_populated(vmf.pgoff()) {
            Ok(locked) => locked,
            // For a large folio nobody is killed, and no page of it is to be had otherwise: to try again
            // would be to try for ever.
            Err(_) if store.lock().setup.is_costly() => {
                return Err(FaultError::Sigbus);
            }
            Err(_) => return Err(FaultError::Oom),
        };
        state.counters.nr_faults += 1;
        let pfnmap = state.setup.pfnmap;
        let first = state.slots.first_of(vmf.pgoff());
        match state.get(first) {
            Some(page) if pfnmap => vmf.insert_pfn(page, first),
            Some(page) => vmf.insert_folio(page, first),
            None => Err(FaultError::Sigbus),
        }
    }

    fn mremap(store: ArcBorrow<'_, Store>, nr_pages: usize) -> Result {
        let mut state = store.lock();
        state.counters.nr_moves += 1;
        state.counters.nr_moved_pages += nr_pages as u64;
        Ok(())
    }
}

/// As [`Store`], for mappings whose writes it wants to know of.
pub(crate) struct Notified;

#[vtable]
impl VmOperations for Notified {
    type Data = Store;

    // A write to a page that is not mapped yet is noticed here: the PTE is dirty at once. Mapped by
    // its frame number it is clean, and `pfn_mkwrite` follows.
    fn fault(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        <Store as VmOperations>::fault(store, vmf)?;
        let mut state = store.lock();
        state.counters.nr_mkwrites += u64::from(vmf.is_write() && !state.setup.pfnmap);
        Ok(())
    }

    fn mremap(store: ArcBorrow<'_, Store>, nr_pages: usize) -> Result {
        <Store as VmOperations>::mremap(store, nr_pages)
    }

    // Waits for an unmap in both its phases: what it finds afterwards is a PTE that has changed,
    // and the write faults anew.
    fn page_mkwrite(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        store.lock().mkwrite(vmf.pgoff());
        Ok(())
    }

    fn pfn_mkwrite(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        store.lock().mkwrite(vmf.pgoff());
        Ok(())
    }
}

impl Overdue for Store {
    type Data = Self;

    fn overdue(store: ArcBorrow<'_, Self>) {
        let mut state = store.lock();
        // By another member of its scope, which grew as old.
        state.reap();
        if state.deferred.is_some() {
            state.counters.nr_flushed_old += 1;
            let mappings = store.mapping().over(store);
            state.flush_deferred_with_tables(&mappings, Why::Old);
        }
        drop(state);
        if store.is_marked() {
            <Later as Overdue>::overdue(store);
        }
    }
}

/// Frees page tables that were not freed with the flush of an unmap.
pub(crate) struct Later;

impl Overdue for Later {
    type Data = Store;

    fn overdue(store: ArcBorrow<'_, Store>) {
        later::free_all(|| store.lock(), &store.mapping().over(store));
    }
}
