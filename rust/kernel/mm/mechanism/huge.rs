// SPDX-License-Identifier: GPL-2.0

//! Shims for mappings of 2 MiB, which have a leaf where others have a page table; contracts in
//! [`mm/rust_tlb/huge.c`](srctree/mm/rust_tlb/huge.c).

use super::{
    cleared,
    young,
    RawTable, //
};
use crate::{
    alloc::Flags,
    bindings,
    mm::{
        parts::Cleared,
        range::PageRange,
        Mm, //
    },
    page::Page, //
};
use core::ptr::NonNull;

/// Allocates as many pages as a page table maps, one behind the other in memory and aligned to all of
/// them. Each is the caller's, by one reference.
#[inline(never)]
pub(in crate::mm) fn alloc_huge(flags: Flags) -> Option<NonNull<bindings::page>> {
    // SAFETY: It has no duties but those of the context, which `flags` say.
    NonNull::new(unsafe { bindings::tlb_batch_alloc_huge(flags.as_raw()) })
}

/// # Safety
///
/// - `vmf` must belong to a fault that is being handled in this task, and have the PMD of its address:
///   in a `VM_PFNMAP` VMA that is not copy-on-write.
/// - All that a page table maps around its address must lie in that VMA.
/// - `first` and the pages behind it, as many as a page table maps, must be kept until the leaf, and
///   its copies, are gone and flushed.
#[inline(never)]
pub(in crate::mm) unsafe fn insert_huge(
    vmf: *mut bindings::vm_fault,
    first: &Page,
) -> bindings::vm_fault_t {
    // SAFETY: As promised by the caller. That nobody maps anything there meanwhile keeps sizes apart
    // in TLBs; no memory depends on it, for a leaf goes in only where the PMD is empty under its lock.
    unsafe { bindings::tlb_batch_insert_huge(vmf, first.as_ptr()) }
}

/// # Safety
///
/// - `vmf` must belong to a fault that is being handled in this task, and have the PMD of its address:
///   in a `VM_MIXEDMAP` VMA that is not copy-on-write.
/// - All that a page table maps around its address must lie in that VMA.
/// - `first` must be the first page of a folio of as many pages as a page table maps.
#[inline(never)]
pub(in crate::mm) unsafe fn insert_huge_folio(
    vmf: *mut bindings::vm_fault,
    first: &Page,
    write: bool,
) -> bindings::vm_fault_t {
    // SAFETY: As promised by the caller. The leaf gets a reference of its own. As for `insert_huge`, no
    // memory depends on who else maps what there meanwhile.
    unsafe { bindings::tlb_batch_insert_huge_folio(vmf, first.as_ptr(), write) }
}

/// Clears the leaf that `table` is, if it maps `page`, and what is behind it, at `pages`; returns what
/// was in it if it did, also if that was for other pages before.
///
/// # Safety
///
/// - `table` must come from [`pte_lock`](super::pte_lock) in this task, be a leaf, not have been
///   unlocked yet, and its VMA be valid.
/// - `pages` must lie in what the leaf maps.
/// - `page` and those behind it, as many, must be of one folio. The caller's own reference to that must
///   be kept until the flush, and so must be all pages that the leaf maps.
#[inline(never)]
pub(in crate::mm) unsafe fn clear_leaf(
    table: &mut RawTable,
    pages: PageRange,
    page: *mut bindings::page,
) -> Cleared {
    let (addr, nr) = (pages.start(), pages.span_pages() as u32);
    // SAFETY: As promised by the caller. That others are told until the flush keeps *them* from
    // returning early; what a page is kept by does not depend on it.
    cleared(unsafe { bindings::tlb_batch_clear_leaf(table, addr, page, nr) })
}

/// Whether the leaf that `table` is was accessed; with `clear`, clears the Accessed bit.
///
/// # Safety
///
/// `table` must come from [`pte_lock`](super::pte_lock) in this task, be a leaf, not have been unlocked
/// yet, and its VMA be valid.
#[inline(never)]
pub(in crate::mm) unsafe fn test_young_leaf(table: &RawTable, clear: bool) -> Option<bool> {
    // SAFETY: As promised by the caller.
    young(unsafe { bindings::tlb_batch_test_young_leaf(table, clear) })
}

/// If there is a leaf at `addr`, unmaps and flushes what it maps.
///
/// # Safety
///
/// `vma` must be valid and contain `addr`, and its `mmap_lock` be held.
#[inline(never)]
pub(in crate::mm) unsafe fn split_leaf(vma: *mut bindings::vm_area_struct, addr: usize) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_split_leaf(vma, addr) }
}

/// Pins `mm`, and has every gather of it end in a full flush until [`retract`].
#[inline(never)]
pub(in crate::mm) fn announce(mm: &Mm) -> NonNull<bindings::mm_struct> {
    // SAFETY: `mm` is a reference, and so valid; it is pinned from here on.
    unsafe {
        bindings::tlb_batch_announce(mm.as_raw(), true);
        NonNull::new_unchecked(mm.as_raw())
    }
}

/// # Safety
///
/// `mm` must come from [`announce`], and not have been retracted yet.
#[inline(never)]
pub(in crate::mm) unsafe fn retract(mm: NonNull<bindings::mm_struct>) {
    // SAFETY: The caller promises that it is pinned, and announced once more than it was retracted.
    unsafe { bindings::tlb_batch_retract(mm.as_ptr(), true) }
}
