// SPDX-License-Identifier: GPL-2.0

//! What an open file and its mappings share, and who comes for its pages: faults, the deadline of a
//! deferred flush, memory pressure.

use crate::{
    pages::{
        Pages,
        SPARE_PAGES, //
    },
    request::Limits,
    statistics::STATISTICS, //
};
use kernel::{
    alloc::flags::GFP_KERNEL,
    mm::{
        deadline::Overdue,
        rmap::AddressSpace,
        shrinker::Shrink,
        tlb::{
            DriverPage,
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
/// Lock order: `mmap_lock` (a fault) → `pages` → `i_mmap_rwsem` → page-table lock. User memory is
/// read and written outside of `pages`: it may be a mapping of this very device. Pages are
/// allocated under `pages`, so memory pressure only tries to lock it.
#[pin_data]
pub(crate) struct Store {
    limits: Limits,
    mapping: ARef<AddressSpace>,
    #[pin]
    pages: Mutex<Pages>,
}

impl Store {
    pub(crate) fn new(limits: Limits, mapping: &AddressSpace) -> Result<Arc<Self>> {
        let pages = Pages::new(limits.nr_pages as usize)?;
        Arc::pin_init(
            pin_init!(Self {
                limits,
                mapping: mapping.into(),
                pages <- new_mutex!(pages),
            }),
            GFP_KERNEL,
        )
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn mapping(&self) -> &AddressSpace {
        &self.mapping
    }

    pub(crate) fn lock(&self) -> Guard<'_, Pages, MutexBackend> {
        self.pages.lock()
    }

    /// Unmaps up to `nr` pages, [`SPARE_PAGES`] at most, that `next` finds at `scanned_to` or
    /// behind and takes out, flushes, and frees them. Allocates nothing. Returns how many there
    /// were.
    fn evict(
        this: ArcBorrow<'_, Self>,
        pages: &mut Pages,
        nr: usize,
        mut next: impl FnMut(&mut Pages, usize) -> Option<(usize, DriverPage)>,
    ) -> usize {
        let Some(mut batch) = pages.spare.take() else {
            return 0;
        };
        let mut staging = batch.stage();
        for _ in 0..nr.min(SPARE_PAGES) {
            let Some((pgoff, page)) = next(pages, pages.scanned_to) else {
                // From the start, next time.
                pages.scanned_to = 0;
                break;
            };
            pages.scanned_to = pgoff + 1;
            if staging.push(pgoff, page).is_err() {
                break;
            }
        }
        staging.unmap(&this.mapping.over(this));
        let mut flushed = batch.flush_because(Why::Pressure);
        let report = flushed.report();
        let nr_evicted = flushed.nr_pages();
        if nr_evicted > 0 {
            STATISTICS.batch(nr_evicted, report.nr_mms, Why::Pressure);
        }
        for (_, page) in flushed.drain() {
            // Someone holds a reference: it is freed when the last one lets go (H7).
            pages.counters.nr_shared += u64::from(page.into_exclusive().is_err());
        }
        pages.spare = Some(flushed.into_empty());
        pages.counters.nr_flush_calls += report.nr_calls as u64;
        pages.counters.nr_pages_held -= nr_evicted as u64;
        nr_evicted
    }

    /// Takes all pages out of mappings that are gone: what was mapped by its frame number is freed
    /// only with this proof.
    pub(crate) fn clear(this: ArcBorrow<'_, Self>) {
        let mut pages = this.lock();
        pages.flush_deferred(Why::Dropped);
        pages.leak_broken();
        if !pages.setup.pfnmap {
            return;
        }
        pages.scanned_to = 0;
        while Self::evict(this, &mut pages, SPARE_PAGES, |pages, from| {
            pages.slots.take_any(from)
        }) > 0
        {}
    }
}

#[vtable]
impl VmOperations for Store {
    type Data = Store;

    fn fault(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        let mut pages = store.lock();
        pages.counters.nr_faults += 1;
        let pfnmap = pages.setup.pfnmap;
        match pages.get_or_populate(vmf.pgoff()) {
            Ok(Some(page)) if pfnmap => vmf.insert_pfn(page),
            Ok(Some(page)) => vmf.insert_page(page.page()),
            Ok(None) => Err(FaultError::Sigbus),
            Err(_) => Err(FaultError::Oom),
        }
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
        let mut pages = store.lock();
        pages.counters.nr_mkwrites += u64::from(vmf.is_write() && !pages.setup.pfnmap);
        Ok(())
    }

    // Waits for an unmap in both its phases: what it finds afterwards is a PTE that has changed,
    // and the write faults anew.
    fn page_mkwrite(store: ArcBorrow<'_, Store>, _vmf: &VmFault<'_>) -> Result<(), FaultError> {
        store.lock().counters.nr_mkwrites += 1;
        Ok(())
    }

    fn pfn_mkwrite(store: ArcBorrow<'_, Store>, _vmf: &VmFault<'_>) -> Result<(), FaultError> {
        store.lock().counters.nr_mkwrites += 1;
        Ok(())
    }
}

impl Overdue for Store {
    fn overdue(store: ArcBorrow<'_, Self>) {
        let mut pages = store.lock();
        // By another member of its scope, which grew as old.
        pages.reap();
        if pages.deferred.is_some() {
            pages.counters.nr_flushed_old += 1;
            pages.flush_deferred(Why::Old);
        }
    }
}

impl Shrink for Store {
    fn count(store: ArcBorrow<'_, Self>) -> usize {
        let pages = store.pages.try_lock();
        pages.map_or(0, |pages| pages.nr_reclaimable())
    }

    /// First what nobody maps, then idle pages: one batch, and so one round, a scan.
    fn scan(store: ArcBorrow<'_, Self>, nr_to_scan: usize) -> Option<usize> {
        let mut pages = store.pages.try_lock()?;
        if pages.deferred.is_some() {
            pages.counters.nr_flushed_pressure += 1;
            pages.flush_deferred(Why::Pressure);
        }
        let nr_freed = pages.shrink_pool(nr_to_scan);
        let nr_left = nr_to_scan - nr_freed;
        if nr_left == 0 || pages.slots.nr_idle() == 0 {
            return Some(nr_freed);
        }
        let mut nr_evicted = Self::evict(store, &mut pages, nr_left, |pages, from| {
            pages.slots.take_idle(from)
        });
        if nr_evicted == 0 {
            nr_evicted = Self::evict(store, &mut pages, nr_left, |pages, from| {
                pages.slots.take_idle(from)
            });
        }
        pages.counters.nr_scans += u64::from(nr_evicted > 0);
        pages.counters.nr_reclaimed += nr_evicted as u64;
        Some(nr_freed + nr_evicted)
    }
}
