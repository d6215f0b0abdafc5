// SPDX-License-Identifier: GPL-2.0

//! A batch of the device: pages whose flush is owed, and what is to become of them.

#[cfg(CONFIG_RUST_TLB_FAULTS)]
use crate::broken_tables::BrokenTables;
use crate::{
    abi::Unmap,
    pages::Pages,
    request::{
        UnmapRequest,
        WriteBack, //
    },
    scope::OpenScope,
    statistics::STATISTICS,
    store::Store,
    strategy, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::tlb::{
        self,
        owed::{
            OwedCount,
            Owing, //
        },
        Batch,
        DriverPage,
        ExclusivePage,
        Flushed,
        Report,
        Why, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    task::Pid,
    time::{
        Instant,
        Monotonic, //
    }, //
};

pub(crate) type BatchOfPages = Batch<DriverPage, tlb::AnyPolicy>;
type FlushedPages = Flushed<DriverPage, tlb::AnyPolicy>;

/// Pages that a batch may have held to be kept for the next time, empty.
const MAX_KEPT_PAGES: usize = 128;

/// A batch, and what is to become of its pages.
pub(crate) struct Deferred {
    pub(crate) batch: BatchOfPages,
    strategy: u32,
    /// Whose flush it waits for, if it is not its own.
    scope: Option<Arc<OpenScope>>,
    free: bool,
    write_back: WriteBack,
    /// When it was deferred, if it was.
    since: Option<Instant<Monotonic>>,
    /// Who unmapped its first page.
    owner: Pid,
    /// Until its pages are flushed, and settled.
    _owing: Owing<Arc<OwedCount>>,
    /// Rules that are broken when its tables are taken out.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    broken: BrokenTables,
}

impl Deferred {
    /// Makes a batch for `nr_pages` pages, in `scope` or on its own.
    pub(crate) fn new(
        pages: &mut Pages,
        scope: Option<Arc<OpenScope>>,
        request: &UnmapRequest,
        nr_pages: usize,
    ) -> Result<Self> {
        Ok(Self {
            batch: Self::batch(pages, scope.as_deref(), request.strategy, nr_pages)?,
            strategy: request.strategy,
            scope,
            free: request.free,
            write_back: request.write_back,
            since: None,
            owner: current!().pid(),
            _owing: Owing::new(pages.owed.clone()),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            broken: request.broken_tables,
        })
    }

    /// The one that was used last, or a new one.
    fn batch(
        pages: &mut Pages,
        scope: Option<&OpenScope>,
        strategy: u32,
        nr_pages: usize,
    ) -> Result<BatchOfPages> {
        let used = pages.used.get_mut(strategy as usize);
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

    /// Its flush is left to later.
    pub(crate) fn defer(mut self) -> Self {
        self.since.get_or_insert_with(Instant::now);
        self
    }

    /// Tells those who watch that the current task waits for the flush of page `pgoff`.
    pub(crate) fn note_hit(&self, pgoff: usize) {
        tlb::trace::pending_hit(pgoff, self.owner);
    }

    /// Returns whether the pages of `request` can join this batch.
    pub(crate) fn suits(&self, request: &UnmapRequest, scope: Option<&Arc<OpenScope>>) -> bool {
        self.strategy == request.strategy
            && self.free == request.free
            && self.write_back == request.write_back
            && match (&self.scope, scope) {
                (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                (ours, theirs) => ours.is_none() && theirs.is_none(),
            }
    }

    pub(crate) fn nr_pages(&self) -> usize {
        self.batch.nr_pages()
    }

    /// Returns whether its scope has flushed all that it owes.
    pub(crate) fn is_flushed(&self) -> bool {
        self.scope.is_some() && self.batch.owed().nr_mms == 0
    }

    /// Flushes, and releases the pages to `pages`, which no longer has this batch.
    pub(crate) fn flush(self, pages: &mut Pages, why: Why) -> Report {
        self.flush_up_to(pages, why, usize::MAX, |batch, _| batch.flush_because(why))
    }

    /// As [`Deferred::flush`], for a batch whose pages from number `nr_released` on may still be
    /// mapped: those stay where they were.
    pub(crate) fn put_back(self, pages: &mut Pages, nr_released: usize) {
        self.flush_up_to(pages, Why::End, nr_released, |batch, _| batch.flush());
    }

    /// As [`Deferred::flush`], and frees the page tables that its pages have left empty, if the open
    /// file is set up so. A table that shows a chunk with a page that can be mapped is not looked at.
    pub(crate) fn flush_with_tables(
        self,
        pages: &mut Pages,
        store: ArcBorrow<'_, Store>,
        why: Why,
    ) -> Report {
        if !pages.setup.free_tables {
            return self.flush(pages, why);
        }
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        let broken = self.broken;
        self.flush_up_to(pages, why, usize::MAX, |batch, pages| {
            let is_unused = |first, last| !pages.slots.is_used(first, last);
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            let taken = broken.take_tables(batch, store, is_unused);
            #[cfg(not(CONFIG_RUST_TLB_FAULTS))]
            let taken = batch.take_tables(&store.mapping().over(store), is_unused);
            let counts = taken.counts();
            pages.counters.nr_tables_freed += counts.nr_taken as u64;
            pages.counters.nr_tables_used += counts.nr_used as u64;
            pages.counters.nr_tables_busy += counts.nr_busy as u64;
            taken.flush(why)
        })
    }

    fn flush_up_to(
        self,
        pages: &mut Pages,
        why: Why,
        nr_released: usize,
        flush: impl FnOnce(BatchOfPages, &mut Pages) -> FlushedPages,
    ) -> Report {
        let mut flushed = flush(self.batch, pages);
        let report = flushed.report();
        STATISTICS.batch(flushed.nr_pages(), report.nr_mms, why);
        if let Some(since) = self.since {
            STATISTICS.deferral(since.elapsed());
        }
        let is_small = flushed.nr_pages() <= MAX_KEPT_PAGES;
        let keep = self.write_back != WriteBack::No;
        for (nr, (pgoff, page)) in flushed.drain().enumerate() {
            match nr < nr_released {
                true => pages.settle(pgoff, page, keep, self.free),
                false => pages.slots.put_back(pgoff, page),
            }
        }
        if let Some(used) = pages.used.get_mut(self.strategy as usize) {
            if is_small && self.scope.is_none() {
                *used = Some(flushed.into_empty());
            }
        }
        pages.counters.nr_batches += 1;
        pages.counters.nr_flush_calls += report.nr_calls as u64;
        report
    }

    /// Releases the pages to `pages`, and flushes some other time: the negative control.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) fn release_unflushed(&mut self, pages: &mut Pages) {
        for (pgoff, page) in self.batch.drain_unflushed() {
            pages.settle(pgoff, page, false, self.free);
        }
    }

    /// Saves the contents of the pages that are new in this batch, after a flush if one of them can
    /// still be written to (H14). What cannot be saved, for want of memory, is kept.
    pub(crate) fn write_back(
        &mut self,
        pages: &mut Pages,
        nr_before: usize,
        mut spare: KVVec<ExclusivePage>,
        out: &mut Unmap,
    ) {
        let settled = match self.write_back {
            WriteBack::No => return,
            WriteBack::Yes => self.batch.flush_dirty(),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            WriteBack::Broken => self.batch.flush_dirty_left_out(),
        };
        let nr_calls = settled.report().nr_calls as u64;
        if nr_calls > 0 {
            STATISTICS.why(Why::Dirty);
        }
        out.nr_flush_calls += nr_calls;
        pages.counters.nr_flush_calls += nr_calls;
        for (pgoff, page) in settled.pages().skip(nr_before) {
            let stored = page.is_some_and(|page| pages.store(pgoff, &page, &mut spare));
            out.nr_written_back += u64::from(stored);
        }
    }
}
