// SPDX-License-Identifier: GPL-2.0

//! Shims for the address spaces of open files, and for the VMAs in them.
//!
//! C header: [`include/linux/tlb_mapping.h`](srctree/include/linux/tlb_mapping.h), contracts in
//! [`mm/rust_tlb/mapping.c`](srctree/mm/rust_tlb/mapping.c).

use crate::bindings;
use core::ptr::NonNull;

/// Makes an address space, with one reference.
#[inline(never)]
pub(in crate::mm) fn mapping_new() -> Option<NonNull<bindings::address_space>> {
    // SAFETY: Can be called in any context that may sleep.
    NonNull::new(unsafe { bindings::tlb_mapping_new() })
}

/// # Safety
///
/// `mapping` must come from [`mapping_new`], and a reference to it be held.
#[inline(never)]
pub(in crate::mm) unsafe fn mapping_get(mapping: *mut bindings::address_space) {
    // SAFETY: The caller promises that a reference is held.
    unsafe { bindings::tlb_mapping_get(mapping) }
}

/// # Safety
///
/// The caller must own a reference to `mapping`, and not use it afterwards.
#[inline(never)]
pub(in crate::mm) unsafe fn mapping_put(mapping: *mut bindings::address_space) {
    // SAFETY: The caller gives up a reference that it owns.
    unsafe { bindings::tlb_mapping_put(mapping) }
}

/// # Safety
///
/// - `file` must be undergoing its initialisation.
/// - `mapping` must come from [`mapping_new`], and a reference to it be held until `file` is
///   released.
#[inline(never)]
pub(in crate::mm) unsafe fn mapping_install(
    file: *mut bindings::file,
    mapping: *mut bindings::address_space,
) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_mapping_install(file, mapping) }
}

/// # Safety
///
/// `mapping` must be valid until [`rmap_unlock`].
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_lock(mapping: *mut bindings::address_space) {
    // SAFETY: The caller promises a valid `mapping`.
    unsafe { bindings::tlb_batch_rmap_lock(mapping) }
}

/// As [`rmap_lock`], if it can be done without waiting. Returns whether it was.
///
/// # Safety
///
/// `mapping` must be valid, and if it was locked, until [`rmap_unlock`].
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_trylock(mapping: *mut bindings::address_space) -> bool {
    // SAFETY: The caller promises a valid `mapping`.
    unsafe { bindings::tlb_batch_rmap_trylock(mapping) }
}

/// # Safety
///
/// This task must have locked `mapping`, by [`rmap_lock`] or [`rmap_trylock`], and not unlocked it
/// since.
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_unlock(mapping: *mut bindings::address_space) {
    // SAFETY: The caller promises that the lock is held.
    unsafe { bindings::tlb_batch_rmap_unlock(mapping) }
}

/// Returns the first VMA that ends behind `addr`.
///
/// # Safety
///
/// The `mmap_lock` of `mm` must be held. What is returned is valid as long as it is.
#[inline(never)]
pub(in crate::mm) unsafe fn vma_behind(
    mm: *mut bindings::mm_struct,
    addr: usize,
) -> Option<NonNull<bindings::vm_area_struct>> {
    // SAFETY: The caller promises a valid `mm`, whose `mmap_lock` is held.
    NonNull::new(unsafe { bindings::find_vma(mm, addr) })
}

/// # Safety
///
/// `mapping` must be locked. What is returned is valid as long as it is.
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_first(
    mapping: *mut bindings::address_space,
    first: usize,
    last: usize,
) -> Option<NonNull<bindings::vm_area_struct>> {
    // SAFETY: The caller promises that the lock is held.
    NonNull::new(unsafe { bindings::tlb_batch_rmap_first(mapping, first, last) })
}

/// # Safety
///
/// `vma` must come from [`rmap_first`] or this function, with the same offsets, under a lock that
/// is still held. What is returned is valid as long as it is.
#[inline(never)]
pub(in crate::mm) unsafe fn rmap_next(
    vma: NonNull<bindings::vm_area_struct>,
    first: usize,
    last: usize,
) -> Option<NonNull<bindings::vm_area_struct>> {
    // SAFETY: The caller promises that `vma` is in the tree and that the tree is locked.
    NonNull::new(unsafe { bindings::tlb_batch_rmap_next(vma.as_ptr(), first, last) })
}
