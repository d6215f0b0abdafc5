// SPDX-License-Identifier: GPL-2.0

//! Shims for whom memory is charged to.
//!
//! C header: [`include/linux/tlb_charge.h`](srctree/include/linux/tlb_charge.h), contracts in
//! [`mm/rust_tlb/charge.c`](srctree/mm/rust_tlb/charge.c).

use crate::bindings;
use core::ptr::NonNull;

/// Pins the cgroup of the current task; null if there is none that pays.
#[inline(never)]
pub(in crate::mm) fn charge_get_current() -> *mut bindings::obj_cgroup {
    // SAFETY: Looks at the current task, and takes a reference.
    unsafe { bindings::tlb_charge_get_current() }
}

/// # Safety
///
/// `payer` must come from [`charge_get_current`], and not be used afterwards.
#[inline(never)]
pub(in crate::mm) unsafe fn charge_put(payer: *mut bindings::obj_cgroup) {
    // SAFETY: The caller gives up a reference that it owns.
    unsafe { bindings::tlb_charge_put(payer) }
}

/// # Safety
///
/// - `payer` must come from [`charge_get_current`], and not have been put.
/// - This task must call [`charge_end`] with what this returns.
#[inline(never)]
pub(in crate::mm) unsafe fn charge_begin(
    payer: *mut bindings::obj_cgroup,
) -> *mut bindings::mem_cgroup {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_charge_begin(payer) }
}

/// # Safety
///
/// `before` must be what the last [`charge_begin`] of this task returned that was not ended.
#[inline(never)]
pub(in crate::mm) unsafe fn charge_end(before: *mut bindings::mem_cgroup) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_charge_end(before) }
}

/// # Safety
///
/// `payer` must come from [`charge_get_current`], and not have been put.
#[inline(never)]
pub(in crate::mm) unsafe fn charge_is_wanted(
    payer: *mut bindings::obj_cgroup,
    control: &bindings::shrink_control,
) -> bool {
    // SAFETY: As promised by the caller; `control` is a reference.
    unsafe { bindings::tlb_charge_is_wanted(payer, control) }
}

/// # Safety
///
/// - `payer` must come from [`charge_get_current`], and not have been put.
/// - `shrinker` must be registered.
#[inline(never)]
pub(in crate::mm) unsafe fn charge_tell(
    payer: *mut bindings::obj_cgroup,
    shrinker: NonNull<bindings::shrinker>,
) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_charge_tell(payer, shrinker.as_ptr()) }
}

/// Tells reclaim, if it is this task, that it has got `nr_pages`.
#[inline(never)]
pub(in crate::mm) fn account_reclaimed(nr_pages: usize) {
    // SAFETY: Changes what belongs to the current task.
    unsafe { bindings::tlb_charge_account_reclaimed(nr_pages) }
}
