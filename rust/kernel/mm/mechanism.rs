// SPDX-License-Identifier: GPL-2.0

//! The only files of the TLB abstractions that call the kernel, `tlb/ring_entry.rs` aside: one shim
//! for each C function.
//!
//! The C functions are built in and not exported. Generic and inlined Rust is compiled into the
//! module that uses it, so each shim is `#[inline(never)]` and not generic: it stays in the kernel
//! crate, and modules link to the shim (as in `devres.rs`). No decision is made here.
//!
//! Rules H1 to H14 are those of
//! [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).
//!
//! C header: [`include/linux/tlb_batch.h`](srctree/include/linux/tlb_batch.h), contracts in
//! [`mm/rust_tlb/`](srctree/mm/rust_tlb/): `defer.c`, `fault.c` and `page.c`.

use super::{
    parts::{
        Changed,
        Cleared,
        Which,
        MAX_PARTS, //
    },
    range::PageRange,
    Mm, //
};
use crate::{
    alloc::Flags,
    bindings,
    error::to_result,
    page::Page,
    prelude::*, //
};
use core::ptr::NonNull;

mod callbacks;
mod charge;
mod flush;
mod gather;
mod huge;
mod mapping;
mod moving;
mod tables;
#[cfg_attr(not(CONFIG_RUST_TLB_EVENTS), path = "mechanism/no_trace.rs")]
mod trace;

pub(super) use self::{
    callbacks::*,
    charge::*,
    flush::*,
    gather::*,
    huge::*,
    mapping::*,
    moving::*,
    tables::*,
    trace::*, //
};

/// Lets address spaces have rings, until [`rings_put`]. May sleep.
#[inline(never)]
pub(super) fn rings_get() {
    // SAFETY: Counts, and patches branches. In another context it could wait for ever, and lockdep
    // reports; no memory is at risk.
    unsafe { bindings::tlb_batch_rings_get() }
}

/// Undoes one [`rings_get`]. May sleep.
#[inline(never)]
pub(super) fn rings_put() {
    // SAFETY: As `rings_get`. One time too often, the kernel warns and does nothing.
    unsafe { bindings::tlb_batch_rings_put() }
}

/// Gives `mm` a ring. May sleep.
#[inline(never)]
pub(super) fn ring_add(mm: &Mm) -> Result {
    // SAFETY: `mm` is a reference, so it is not freed during the call.
    to_result(unsafe { bindings::tlb_batch_ring_add(mm.as_raw()) })
}

/// # Safety
///
/// `vma` must be valid, and its file's rmap, its own lock or its `mmap_lock` be locked.
#[inline(never)]
pub(super) unsafe fn vma_pgoff(vma: *const bindings::vm_area_struct) -> usize {
    // SAFETY: The caller promises a valid `vma`.
    unsafe { bindings::tlb_batch_vma_pgoff(vma) }
}

/// Returns whether nobody has installed operations or data in `vma`.
///
/// # Safety
///
/// `vma` must be valid, and be undergoing its set-up.
#[inline(never)]
pub(super) unsafe fn vma_is_fresh(vma: *const bindings::vm_area_struct) -> bool {
    // SAFETY: The caller promises a valid `vma`.
    unsafe { bindings::tlb_batch_vma_is_fresh(vma) }
}

/// Opens a bracket for secondary MMUs around the clearing of PTEs in `range`.
///
/// # Safety
///
/// `vma` must be valid, and its file's rmap, its own lock or its `mmap_lock` be locked, until
/// [`invalidate_end`] was called on what this returns.
#[inline(never)]
pub(super) unsafe fn invalidate_start(
    vma: *mut bindings::vm_area_struct,
    range: PageRange,
) -> bindings::mmu_notifier_range {
    let mut bracket = bindings::mmu_notifier_range::default();
    // SAFETY: The caller promises a valid `vma`; `bracket` is written, and not kept.
    unsafe {
        bindings::tlb_batch_invalidate_start(&raw mut bracket, vma, range.start(), range.end());
    }
    bracket
}

/// # Safety
///
/// `bracket` must come from [`invalidate_start`], and not have been closed yet.
#[inline(never)]
pub(super) unsafe fn invalidate_end(mut bracket: bindings::mmu_notifier_range) {
    // SAFETY: The caller promises an open bracket; the kernel keeps no pointer to it.
    unsafe { bindings::tlb_batch_invalidate_end(&raw mut bracket) }
}

/// # Safety
///
/// `vma` must be valid, its file's rmap, its own lock or its `mmap_lock` be locked, and `range` lie
/// within it.
#[inline(never)]
pub(super) unsafe fn zap(vma: *mut bindings::vm_area_struct, range: PageRange) {
    // SAFETY: As promised by the caller; that is how `unmap_mapping_range()` calls it, too.
    unsafe { bindings::tlb_batch_zap(vma, range.start(), range.end() - range.start()) }
}

/// # Safety
///
/// `mapping` must be valid.
#[inline(never)]
pub(super) unsafe fn unmap_mapping_pages(
    mapping: *mut bindings::address_space,
    first: usize,
    nr_pages: usize,
) {
    // SAFETY: The caller promises a valid `mapping`. Private copies are left alone.
    unsafe { bindings::unmap_mapping_pages(mapping, first, nr_pages, false) }
}

/// Lets other tasks run, if they wait. May sleep.
#[inline(never)]
pub(super) fn cond_resched() {
    // SAFETY: Reports a sleep in atomic context, and is otherwise always safe to call.
    unsafe { bindings::tlb_batch_cond_resched() }
}

/// Returns whether the current task is being killed.
#[inline(never)]
pub(super) fn is_being_killed() -> bool {
    // SAFETY: Reads what belongs to the current task.
    unsafe { bindings::tlb_batch_is_being_killed() }
}

/// A locked page table of a VMA. Its `pte` is the entry of the address that it was locked for. Or a
/// leaf: then `leaf` is not null, and there are no PTEs.
pub(super) type RawTable = bindings::tlb_batch_table;

/// # Safety
///
/// `vma` must be valid, the rmap of its file, its own lock or its `mmap_lock` be locked, and `addr`
/// lie within it.
#[inline(never)]
pub(super) unsafe fn pte_lock(vma: *mut bindings::vm_area_struct, addr: usize) -> Option<RawTable> {
    let mut table = RawTable::default();
    // SAFETY: The caller promises a valid `vma`, and the lock that keeps the upper tables. `table`
    // is written, and may be moved: the kernel keeps no pointer to it.
    let is_locked = unsafe { bindings::tlb_batch_pte_lock(&raw mut table, vma, addr) };
    is_locked.then_some(table)
}

/// # Safety
///
/// `table` must come from [`pte_lock`] in this task, not have been unlocked yet, and its VMA be
/// valid.
#[inline(never)]
pub(super) unsafe fn pte_unlock(table: &mut RawTable) {
    // SAFETY: The caller promises that it is locked, and that its VMA is valid.
    unsafe { bindings::tlb_batch_pte_unlock(table) }
}

/// What C cleared.
#[inline(never)]
fn cleared(found: bindings::tlb_batch_cleared) -> Cleared {
    Cleared {
        nr: found.nr as usize,
        nr_dirty: found.nr_dirty as usize,
        nr_writable: found.nr_writable as usize,
    }
}

/// What C found in an Accessed bit.
#[inline(never)]
fn young(found: u32) -> Option<bool> {
    (found & bindings::TLB_BATCH_MAPPED != 0).then_some(found & bindings::TLB_BATCH_YOUNG != 0)
}

/// A part of a page table, and the pages that it should map.
pub(super) type RawPart = bindings::tlb_batch_part;

const _: () = assert!(MAX_PARTS == bindings::TLB_BATCH_MAX_PARTS as usize);
const _: () = assert!(MAX_PARTS <= u16::BITS as usize);

/// Clears those PTEs of `parts` that map what they should; returns what was in them.
///
/// # Safety
///
/// - `table` must come from [`pte_lock`] in this task, not have been unlocked yet, and its VMA be
///   valid. It must not be a leaf, and have been locked for `addr`.
/// - That VMA must be a `VM_MIXEDMAP` or a `VM_PFNMAP` mapping that is not copy-on-write.
/// - `parts` must be [`MAX_PARTS`] at most, and the table map all of them. The pages of each must be of
///   one folio, or in the list that it has, and the caller's own references to them must be kept until
///   the flush.
#[inline(never)]
pub(super) unsafe fn clear_parts(table: &mut RawTable, addr: usize, parts: &[RawPart]) -> Changed {
    let nr = parts.len() as u32;
    // SAFETY: As promised by the caller.
    let found = unsafe { bindings::tlb_batch_clear_parts(table, addr, parts.as_ptr(), nr) };
    Changed {
        cleared: cleared(found.cleared),
        range: PageRange::new(found.start, found.end),
        missing: Which(found.missing),
        ..Changed::default()
    }
}

/// Write-protects `pte` if it maps `page` and is writable and clean; returns whether it did.
///
/// # Safety
///
/// As [`clear_parts`], of the part that is `page` at `addr`; `pte` must be the table's entry for `addr`.
#[inline(never)]
pub(super) unsafe fn protect_pte(
    table: &RawTable,
    addr: usize,
    pte: *mut bindings::pte_t,
    page: *mut bindings::page,
) -> bool {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_protect_pte(table, addr, pte, page) }
}

/// Whether `pte` was accessed, if it maps anything; with `clear`, clears the Accessed bit.
///
/// # Safety
///
/// - `table` must come from [`pte_lock`] in this task, not have been unlocked yet, and its VMA be
///   valid.
/// - `pte` must be the table's entry for `addr`.
#[inline(never)]
pub(super) unsafe fn test_young(
    table: &RawTable,
    addr: usize,
    pte: *mut bindings::pte_t,
    clear: bool,
) -> Option<bool> {
    // SAFETY: As promised by the caller.
    young(unsafe { bindings::tlb_batch_test_young(table, addr, pte, clear) })
}

/// Returns whether someone else cleared PTEs of `mm` and has yet to flush them (H2).
#[inline(never)]
pub(super) fn flush_is_pending(mm: &Mm) -> bool {
    // SAFETY: `mm` is a reference; a counter is read.
    unsafe { bindings::tlb_batch_flush_is_pending(mm.as_raw()) }
}

/// Returns whether nobody else holds a reference to `page`, or to the folio of which it is the first.
#[inline(never)]
pub(super) fn page_exclusive(page: &Page) -> bool {
    // SAFETY: A `Page` is valid and holds a reference.
    unsafe { bindings::tlb_batch_page_exclusive(page.as_ptr()) }
}

/// Returns whether memory of `page`, or of the folio of which it is the first, is known to be bad.
#[inline(never)]
pub(super) fn page_is_bad(page: &Page) -> bool {
    // SAFETY: A `Page` is valid and holds a reference.
    unsafe { bindings::tlb_batch_page_is_bad(page.as_ptr()) }
}

/// Allocates a folio of `2^order` pages. It is the caller's, by one reference.
#[inline(never)]
pub(super) fn folio_alloc(flags: Flags, order: u32) -> Option<NonNull<bindings::page>> {
    // SAFETY: It has no duties but those of the context, which `flags` say.
    NonNull::new(unsafe { bindings::tlb_batch_folio_alloc(flags.as_raw(), order) })
}

/// Puts a reference to the folio of which `page` is the first.
///
/// # Safety
///
/// The reference must be the caller's, and not be used afterwards.
#[inline(never)]
pub(super) unsafe fn folio_put(page: &Page) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_folio_put(page.as_ptr()) }
}

/// A page that is to be mapped by a fault, and those of its folio before it and behind it.
#[derive(Clone, Copy)]
pub(super) struct Around {
    /// That is touched.
    pub(super) page: *mut bindings::page,
    /// How many there are before it.
    pub(super) nr_before: u32,
    /// How many there are behind it.
    pub(super) nr_behind: u32,
}

/// # Safety
///
/// - `vmf` must belong to a fault that is being handled in this task, in a `VM_MIXEDMAP` VMA that is
///   not copy-on-write.
/// - `around` must be pages of one folio, which is valid.
#[inline(never)]
pub(super) unsafe fn insert_page(
    vmf: *mut bindings::vm_fault,
    around: Around,
    write: bool,
) -> bindings::vm_fault_t {
    let Around {
        page,
        nr_before,
        nr_behind,
    } = around;
    // SAFETY: As promised by the caller. The PTEs get references of their own.
    unsafe { bindings::tlb_batch_insert_page(vmf, page, nr_before, nr_behind, write) }
}

/// # Safety
///
/// As [`insert_page`], but in a `VM_PFNMAP` VMA. The folio must be kept until the PTEs, and their
/// copies, are gone and flushed.
#[inline(never)]
pub(super) unsafe fn insert_pfn(
    vmf: *mut bindings::vm_fault,
    around: Around,
) -> bindings::vm_fault_t {
    let Around {
        page,
        nr_before,
        nr_behind,
    } = around;
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_insert_pfn(vmf, page, nr_before, nr_behind) }
}

/// # Safety
///
/// As [`insert_pfn`], of `pages`, each of its own, of which number `nth` is touched: that many must there
/// be.
#[inline(never)]
pub(super) unsafe fn insert_pfns(
    vmf: *mut bindings::vm_fault,
    pages: &[NonNull<bindings::page>],
    nth: usize,
) -> bindings::vm_fault_t {
    let nr = pages.len() as u32;
    // A list of `NonNull` is one of pointers.
    let pages = pages.as_ptr().cast();
    // SAFETY: As promised by the caller. The list is read, and not kept.
    unsafe { bindings::tlb_batch_insert_pfns(vmf, pages, nth as u32, nr) }
}

/// # Safety
///
/// `vmf` must belong to a `page_mkwrite` that is being handled in this task.
#[inline(never)]
pub(super) unsafe fn lock_page(vmf: *mut bindings::vm_fault) {
    // SAFETY: The caller promises that `vmf` names a page.
    unsafe { bindings::tlb_batch_lock_page(vmf) }
}

/// # Safety
///
/// This task must have called [`lock_page`], and not unlocked the page since.
#[inline(never)]
pub(super) unsafe fn unlock_page(vmf: *mut bindings::vm_fault) {
    // SAFETY: The caller promises that the page is locked.
    unsafe { bindings::tlb_batch_unlock_page(vmf) }
}
