// SPDX-License-Identifier: GPL-2.0

//! Shims for the kernel's own gather; contracts in
//! [`mm/rust_tlb/gather.c`](srctree/mm/rust_tlb/gather.c).

use crate::{
    bindings,
    ffi::c_void,
    mm::{
        range::PageRange,
        Mm, //
    }, //
};
use core::ptr::NonNull;

/// What zaps under a gather.
pub(in crate::mm) type Zap = unsafe extern "C" fn(*mut bindings::mmu_gather, *mut c_void);

/// Calls `zap` with a gather of `mm` and `data`, then flushes.
///
/// # Safety
///
/// - `zap` must be fit to be called once with `data`, in this task.
/// - It must not use the gather after it has returned.
#[inline(never)]
pub(in crate::mm) unsafe fn gather(mm: &Mm, zap: Zap, data: *mut c_void) {
    // SAFETY: `mm` is a reference, so it is not freed. What is zapped under the gather is as
    // promised by the caller. In another context than documented, `might_sleep()` reports; no
    // memory is at risk.
    unsafe { bindings::tlb_batch_gather(mm.as_raw(), Some(zap), data) }
}

/// # Safety
///
/// - `gather` must be open.
/// - `vma` must be valid, and locked: by its file's rmap, its own lock or the `mmap_lock`.
/// - It must be of the gather's mm, and `range` lie within it.
#[inline(never)]
pub(in crate::mm) unsafe fn gather_zap(
    gather: NonNull<bindings::mmu_gather>,
    vma: *mut bindings::vm_area_struct,
    range: PageRange,
) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_gather_zap(gather.as_ptr(), vma, range.start(), range.end()) }
}

/// Takes empty page tables out, too; returns whether that could be tried.
///
/// # Safety
///
/// As [`gather_zap`].
#[inline(never)]
pub(in crate::mm) unsafe fn gather_zap_tables(
    gather: NonNull<bindings::mmu_gather>,
    vma: *mut bindings::vm_area_struct,
    range: PageRange,
) -> bool {
    let (start, end) = (range.start(), range.end());
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_gather_zap_tables(gather.as_ptr(), vma, start, end) }
}
