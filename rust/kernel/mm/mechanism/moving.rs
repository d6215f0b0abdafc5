// SPDX-License-Identifier: GPL-2.0

//! Shims for moves of PTEs between two mappings of a process.
//!
//! C header: [`include/linux/tlb_move.h`](srctree/include/linux/tlb_move.h), contracts in
//! [`mm/rust_tlb/move.c`](srctree/mm/rust_tlb/move.c).

use super::RawTable;
#[cfg(CONFIG_RUST_TLB_FAULTS)]
use crate::page::Page;
use crate::{
    bindings,
    error::to_result,
    mm::{
        pte::{
            Look,
            PageState,
            Pte, //
        },
        range::PageRange,
        Mm,
        MmWithUser, //
    },
    prelude::*, //
};
use core::ptr::NonNull;

/// A page table that can be moved as it is, locked.
pub(in crate::mm) type RawWhole = bindings::tlb_move_whole;

/// Locks the address space for writing.
///
/// # Errors
///
/// - `EINTR`: the task is being killed.
#[inline(never)]
pub(in crate::mm) fn mmap_write_lock(mm: &MmWithUser) -> Result {
    // SAFETY: `mm` is a reference. In a context that must not sleep, or with the lock held, lockdep
    // reports; no memory is at risk.
    to_result(unsafe { bindings::tlb_move_lock(mm.as_raw()) })
}

/// # Safety
///
/// This task must have called [`mmap_write_lock`], and not unlocked since.
#[inline(never)]
pub(in crate::mm) unsafe fn mmap_write_unlock(mm: &MmWithUser) {
    // SAFETY: The caller promises that it is locked.
    unsafe { bindings::tlb_move_unlock(mm.as_raw()) }
}

/// Finds the VMA at `addr`, and write-locks it, too.
///
/// # Safety
///
/// [`mmap_write_lock`] must be held. What is returned is valid as long as it is.
#[inline(never)]
pub(in crate::mm) unsafe fn vma_write_locked(
    mm: &MmWithUser,
    addr: usize,
) -> Option<NonNull<bindings::vm_area_struct>> {
    // SAFETY: The caller promises the lock.
    NonNull::new(unsafe { bindings::tlb_move_vma(mm.as_raw(), addr) })
}

/// Checks that a PTE that is right in one VMA is right in the other.
///
/// # Errors
///
/// - `EXDEV`: they are of two processes, files, or drivers' data.
/// - `EACCES`: they are protected differently.
///
/// # Safety
///
/// Both must be valid, map a file, and their `mmap_lock` be held.
#[inline(never)]
pub(in crate::mm) unsafe fn check_vmas(
    from: *const bindings::vm_area_struct,
    to: *const bindings::vm_area_struct,
) -> Result {
    // SAFETY: As promised by the caller.
    to_result(unsafe { bindings::tlb_move_check(from, to) })
}

/// Makes the upper page tables for `addr`, and with `table` the lowest.
///
/// # Safety
///
/// `vma` must be valid and contain `addr`, and its `mmap_lock` be held.
#[inline(never)]
pub(in crate::mm) unsafe fn prepare_table(
    vma: *mut bindings::vm_area_struct,
    addr: usize,
    table: bool,
) -> Result {
    // SAFETY: As promised by the caller.
    to_result(unsafe { bindings::tlb_move_prepare(vma, addr, table) })
}

/// Locks the rmap of the file of `vma` for writing.
///
/// # Safety
///
/// `vma` must be valid until [`rmap_write_unlock`], and map a file.
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_write_lock(vma: *mut bindings::vm_area_struct) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_move_rmap_lock(vma) }
}

/// # Safety
///
/// This task must have called [`rmap_write_lock`] on `vma`, and not unlocked it since.
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_write_unlock(vma: *mut bindings::vm_area_struct) {
    // SAFETY: The caller promises that it is locked.
    unsafe { bindings::tlb_move_rmap_unlock(vma) }
}

/// Locks a page table while `beside` is locked, maybe by the same lock.
///
/// # Safety
///
/// - `vma` must be valid, contain `addr`, and be of the process of `beside`, whose `mmap_lock` is held
///   for writing.
/// - `beside` must be locked by this task, and remain so until what is returned is unlocked.
#[inline(never)]
pub(in crate::mm) unsafe fn pte_lock_beside(
    vma: *mut bindings::vm_area_struct,
    addr: usize,
    beside: &RawTable,
) -> Option<RawTable> {
    let mut table = RawTable::default();
    // SAFETY: As promised by the caller. `table` is written, and may be moved.
    let is_locked = unsafe { bindings::tlb_move_pte_lock(&raw mut table, vma, addr, beside) };
    is_locked.then_some(table)
}

/// Reads a PTE.
///
/// # Safety
///
/// `pte` must be an entry of a page table that is locked, and that stays so for as long as what is
/// returned is used: the caller gives it a lifetime that ends before.
#[inline(never)]
pub(in crate::mm) unsafe fn read_pte(pte: *mut bindings::pte_t) -> Pte<'static> {
    // SAFETY: As promised by the caller.
    let found = unsafe { bindings::tlb_move_read(pte) };
    Pte::new(found.pfn, found.present, found.dirty)
}

/// Moves a PTE, if there is one, and nothing where it goes to; returns whether it did.
///
/// # Safety
///
/// - `from`, and the table of `new_pte`, must be locked by this task, in one process, whose `mmap_lock`
///   is held for writing.
/// - `pte` must be the entry of `old` in `from`, and `new_pte` that of `new`.
/// - Before the page is reused, `old` must be flushed.
#[inline(never)]
pub(in crate::mm) unsafe fn move_pte(
    from: &RawTable,
    old: usize,
    pte: *mut bindings::pte_t,
    new: usize,
    new_pte: *mut bindings::pte_t,
) -> bool {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_move_pte(from, old, pte, new, new_pte) }
}

/// Locks a page table at `old`, and its places there and at `new`.
///
/// # Safety
///
/// - Both VMAs must be valid, of one process, whose `mmap_lock` is held for writing.
/// - Each must contain all that a page table maps from `old` and from `new`.
/// - [`rmap_write_lock`] must be held.
#[inline(never)]
pub(in crate::mm) unsafe fn whole_lock(
    from: *mut bindings::vm_area_struct,
    old: usize,
    to: *mut bindings::vm_area_struct,
    new: usize,
) -> Option<RawWhole> {
    let mut whole = RawWhole::default();
    // SAFETY: As promised by the caller. `whole` is written, and may be moved.
    let is_locked = unsafe { bindings::tlb_move_whole_lock(&raw mut whole, from, old, to, new) };
    is_locked.then_some(whole)
}

/// # Safety
///
/// - `whole` must come from [`whole_lock`], and not have been moved or unlocked yet.
/// - Before any of its pages is reused, all that it mapped must be flushed.
#[inline(never)]
pub(in crate::mm) unsafe fn whole_move(whole: &mut RawWhole) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_move_whole_move(whole) }
}

/// # Safety
///
/// `whole` must come from [`whole_lock`] in this task, and not have been unlocked yet.
#[inline(never)]
pub(in crate::mm) unsafe fn whole_unlock(whole: &mut RawWhole) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_move_whole_unlock(whole) }
}

/// Flushes what others owe `mm` and have noted.
#[inline(never)]
pub(in crate::mm) fn settle_others(mm: &Mm) {
    // SAFETY: `mm` is a reference. Can be called under page-table locks.
    unsafe { bindings::tlb_move_settle_others(mm.as_raw()) }
}

/// Flushes `range` of `mm`.
#[inline(never)]
pub(in crate::mm) fn flush_range(mm: &Mm, range: PageRange) {
    // SAFETY: `mm` is a reference. Can be called under page-table locks, with IRQs on.
    unsafe { bindings::tlb_batch_flush_mm_range(mm.as_raw(), range.start(), range.end()) }
}

/// Looks at the page of a PTE, and does not wait.
#[inline(never)]
pub(in crate::mm) fn look_at_page(pte: Pte<'_>) -> Look {
    // SAFETY: A `Pte` comes from a table that is locked as long as it exists.
    let found = unsafe { bindings::tlb_move_look(pte.pfn()) };
    match found {
        bindings::TLB_MOVE_NO_PAGE => Look::NoPage,
        bindings::TLB_MOVE_LOCKED => Look::Locked,
        _ => Look::Page(PageState {
            bad: found & bindings::TLB_MOVE_BAD != 0,
            has_rmap: found & bindings::TLB_MOVE_RMAP != 0,
            writeback: found & bindings::TLB_MOVE_WRITEBACK != 0,
        }),
    }
}

/// Takes a reference to the page of a PTE, if there is one.
#[inline(never)]
pub(in crate::mm) fn pin_page(pte: Pte<'_>) -> Option<NonNull<bindings::page>> {
    // SAFETY: As in `look_at_page`.
    NonNull::new(unsafe { bindings::tlb_move_pin(pte.pfn()) })
}

/// # Safety
///
/// The caller must own a reference from [`pin_page`], and not use it afterwards.
#[inline(never)]
pub(in crate::mm) unsafe fn unpin_page(page: NonNull<bindings::page>) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_move_unpin(page.as_ptr()) }
}

/// Locks `page`, as somebody else who works on it, if it is not locked; returns it, with a reference,
/// if it did.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
#[inline(never)]
pub(in crate::mm) fn try_lock_page(page: &Page) -> Option<NonNull<bindings::page>> {
    // SAFETY: A `Page` is valid and holds a reference.
    let is_locked = unsafe { bindings::tlb_move_page_trylock(page.as_ptr()) };
    NonNull::new(page.as_ptr()).filter(|_| is_locked)
}

/// # Safety
///
/// `page` must come from [`try_lock_page`], and not be used afterwards.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
#[inline(never)]
pub(in crate::mm) unsafe fn unlock_tried_page(page: NonNull<bindings::page>) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_move_page_unlock(page.as_ptr()) }
}
