// SPDX-License-Identifier: GPL-2.0

//! A locked page table of a user address space.
//!
//! The lowest level only, under its page-table lock (PTL). An address without a table is normal:
//! tables are made by faults and freed when they are empty, at any time the lock is not held.
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/tlb_defer.h`](srctree/include/linux/tlb_defer.h)

use super::{
    mechanism,
    rmap::Vma,
    tlb::{
        range::PageRange,
        walk::{
            Cleared,
            Permit, //
        },
        StalePage, //
    }, //
};
use crate::{
    bindings,
    page::PAGE_SHIFT,
    types::NotThreadSafe, //
};
use core::ptr::NonNull;

/// The page-table lock over a part of a [`Vma`].
///
/// A spinlock: do not sleep while this exists. Dropping it unlocks.
///
/// # Invariants
///
/// - `table` comes from `pte_lock` on `_vma`, and its lock is held by this task.
/// - `table.pte` is the entry of `addr`, and `addr` lies in `range`.
/// - `range` lies in the VMA, and one page table maps all of it.
pub struct PageTable<'v> {
    table: mechanism::RawTable,
    addr: usize,
    range: PageRange,
    _vma: &'v Vma,
    _nts: NotThreadSafe,
}

impl<'v> PageTable<'v> {
    /// Locks the page table that maps `addr`.
    ///
    /// Returns [`None`] if `addr` is outside of `vma`, or if there is no page table for it.
    ///
    /// # Context
    ///
    /// No spinlock is held. Does not sleep, but spins.
    pub fn lock(vma: &'v Vma, addr: usize) -> Option<Self> {
        let range = vma.window()?.table_of(addr)?;
        // SAFETY: A `Vma` is locked by its invariants, and maps `addr`.
        let table = unsafe { mechanism::pte_lock(vma.as_raw(), addr) }?;
        // INVARIANT: `table` was locked for `addr` of this VMA, and `table_of` returns what one
        // table maps.
        Some(Self {
            table,
            addr,
            range,
            _vma: vma,
            _nts: NotThreadSafe,
        })
    }

    /// Returns the part of the VMA that this page table maps.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Returns the entry of `addr`.
    fn pte(&self, addr: usize) -> Option<NonNull<bindings::pte_t>> {
        if !self.range.contains(addr) {
            return None;
        }
        let index = (addr >> PAGE_SHIFT) as isize - (self.addr >> PAGE_SHIFT) as isize;
        // SAFETY: By the invariants both addresses are mapped by this table, so the entry is in it.
        NonNull::new(unsafe { self.table.pte.offset(index) })
    }

    /// Returns whether the page at `addr` was accessed, or [`None`] if none is mapped there.
    ///
    /// With `clear`, clears the Accessed bit and does *not* flush: a CPU that has the translation
    /// in its TLB does not set the bit again.
    pub fn test_young(&mut self, addr: usize, clear: bool) -> Option<bool> {
        let pte = self.pte(addr)?;
        // SAFETY: `pte` is the entry of `addr`. By the type invariants the table is that of `_vma`,
        // which is valid, and locked.
        unsafe { mechanism::test_young(&self.table, addr, pte.as_ptr(), clear) }
    }

    /// Clears the PTE of `addr` if it maps `page`, and undoes its accounting.
    pub(super) fn clear<P: StalePage>(
        &mut self,
        addr: usize,
        page: &P,
        _permit: &Permit,
    ) -> Option<Cleared> {
        let pte = self.pte(addr)?;
        // SAFETY:
        // - By the type invariants the table is that of `_vma`, which is valid, and locked.
        // - A `Vma` is a VM_MIXEDMAP or a VM_PFNMAP mapping that is not copy-on-write.
        // - `pte` is the entry of `addr`.
        // - `page` owns a reference (`StalePage`), and is in a batch (`Permit`), which keeps it until
        //   the flush.
        unsafe { mechanism::clear_pte(&mut self.table, addr, pte.as_ptr(), page.page()) }
    }

    /// Write-protects the PTE of `addr` if it maps `page` and is writable and clean. Returns
    /// whether it did.
    pub(super) fn protect<P: StalePage>(
        &mut self,
        addr: usize,
        page: &P,
        _permit: &Permit,
    ) -> bool {
        let Some(pte) = self.pte(addr) else {
            return false;
        };
        // SAFETY: As for `clear`.
        unsafe { mechanism::protect_pte(&self.table, addr, pte.as_ptr(), page.page()) }
    }
}

impl Drop for PageTable<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held by this task; it is released only here,
        // while `_vma` is borrowed.
        unsafe { mechanism::pte_unlock(&mut self.table) }
    }
}
