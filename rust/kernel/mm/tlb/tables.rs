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
//! 4. The policy is told ([`Record::record_table`]): the flush covers all that the table maps, in
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
    mappings::FileMappings,
    policy::{
        Flush,
        Record,
        Why, //
    },
    taker::{
        self,
        Fate,
        Permit,
        TakeTable, //
    },
    walk::{
        FileLocked,
        Item, //
    }, //
};
use crate::{
    bindings,
    mm::{
        parts::Entry,
        range::PageRange,
        rmap::Vma,
        stale_page::StalePage,
        Mm, //
    }, //
};
#[cfg(CONFIG_RUST_TLB_FAULTS)]
use {
    super::policy::sealed::Sealed,
    crate::mm::range::Pending, //
};

pub use super::taker::Counts;

/// Rules of the protocol that are broken, for tests to show that they notice.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
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

#[cfg(CONFIG_RUST_TLB_FAULTS)]
impl Broken {
    fn for_c(self) -> u32 {
        let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        bit(self.mmap_lock, bindings::TLB_BATCH_BREAK_MMAP_LOCK)
            | bit(self.recheck, bindings::TLB_BATCH_BREAK_RECHECK)
            | bit(self.pending, bindings::TLB_BATCH_BREAK_PENDING)
    }
}

/// Page tables that were taken out, to be freed when it is dropped.
///
/// # Invariants
///
/// When it is dropped, all of them have been flushed.
#[derive(Default)]
pub(crate) struct Dead(bindings::tlb_batch_tables);

impl Drop for Dead {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants they are flushed.
        unsafe { bindings::tlb_batch_tables_free(&mut self.0) }
    }
}

impl Dead {
    /// All were taken out that go with a flush, which comes next.
    #[inline(never)]
    fn taken(&self) {
        // SAFETY: It has no duties but those of the context, and holds no lock.
        unsafe { bindings::tlb_batch_tables_taken() }
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
        self.take_by(|entries, policy, dead| take(mappings, entries, policy, may_be_empty, dead))
    }

    /// As [`Batch::take_tables`], for the tables that any of the pages `pgoffs` of the file are in.
    /// They are sorted.
    ///
    /// # Context
    ///
    /// As [`Batch::take_tables`]; but if `mappings` are locked already, nothing is waited for.
    pub fn take_tables_of<T: FileLocked<Mapping = Vma>>(
        self,
        mappings: &T,
        pgoffs: &[usize],
        may_be_empty: impl Fn(usize, usize) -> bool,
    ) -> WithTables<P, F> {
        self.take_by(|_, policy, dead| take(mappings, pgoffs, policy, may_be_empty, dead))
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
        self.take_by(|entries, policy, dead| {
            dead.0.broken = broken.for_c();
            let mut told = ToldWrong { policy, broken };
            take(mappings, entries, &mut told, may_be_empty, dead)
        })
    }

    /// Has `take` take tables out, and tell the policy.
    fn take_by(
        mut self,
        take: impl FnOnce(&[Entry<P>], &mut F, &mut Dead) -> Counts,
    ) -> WithTables<P, F> {
        let mut dead = Dead::default();
        let (entries, policy) = self.unmapped();
        let counts = take(entries, policy, &mut dead);
        // INVARIANT: The policy of this batch was told of all of them.
        WithTables {
            batch: self,
            dead,
            counts,
        }
    }
}

/// Takes those tables out of `mappings` that any of `items` are in, and adds them to `dead`. `policy` is
/// told, and has to be flushed before that is dropped.
fn take<T, I, F>(
    mappings: &T,
    items: &[I],
    policy: &mut F,
    may_be_empty: impl Fn(usize, usize) -> bool,
    dead: &mut Dead,
) -> Counts
where
    T: FileLocked<Mapping = Vma>,
    I: Item,
    F: Record<Mm = Mm> + ?Sized,
{
    let counts = taker::take(mappings, items, policy, may_be_empty, dead);
    dead.taken();
    counts
}

impl TakeTable for Vma {
    type Dead = Dead;

    #[inline(never)]
    fn take_table(&self, table: PageRange, dead: &mut Dead, _permit: &Permit) -> Fate {
        let start = table.start();
        // SAFETY:
        // - `dead` is used by these functions only.
        // - By the type invariants the VMA is valid. By the permit its file's rmap is locked, and
        //   `table`, all that a page table maps, lies in it.
        // - By the permit the policy is told. `dead` is not dropped before that has flushed: by the
        //   invariants of `Dead` and `WithTables`.
        let fate = unsafe { bindings::tlb_batch_table_take(&mut dead.0, self.as_raw(), start) };
        match fate {
            bindings::tlb_batch_table_fate_TLB_BATCH_TABLE_TAKEN => Fate::Taken,
            bindings::tlb_batch_table_fate_TLB_BATCH_TABLE_USED => Fate::Used,
            bindings::tlb_batch_table_fate_TLB_BATCH_TABLE_BUSY => Fate::Busy,
            _ => Fate::Absent,
        }
    }
}

/// A policy that is told of tables as the broken rules have it: the negative control.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
struct ToldWrong<'p, F: ?Sized> {
    policy: &'p mut F,
    broken: Broken,
}

#[cfg(CONFIG_RUST_TLB_FAULTS)]
impl<F: ?Sized> Sealed for ToldWrong<'_, F> {}

#[cfg(CONFIG_RUST_TLB_FAULTS)]
impl<F: Record + ?Sized> Record for ToldWrong<'_, F> {
    type Mm = F::Mm;

    fn record(&mut self, mm: &F::Mm, pending: Pending) {
        self.policy.record(mm, pending);
    }

    fn record_table(&mut self, mm: &F::Mm, range: PageRange) {
        let page = PageRange::of_page(range.start()).unwrap_or(range);
        match self.broken {
            Broken { range: true, .. } => self.policy.record(mm, Pending::new(page, 0)),
            Broken { lazy: true, .. } => self.policy.record(mm, Pending::new(range, 0)),
            _ => self.policy.record_table(mm, range),
        }
    }
}
