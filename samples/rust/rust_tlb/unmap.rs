// SPDX-License-Identifier: GPL-2.0

//! The strategies: ways to take pages out of the page tables, and to flush.

use crate::{
    abi::{
        strategy,
        Unmap, //
    },
    device::Device,
    pages::{
        Pages,
        Slot, //
    },
    request::{
        UnmapRequest,
        WriteBack, //
    }, //
};
use kernel::{
    alloc::flags::GFP_KERNEL,
    mm::{
        rmap::AddressSpace,
        tlb::{
            self,
            Batch,
            Report, //
        }, //
    },
    page::Page,
    prelude::*,
    sync::ArcBorrow, //
};

/// The flush policy behind a strategy; [`None`] for those that leave it to the core.
pub(crate) fn policy(strategy: u32) -> Option<tlb::Chosen> {
    match strategy {
        strategy::PAGE => Some(tlb::Chosen::PerPage(tlb::PerPage::new())),
        strategy::BROADCAST => Some(tlb::Chosen::Broadcast(tlb::Broadcast::new())),
        strategy::PRECISE => Some(tlb::Chosen::Precise(tlb::Precise::new())),
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        strategy::NONE => Some(tlb::Chosen::Unflushed(tlb::Unflushed::new())),
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        strategy::UNNOTED => Some(tlb::Chosen::Unnoted(tlb::Unnoted::new())),
        _ => None,
    }
}

/// A batch, and what is to become of its pages.
pub(crate) struct Deferred {
    batch: Batch<Page, tlb::Chosen>,
    strategy: u32,
    free: bool,
    write_back: WriteBack,
}

impl Deferred {
    fn new(policy: tlb::Chosen, request: &UnmapRequest, nr_pages: usize) -> Result<Self> {
        Ok(Self {
            batch: Batch::new(policy, nr_pages, GFP_KERNEL)?,
            strategy: request.strategy,
            free: request.free,
            write_back: request.write_back,
        })
    }

    /// Returns whether the pages of `request` can join this batch.
    fn suits(&self, request: &UnmapRequest) -> bool {
        self.strategy == request.strategy
            && self.free == request.free
            && self.write_back == request.write_back
    }

    pub(crate) fn nr_pages(&self) -> usize {
        self.batch.nr_pages()
    }

    /// Flushes, and releases the pages to `pages`, which no longer has this batch.
    pub(crate) fn flush(self, pages: &mut Pages) -> Report {
        let mut flushed = self.batch.flush();
        let report = flushed.report();
        let keep = self.write_back != WriteBack::No;
        for (pgoff, page) in flushed.drain() {
            pages.settle(pgoff, page, keep, self.free);
        }
        pages.counters.nr_batches += 1;
        pages.counters.nr_flush_calls += report.nr_calls as u64;
        report
    }
}

impl Deferred {
    /// Saves the contents of the pages that are new in this batch, after a flush if one of them can
    /// still be written to (H14). What cannot be saved, for want of memory, is kept.
    fn write_back(&mut self, pages: &mut Pages, nr_before: usize, out: &mut Unmap) {
        let settled = match self.write_back {
            WriteBack::No => return,
            WriteBack::Yes => self.batch.flush_dirty(),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            WriteBack::Broken => self.batch.flush_dirty_left_out(),
        };
        let nr_calls = settled.report().nr_calls as u64;
        out.nr_flush_calls += nr_calls;
        pages.counters.nr_flush_calls += nr_calls;
        for (pgoff, page) in settled.pages().skip(nr_before) {
            let stored = page.is_some_and(|page| pages.store(pgoff, &page).is_ok());
            out.nr_written_back += u64::from(stored);
        }
    }
}

/// What an unmap works on.
pub(crate) struct Target<'a> {
    pub(crate) device: ArcBorrow<'a, Device>,
    pub(crate) mapping: &'a AddressSpace,
    /// Page offsets, in ascending order.
    pub(crate) pgoffs: &'a [usize],
}

impl Target<'_> {
    /// Unmaps, and writes what was done into `out`.
    pub(crate) fn unmap(&self, request: &UnmapRequest, out: &mut Unmap) -> Result {
        let mut pages = self.device.lock();
        match request.strategy {
            strategy::ZAP => self.unmap_by_core(&mut pages, request, out, Self::zap),
            strategy::UNMAP_MAPPING => {
                self.unmap_by_core(&mut pages, request, out, Self::unmap_mapping)
            }
            _ => self.unmap_by_batch(&mut pages, request, out),
        }?;
        pages.counters.nr_unmapped += out.nr_pages;
        pages.counters.nr_ptes += out.nr_ptes;
        Ok(())
    }

    /// Ours: everything into one batch, one walk over all processes, then the flush.
    fn unmap_by_batch(&self, pages: &mut Pages, request: &UnmapRequest, out: &mut Unmap) -> Result {
        let mut work = self.open_batch(pages, request, out)?;
        let nr_before = work.nr_pages();
        let mut staging = work.batch.stage();
        for &pgoff in self.pgoffs {
            let Some(page) = pages.take(pgoff, Slot::Pending) else {
                continue;
            };
            if let Err(tlb::Full(page)) = staging.push(pgoff, page) {
                pages.set(pgoff, Slot::Present(page));
            }
        }
        out.nr_ptes = staging.unmap(self.mapping, self.device) as u64;
        out.nr_pages = (work.nr_pages() - nr_before) as u64;
        out.nr_mms = work.batch.owed().nr_mms as u64;
        work.write_back(pages, nr_before, out);
        if request.defer {
            pages.deferred = Some(work);
        } else {
            out.nr_flush_calls += work.flush(pages).nr_calls as u64;
        }
        Ok(())
    }

    /// The deferred batch, if the pages can join it and there is room, or a new one.
    fn open_batch(
        &self,
        pages: &mut Pages,
        request: &UnmapRequest,
        out: &mut Unmap,
    ) -> Result<Deferred> {
        let nr_new = self.pgoffs.len();
        let max_pending = self.device.limits().max_pending as usize;
        if request.defer && nr_new > max_pending {
            return Err(E2BIG);
        }
        let joins = |d: &Deferred| d.suits(request) && d.nr_pages() + nr_new <= max_pending;
        if !pages.deferred.as_ref().is_some_and(joins) {
            out.nr_flush_calls += pages.flush_deferred().nr_calls as u64;
        }
        if let Some(deferred) = pages.deferred.as_mut() {
            deferred.batch.reserve(nr_new, GFP_KERNEL)?;
        }
        match pages.deferred.take() {
            Some(deferred) => Ok(deferred),
            None => Deferred::new(policy(request.strategy).ok_or(EINVAL)?, request, nr_new),
        }
    }

    /// The peers: the core clears and flushes as it goes, and holds the pages until it has flushed.
    fn unmap_by_core(
        &self,
        pages: &mut Pages,
        request: &UnmapRequest,
        out: &mut Unmap,
        unmap: impl FnOnce(&Self, &[usize]) -> usize,
    ) -> Result {
        let mut taken = KVVec::with_capacity(self.pgoffs.len(), GFP_KERNEL)?;
        let mut pgoffs = KVVec::with_capacity(self.pgoffs.len(), GFP_KERNEL)?;
        out.nr_flush_calls = pages.flush_deferred().nr_calls as u64;
        for &pgoff in self.pgoffs {
            if let Some(page) = pages.take(pgoff, Slot::Empty) {
                taken.push(page, GFP_KERNEL)?;
                pgoffs.push(pgoff, GFP_KERNEL)?;
            }
        }
        let nr_calls = unmap(self, &pgoffs) as u64;
        out.nr_pages = taken.len() as u64;
        out.nr_flush_calls += nr_calls;
        pages.counters.nr_flush_calls += nr_calls;
        for page in taken.drain_all() {
            pages.release(page, request.free);
        }
        Ok(())
    }

    /// `zap_vma_range()` a page and VMA.
    fn zap(&self, pgoffs: &[usize]) -> usize {
        let (Some(&first), Some(&last)) = (pgoffs.first(), pgoffs.last()) else {
            return 0;
        };
        let mut nr_calls = 0;
        let rmap = self.mapping.lock();
        for vma in rmap.vmas(self.device, first, last) {
            for &pgoff in pgoffs {
                nr_calls += usize::from(vma.zap(pgoff, pgoff));
            }
        }
        nr_calls
    }

    /// `unmap_mapping_pages()` a contiguous run.
    fn unmap_mapping(&self, pgoffs: &[usize]) -> usize {
        let mut nr_calls = 0;
        for run in pgoffs.chunk_by(|a, b| a + 1 == *b) {
            self.mapping.unmap_mapping_pages(run[0], run.len());
            nr_calls += 1;
        }
        nr_calls
    }
}
