// SPDX-License-Identifier: GPL-2.0

//! A locked page table of a user address space.
//!
//! The lowest level only, under its page-table lock (PTL). An address without a table is normal:
//! tables are made by faults and freed when they are empty, at any time the lock is not held.
//!
//! Where a table would be there may be a *leaf*: one entry, a level above, that maps all that a table
//! would (2 MiB), under the lock of that entry. It has one Accessed and one Dirty bit for all of it, is
//! cleared as a whole, and never write-protected here.
//!
//! Rule H2 is one of [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).
//!
//! # Examples
//!
//! In how many mappings a page was accessed:
//!
//! ```
//! use kernel::{
//!     mm::{page_table::PageTable, rmap::AddressSpace},
//!     sync::{Arc, ArcBorrow}, //
//! };
//!
//! fn nr_young(file: &AddressSpace, data: ArcBorrow<'_, ()>, pgoff: usize) -> usize {
//!     let rmap = file.lock();
//!     let mut nr = 0;
//!     for vma in rmap.vmas(data, pgoff, pgoff) {
//!         let Some(addr) = vma.window().and_then(|window| window.address_of(pgoff)) else {
//!             continue;
//!         };
//!         // Unlocked at the end of each turn: the iterator may sleep.
//!         if let Some(mut table) = PageTable::lock(vma, addr) {
//!             nr += usize::from(table.test_young(addr, false) == Some(true));
//!         }
//!     }
//!     nr
//! }
//!
//! let file = AddressSpace::new()?;
//! let data = Arc::new((), GFP_KERNEL)?;
//! // No process maps it here.
//! assert_eq!(nr_young(&file, data.as_arc_borrow(), 7), 0);
//! # Ok::<(), Error>(())
//! ```
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/tlb_batch.h`](srctree/include/linux/tlb_batch.h); contracts in
//! [`mm/rust_tlb/defer.c`](srctree/mm/rust_tlb/defer.c), `huge.c` and `move.c`

use super::{
    parts::{
        Changed,
        Cleared,
        Part,
        Which,
        MAX_PARTS, //
    },
    pte::Pte,
    range::PageRange,
    rmap::Vma,
    stale_page::StalePage,
};
use crate::{
    bindings,
    page::PAGE_SHIFT,
    types::NotThreadSafe, //
};
use core::{
    mem::MaybeUninit,
    ptr::NonNull,
    slice, //
};

/// A locked page table of a VMA. Its `pte` is the entry of the address that it was locked for. Or a
/// leaf: then `leaf` is not null, and there are no PTEs.
type RawTable = bindings::tlb_batch_table;

/// A part of a page table, and the pages that it should map.
type RawPart = bindings::tlb_batch_part;

const _: () = assert!(MAX_PARTS == bindings::TLB_BATCH_MAX_PARTS as usize);
const _: () = assert!(MAX_PARTS <= u16::BITS as usize);

/// The first page of a part. The others are behind it in memory, or in `list`, if that is not null: it
/// begins with the first.
struct First {
    page: *mut bindings::page,
    list: *const *mut bindings::page,
}

/// Parts of a page table that are to be cleared.
///
/// # Invariants
///
/// The first `nr` of `list` are initialized.
struct PartList {
    list: [MaybeUninit<RawPart>; MAX_PARTS],
    nr: usize,
}

impl PartList {
    fn new() -> Self {
        // INVARIANT: None.
        Self {
            list: [const { MaybeUninit::uninit() }; MAX_PARTS],
            nr: 0,
        }
    }

    /// Takes as many of `parts` as there is room for. Unless they are all `here`, none of them is.
    fn fill<'a, P>(&mut self, parts: impl Iterator<Item = Part<'a, P>>, here: bool)
    where
        P: StalePage + 'a,
    {
        let mut nr = 0;
        // The room first: nothing is taken that there is none for.
        for (place, part) in self.list.iter_mut().zip(parts) {
            match first_of(&part) {
                Some(First { page, list }) if here => place.write(RawPart {
                    addr: part.pages.start(),
                    page,
                    pages: list,
                    nr: part.pages.span_pages() as u32,
                }),
                _ => place.write(RawPart::default()),
            };
            nr += 1;
        }
        // INVARIANT: So many were written.
        self.nr = nr;
    }

    fn as_slice(&self) -> &[RawPart] {
        // SAFETY: By the type invariants so many are initialized; they are borrowed with `self`.
        unsafe { slice::from_raw_parts(self.list.as_ptr().cast(), self.nr) }
    }
}

/// The page-table lock over a part of a [`Vma`].
///
/// A spinlock: do not sleep while this exists. Dropping it unlocks.
///
/// # Invariants
///
/// - `table` was locked by this task, in `_vma`, and still is.
/// - `addr` lies in `range`. `table.leaf` is null if and only if this is a table: then `table.pte` is
///   the entry of `addr`.
/// - `range` lies in the VMA, and one page table, or the leaf, maps all of it.
pub struct PageTable<'v> {
    table: RawTable,
    addr: usize,
    range: PageRange,
    _vma: &'v Vma,
    _nts: NotThreadSafe,
}

impl<'v> PageTable<'v> {
    /// Locks the page table that maps `addr`, or the leaf.
    ///
    /// Returns [`None`] if `addr` is outside of `vma`, or if there is neither for it.
    ///
    /// # Context
    ///
    /// No spinlock is held. Does not sleep, but spins.
    #[inline(never)]
    pub fn lock(vma: &'v Vma, addr: usize) -> Option<Self> {
        let range = vma.window()?.table_of(addr)?;
        let mut table = RawTable::default();
        // SAFETY: A `Vma` is valid and locked by its invariants, and maps `addr`. `table` is zero, is
        // written, and may be moved: the kernel keeps no pointer to it.
        let is_locked = unsafe { bindings::tlb_batch_pte_lock(&raw mut table, vma.as_raw(), addr) };
        // INVARIANT: `table` was locked for `addr` of this VMA, and `table_of` returns what one
        // table maps, and so a leaf.
        is_locked.then(|| Self {
            table,
            addr,
            range,
            _vma: vma,
            _nts: NotThreadSafe,
        })
    }

    /// Locks the page table that maps `addr`, beside `other`, which is locked, and maybe by the same
    /// lock: it outlives this.
    ///
    /// Returns [`None`] if `addr` is outside of `vma`, or if there is no page table for it.
    ///
    /// # Safety
    ///
    /// - Both are of one process, whose `mmap_lock` is held for writing, and of VMAs that are
    ///   write-locked.
    /// - Either both of these are `VM_PFNMAP`, or none.
    ///
    /// # Context
    ///
    /// Does not sleep, but spins.
    #[inline(never)]
    pub(super) unsafe fn lock_beside(
        vma: &'v Vma,
        addr: usize,
        other: &'v PageTable<'_>,
    ) -> Option<Self> {
        let range = vma.window()?.table_of(addr)?;
        let mut table = RawTable::default();
        let (raw, beside) = (&raw mut table, &raw const other.table);
        // SAFETY:
        // - A `Vma` is valid by its invariants, and maps `addr`; the locks, and the kind, are as the
        //   caller promises.
        // - `other` is locked by its invariants, and borrowed for as long as this is.
        // - `table` is zero, is written, and may be moved.
        let is_locked = unsafe { bindings::tlb_move_pte_lock(raw, vma.as_raw(), addr, beside) };
        // INVARIANT: As in `lock`.
        is_locked.then(|| Self {
            table,
            addr,
            range,
            _vma: vma,
            _nts: NotThreadSafe,
        })
    }

    /// Returns what maps `addr`, by value.
    pub(super) fn read(&self, addr: usize) -> Option<Pte<'_>> {
        let pte = self.pte(addr)?;
        // SAFETY: `pte` is an entry of this table, which is locked as long as `self` is borrowed.
        Some(unsafe { read_pte(pte.as_ptr()) })
    }

    /// Moves the PTE of `old` to `new`, in another table or this one's lock; returns whether it did.
    ///
    /// # Safety
    ///
    /// - `to` is of the same process, whose `mmap_lock` is held for writing, and both VMAs are
    ///   write-locked.
    /// - Both are of one kind, and show the same page of the same file at `old` and `new`.
    /// - The page is not reused before `old` is flushed.
    #[inline(never)]
    pub(super) unsafe fn move_to(&self, old: usize, to: &mut PageTable<'_>, new: usize) -> bool {
        let Some((from, into)) = self.pte(old).zip(to.pte(new)) else {
            return false;
        };
        let (from, into) = (from.as_ptr(), into.as_ptr());
        // SAFETY:
        // - Both tables are locked, by the type invariants, and these are their entries.
        // - The rest is as the caller promises.
        unsafe { bindings::tlb_move_pte(&self.table, old, from, new, into) }
    }

    /// Returns the part of the VMA that this page table maps.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Returns what the leaf maps, if this is one.
    pub fn leaf(&self) -> Option<PageRange> {
        (!self.table.leaf.is_null()).then_some(self.range)
    }

    /// Returns the entry of `addr`. A leaf has none.
    fn pte(&self, addr: usize) -> Option<NonNull<bindings::pte_t>> {
        if self.leaf().is_some() || !self.range.contains(addr) {
            return None;
        }
        // By the invariants both addresses are mapped by this table, so the entry is in it.
        let index = (addr >> PAGE_SHIFT) as isize - (self.addr >> PAGE_SHIFT) as isize;
        NonNull::new(self.table.pte.wrapping_offset(index))
    }

    /// Returns whether the page at `addr` was accessed, or [`None`] if none is mapped there.
    ///
    /// With `clear`, clears the Accessed bit and does *not* flush: a CPU that has the translation
    /// in its TLB does not set the bit again. That of a leaf is the bit of all its pages: as long as
    /// this exists, they all answer what it was before.
    #[inline(never)]
    pub fn test_young(&mut self, addr: usize, clear: bool) -> Option<bool> {
        let found = if self.leaf().is_some_and(|leaf| leaf.contains(addr)) {
            // SAFETY: By the type invariants it is a leaf of `_vma`, which is valid, and locked.
            unsafe { bindings::tlb_batch_test_young_leaf(&self.table, clear) }
        } else {
            let pte = self.pte(addr)?.as_ptr();
            // SAFETY: `pte` is the entry of `addr`. By the type invariants the table is that of
            // `_vma`, which is valid, and locked.
            unsafe { bindings::tlb_batch_test_young(&self.table, addr, pte, clear) }
        };
        (found & bindings::TLB_BATCH_MAPPED != 0).then_some(found & bindings::TLB_BATCH_YOUNG != 0)
    }

    /// Clears the PTEs of the first of `parts`, at most [`MAX_PARTS`], that map what they should, and
    /// undoes their accounting. A leaf that maps any of it is cleared as a whole, and answers for each
    /// page that it mapped. If not all of `range` lies in this table, no part is there.
    ///
    /// # Safety
    ///
    /// - All of `parts` lie in `range`.
    /// - The entry of each part is not dropped before what was cleared is flushed.
    pub(super) unsafe fn clear<'a, P: StalePage + 'a>(
        &mut self,
        range: PageRange,
        parts: impl Iterator<Item = Part<'a, P>>,
    ) -> Changed {
        if self.leaf().is_some() {
            // SAFETY: As promised by the caller.
            return unsafe { self.clear_leaf(parts) };
        }
        let mut list = PartList::new();
        list.fill(parts, self.range.covers(range));
        // SAFETY:
        // - By the type invariants the table is that of `_vma`, which is valid, and locked for `addr`;
        //   it is no leaf.
        // - A `Vma` is a VM_MIXEDMAP or a VM_PFNMAP mapping that is not copy-on-write.
        // - They are as many as fit in. Those that have pages lie in `range`, as the caller promises, and so
        //   in the table, which covers it. `first_of` has seen to it that the entry has as many, which are
        //   a folio or a list: it owns references (`StalePage`), and is kept until the flush, as the caller
        //   promises.
        let found = unsafe { clear_parts(&mut self.table, self.addr, list.as_slice()) };
        Changed {
            cleared: cleared(found.cleared),
            range: PageRange::new(found.start, found.end),
            missing: Which(found.missing),
            ..Changed::default()
        }
    }

    /// As [`PageTable::clear`], of a leaf.
    ///
    /// # Safety
    ///
    /// As [`PageTable::clear`].
    unsafe fn clear_leaf<'a, P: StalePage + 'a>(
        &mut self,
        parts: impl Iterator<Item = Part<'a, P>>,
    ) -> Changed {
        let mut changed = Changed::default();
        for (number, part) in parts.take(MAX_PARTS).enumerate() {
            let is_here = self.range.covers(part.pages);
            let cleared = match first_of(&part).filter(|_| is_here) {
                // SAFETY:
                // - By the type invariants it is a leaf of `_vma`, which is valid, and locked; it maps
                //   all of `pages`. A `Vma` is of one of those kinds.
                // - As for a table. A leaf is that folio, or made of `DriverPage`s: each of the others is
                //   kept until a batch over the same mappings has taken it out, and flushed what this
                //   one owes (H2).
                Some(First { page, list }) if list.is_null() => unsafe {
                    clear_leaf(&mut self.table, part.pages, page)
                },
                // Of a bundle no leaf is made.
                _ => Cleared::default(),
            };
            changed.add_cleared(number, part.pages, cleared);
        }
        changed
    }

    /// Write-protects the PTE of `part`, which is one page, if it maps that and is writable and clean.
    /// Returns whether it did: a leaf is not.
    ///
    /// # Safety
    ///
    /// The entry of `part` is not dropped before what was protected is flushed.
    pub(super) unsafe fn protect<P: StalePage>(&mut self, part: Part<'_, P>) -> bool {
        let addr = part.pages.start();
        let Some((pte, First { page, .. })) = self.pte(addr).zip(first_of(&part)) else {
            return false;
        };
        // SAFETY: As for `clear`; `pte` is the entry of the one page.
        unsafe { protect_pte(&self.table, addr, pte.as_ptr(), page) }
    }
}

/// Returns where `part` begins, if the entry has as many pages.
#[inline]
fn first_of<P: StalePage>(part: &Part<'_, P>) -> Option<First> {
    let pages = part.entry.pages();
    if part.pages.span_pages() > pages.nr().checked_sub(part.nth)? {
        return None;
    }
    if let Some(pages) = pages.bundle() {
        let list = pages.get(part.nth..)?;
        return Some(First {
            page: list.first()?.as_ptr(),
            // A list of `NonNull` is one of pointers.
            list: list.as_ptr().cast(),
        });
    }
    Some(First {
        // So many `struct page`s are one behind the other, if there is more than one.
        page: pages.first().as_ptr().wrapping_add(part.nth),
        list: core::ptr::null(),
    })
}

impl Drop for PageTable<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held by this task; it is released only here,
        // while `_vma` is borrowed.
        unsafe { bindings::tlb_batch_pte_unlock(&mut self.table) }
    }
}

/// Reads a PTE.
///
/// # Safety
///
/// `pte` must be an entry of a page table that is locked, and that stays so for as long as what is
/// returned is used: the caller gives it a lifetime that ends before.
#[inline(never)]
pub(super) unsafe fn read_pte(pte: *mut bindings::pte_t) -> Pte<'static> {
    // SAFETY: As promised by the caller.
    let found = unsafe { bindings::tlb_move_read(pte) };
    Pte::new(found.pfn, found.present, found.dirty)
}

/// What C cleared.
#[inline]
fn cleared(found: bindings::tlb_batch_cleared) -> Cleared {
    Cleared {
        nr: found.nr as usize,
        nr_dirty: found.nr_dirty as usize,
        nr_writable: found.nr_writable as usize,
    }
}

/// Clears those PTEs of `parts` that map what they should; returns what was in them.
///
/// # Safety
///
/// - `table` must be locked by this task, for `addr`, and its VMA be valid. It must not be a leaf.
/// - That VMA must be a `VM_MIXEDMAP` or a `VM_PFNMAP` mapping that is not copy-on-write.
/// - `parts` must be [`MAX_PARTS`] at most, and the table map all of those that have pages. The pages of
///   each must be of one folio, or in the list that it has, and the caller's own references to them must
///   be kept until the flush.
#[inline(never)]
unsafe fn clear_parts(
    table: &mut RawTable,
    addr: usize,
    parts: &[RawPart],
) -> bindings::tlb_batch_changed {
    let nr = parts.len() as u32;
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_clear_parts(table, addr, parts.as_ptr(), nr) }
}

/// Clears the leaf that `table` is, if it maps `page`, and what is behind it, at `pages`; returns what
/// was in it if it did, also if that was for other pages before.
///
/// # Safety
///
/// - `table` must be a leaf, locked by this task, and its VMA be valid: a `VM_MIXEDMAP` or a `VM_PFNMAP`
///   mapping that is not copy-on-write.
/// - `pages` must lie in what the leaf maps.
/// - `page` and those behind it, as many, must be of one folio. The caller's own reference to that must
///   be kept until the flush, and so must be all pages that the leaf maps.
#[inline(never)]
unsafe fn clear_leaf(table: &mut RawTable, pages: PageRange, page: *mut bindings::page) -> Cleared {
    let (addr, nr) = (pages.start(), pages.span_pages() as u32);
    // SAFETY: As promised by the caller. That others are told until the flush keeps *them* from
    // returning early; what a page is kept by does not depend on it.
    cleared(unsafe { bindings::tlb_batch_clear_leaf(table, addr, page, nr) })
}

/// Write-protects `pte` if it maps `page` and is writable and clean; returns whether it did.
///
/// # Safety
///
/// As [`clear_parts`], of the part that is `page` at `addr`; `pte` must be the table's entry for `addr`.
#[inline(never)]
unsafe fn protect_pte(
    table: &RawTable,
    addr: usize,
    pte: *mut bindings::pte_t,
    page: *mut bindings::page,
) -> bool {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_protect_pte(table, addr, pte, page) }
}
