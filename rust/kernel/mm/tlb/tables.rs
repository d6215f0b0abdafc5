// SPDX-License-Identifier: GPL-2.0

//! Page tables that an unmap leaves empty: freed by the flush that the unmap needs anyway.
//!
//! # The protocol
//!
//! [`Batch::take_tables`] comes between the unmap and the flush, in the same call: a batch whose
//! flush is deferred keeps its tables until it is flushed, since a munmap or mprotect learns of
//! that flush by the table that it finds (H4). For each table that the pages of the batch were in,
//! and that may be empty:
//!
//! 1. `i_mmap_rwsem` is held for reading: the VMA stays, and so do the tables above. The
//!    `mmap_lock` is *tried*. If it is not to be had, the table stays: mremap moves PTEs into a
//!    table that it has looked up before, fork copies them out of one, and both hold that lock.
//! 2. The mm's `tlb_flush_pending` is raised: every gather of that mm ends in a full flush from
//!    here on. Whoever finds no table, and so no PTE to flush, does not return early.
//! 3. With the PMD locked, and the table, all 512 entries are read again. If all are empty, the
//!    PMD is cleared.
//! 4. The policy is told ([`Flush::record_table`]): the flush covers all that the table maps, in
//!    one round, and CPUs in lazy mode get it, too. They walk tables without being asked to.
//! 5. [`WithTables::flush`]: one flush, of the pages and the tables. Then the counter falls again,
//!    and each table is freed after an RCU grace period that begins now, since those who look it
//!    up without a lock are under RCU.
//!
//! [`Batch::take_tables_of`] does the same for tables that an earlier batch has left empty, and
//! flushes for them alone: for a driver that has no time for it when it unmaps.
//!
//! Only a VMA that covers all that a table maps loses it: else a table would be taken from under
//! VMAs that the driver knows nothing of.
//!
//! Rule H4 is one of [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst), those of
//! tables are in [`Documentation/mm/tlb_batch_tables.rst`](srctree/Documentation/mm/tlb_batch_tables.rst).
//!
//! C counterparts: `zap_pte_table_if_empty()` in [`mm/memory.c`](srctree/mm/memory.c),
//! `retract_page_tables()` in [`mm/khugepaged.c`](srctree/mm/khugepaged.c).

use super::{
    batch::{
        Batch,
        Flushed, //
    },
    mappings::{
        FileLocked,
        FileMappings, //
    },
    policy::{
        Flush,
        Why, //
    },
    range::{
        PageRange,
        Pending, //
    },
    walk::Item,
    window::{
        Window,
        PTRS_PER_PTE, //
    },
    StalePage, //
};
use crate::{
    bindings,
    mm::{
        mechanism,
        rmap::Vma,
        Mm, //
    }, //
};

/// Page tables that the pages of a batch were in, and that had to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Were empty, and are freed with the flush.
    pub nr_taken: usize,
    /// Map something still: that they may be empty was not so.
    pub nr_used: usize,
    /// Stay, because someone changes the mappings of their process right now.
    pub nr_busy: usize,
}

/// Rules of the protocol that are broken, for tests to show that they notice.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broken {
    /// The `mmap_lock` is not even tried.
    pub mmap_lock: bool,
    /// The table's entries are not read again.
    pub recheck: bool,
    /// `tlb_flush_pending` is not raised.
    pub pending: bool,
    /// CPUs in lazy mode are not asked.
    pub lazy: bool,
    /// No more than a page of what the table maps is flushed.
    pub range: bool,
}

impl Broken {
    fn for_c(self) -> u32 {
        let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        bit(self.mmap_lock, bindings::TLB_DEFER_BREAK_MMAP_LOCK)
            | bit(self.recheck, bindings::TLB_DEFER_BREAK_RECHECK)
            | bit(self.pending, bindings::TLB_DEFER_BREAK_PENDING)
    }
}

/// Page tables that were taken out, to be freed when it is dropped.
///
/// # Invariants
///
/// When it is dropped, all of them have been flushed.
struct Dead(mechanism::RawTables);

impl Drop for Dead {
    fn drop(&mut self) {
        // SAFETY: By the type invariants they are flushed.
        unsafe { mechanism::tables_free(&mut self.0) }
    }
}

/// A batch, and the page tables that go with its flush. To drop it flushes, too.
///
/// # Invariants
///
/// `batch` is declared, and so dropped, before `dead`: its policy was told of each of the tables,
/// and flushes them.
pub struct WithTables<P: StalePage, F: Flush + ?Sized> {
    batch: Batch<P, F>,
    dead: Dead,
    counts: Counts,
}

impl<P: StalePage, F: Flush + ?Sized> WithTables<P, F> {
    /// Returns what became of the tables.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Flushes pages and tables, frees the tables, and lets go of the pages.
    ///
    /// # Context
    ///
    /// As [`Batch::flush`].
    pub fn flush(self, why: Why) -> Flushed<P, F> {
        let flushed = self.batch.flush_because(why);
        // INVARIANT: The policy was told of all of them, and has flushed.
        drop(self.dead);
        flushed
    }
}

impl<P: StalePage, F: Flush<Mm = Mm> + ?Sized> Batch<P, F> {
    /// Takes those page tables out of `mappings` that the pages of this batch have
    /// left empty. They are freed with the flush, which comes next.
    ///
    /// `may_be_empty` is asked about the pages of the file that a table shows, the first and the
    /// last; for what the driver knows to be in use, nothing has to be looked at. It is a hint: a
    /// table is never taken out that maps anything.
    ///
    /// A table goes only if the VMA covers all that it maps, and if nobody changes the mappings of
    /// the process meanwhile.
    ///
    /// The pages come out of the batch sorted by their offset.
    ///
    /// # Context
    ///
    /// May sleep. Takes `i_mmap_rwsem`, tries the `mmap_lock`, takes page-table locks.
    /// `may_be_empty` is called under the first: it must not sleep for anyone who waits for that.
    pub fn take_tables<T>(
        self,
        mappings: &FileMappings<'_, T>,
        may_be_empty: impl Fn(usize, usize) -> bool,
    ) -> WithTables<P, F>
    where
        T: Send + Sync + 'static,
    {
        self.take_tables_by(mappings, may_be_empty, Broken::default())
    }

    /// As [`Batch::take_tables`], for the tables that any of the pages `pgoffs` of the file are in.
    /// They are sorted.
    ///
    /// # Context
    ///
    /// As [`Batch::take_tables`]; but if `mappings` are locked already, nothing is waited for.
    pub fn take_tables_of<T: FileLocked>(
        mut self,
        mappings: &T,
        pgoffs: &[usize],
        may_be_empty: impl Fn(usize, usize) -> bool,
    ) -> WithTables<P, F> {
        let (_, policy) = self.unmapped();
        let (dead, counts) = take(mappings, pgoffs, policy, may_be_empty, Broken::default());
        // INVARIANT: What was taken out was recorded with the policy of this batch.
        WithTables {
            batch: self,
            dead,
            counts,
        }
    }

    /// [`Batch::take_tables`], with rules broken: the negative controls.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub fn take_tables_broken<T>(
        self,
        mappings: &FileMappings<'_, T>,
        may_be_empty: impl Fn(usize, usize) -> bool,
        broken: Broken,
    ) -> WithTables<P, F>
    where
        T: Send + Sync + 'static,
    {
        self.take_tables_by(mappings, may_be_empty, broken)
    }

    fn take_tables_by<T>(
        mut self,
        mappings: &FileMappings<'_, T>,
        may_be_empty: impl Fn(usize, usize) -> bool,
        broken: Broken,
    ) -> WithTables<P, F>
    where
        T: Send + Sync + 'static,
    {
        let (entries, policy) = self.unmapped();
        let (dead, counts) = take(mappings, entries, policy, may_be_empty, broken);
        // INVARIANT: What was taken out was recorded with the policy of this batch.
        WithTables {
            batch: self,
            dead,
            counts,
        }
    }
}

/// Takes those tables out of `mappings` that any of `items` are in. `policy` is told, and has to be
/// flushed before they are dropped.
fn take<T: FileLocked, I: Item>(
    mappings: &T,
    items: &[I],
    policy: &mut (impl Flush<Mm = Mm> + ?Sized),
    may_be_empty: impl Fn(usize, usize) -> bool,
    broken: Broken,
) -> (Dead, Counts) {
    let mut taking = Taking {
        policy,
        // INVARIANT: No table.
        dead: Dead(mechanism::RawTables {
            broken: broken.for_c(),
            ..Default::default()
        }),
        counts: Counts::default(),
        broken,
    };
    if let (Some(first), Some(last)) = (items.first(), items.last()) {
        mappings.for_each(first.pgoff(), last.last(), |vma| {
            taking.take_of(vma, items, &may_be_empty);
        });
    }
    mechanism::tables_taken();
    (taking.dead, taking.counts)
}

/// Tables on their way out.
///
/// # Invariants
///
/// `policy` was told of each table in `dead`, and is flushed before `dead` is dropped.
struct Taking<'b, F: ?Sized> {
    policy: &'b mut F,
    dead: Dead,
    counts: Counts,
    broken: Broken,
}

impl<F: Flush<Mm = Mm> + ?Sized> Taking<'_, F> {
    /// Takes those tables of `vma` that any of `items` are in, each once.
    fn take_of<I: Item>(
        &mut self,
        vma: &Vma,
        items: &[I],
        may_be_empty: impl Fn(usize, usize) -> bool,
    ) {
        let Some(window) = vma.window() else {
            return;
        };
        let Some(mut next) = window.pgoff_of(window.range().start()) else {
            return;
        };
        let from = items.partition_point(|i| window.is_before(i.last()));
        let mut rest = items.get(from..).unwrap_or(&[]);
        let table_of = |i: &I, next: usize| table_of(&window, i.pgoff().max(next));
        while let Some((table, first)) = rest.first().and_then(|i| table_of(i, next)) {
            let last = first + (table.span_pages() - 1);
            // The VMA covers it.
            if table.span_pages() == PTRS_PER_PTE && may_be_empty(first, last) {
                self.take(vma, table);
            }
            next = last + 1;
            let done = rest.partition_point(|i| i.last() <= last);
            rest = rest.get(done..).unwrap_or(&[]);
            mechanism::cond_resched();
        }
    }

    fn take(&mut self, vma: &Vma, table: PageRange) {
        // SAFETY:
        // - The tables were made in `take`.
        // - `FileLocked` says that the rmap lock of the file is held while a VMA is shown; `table` is
        //   a whole table that lies in the window of this one.
        // - The policy is told below, and `dead` not dropped before it has flushed: by the
        //   invariants of `Taking` and `WithTables`.
        let fate = unsafe { mechanism::table_take(&mut self.dead.0, vma.as_raw(), table.start()) };
        match fate {
            bindings::tlb_defer_table_fate_TLB_DEFER_TABLE_TAKEN => {
                self.record(vma, table);
                self.counts.nr_taken += 1;
            }
            bindings::tlb_defer_table_fate_TLB_DEFER_TABLE_USED => self.counts.nr_used += 1,
            bindings::tlb_defer_table_fate_TLB_DEFER_TABLE_BUSY => self.counts.nr_busy += 1,
            _ => {}
        }
    }

    fn record(&mut self, vma: &Vma, table: PageRange) {
        let page = PageRange::of_page(table.start()).unwrap_or(table);
        match self.broken {
            Broken { range: true, .. } => self.policy.record(vma.mm(), Pending::new(page, 0)),
            Broken { lazy: true, .. } => self.policy.record(vma.mm(), Pending::new(table, 0)),
            _ => self.policy.record_table(vma.mm(), table),
        }
    }
}

/// What the page table maps, as far as the window shows it, that page `pgoff` of the file is in,
/// and which page of the file that begins with.
fn table_of(window: &Window, pgoff: usize) -> Option<(PageRange, usize)> {
    let table = window.table_of(window.address_of(pgoff)?)?;
    Some((table, window.pgoff_of(table.start())?))
}
