// SPDX-License-Identifier: GPL-2.0

//! Shims for what calls back: deadlines and shrinkers.

use crate::{
    bindings,
    ffi::c_void,
    prelude::*, //
};
use core::ptr::NonNull;

/// # Safety
///
/// - `deadline` must be valid for writes, and pinned until [`deadline_cancel`].
/// - `expired` must be fit to be called with `data` until then, from another task.
#[inline(never)]
pub(in crate::mm) unsafe fn deadline_init(
    deadline: *mut bindings::tlb_batch_deadline,
    expired: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_deadline_init(deadline, Some(expired), data) }
}

/// # Safety
///
/// `deadline` must be initialised.
#[inline(never)]
pub(in crate::mm) unsafe fn deadline_start(
    deadline: *mut bindings::tlb_batch_deadline,
    delay_ms: u32,
) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_deadline_start(deadline, delay_ms) }
}

/// # Safety
///
/// `deadline` must be initialised.
#[inline(never)]
pub(in crate::mm) unsafe fn deadline_start_once(
    deadline: *mut bindings::tlb_batch_deadline,
    delay_ms: u32,
) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_deadline_start_once(deadline, delay_ms) }
}

/// # Safety
///
/// `deadline` must be initialised, and this not be called by its function.
#[inline(never)]
pub(in crate::mm) unsafe fn deadline_cancel(deadline: *mut bindings::tlb_batch_deadline) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_deadline_cancel(deadline) }
}

/// Allocates a shrinker, and does not register it.
#[inline(never)]
pub(in crate::mm) fn shrinker_alloc(name: &'static CStr) -> Option<NonNull<bindings::shrinker>> {
    // SAFETY: `name` is a valid string, which is copied.
    NonNull::new(unsafe { bindings::tlb_charge_shrinker_alloc(name.as_char_ptr()) })
}

/// # Safety
///
/// `shrinker` must come from [`shrinker_alloc`], be filled in, and not be registered.
#[inline(never)]
pub(in crate::mm) unsafe fn shrinker_register(shrinker: NonNull<bindings::shrinker>) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::shrinker_register(shrinker.as_ptr()) }
}

/// Frees a shrinker, after its functions have returned for the last time.
///
/// # Safety
///
/// `shrinker` must come from [`shrinker_alloc`], and not be used afterwards.
#[inline(never)]
pub(in crate::mm) unsafe fn shrinker_free(shrinker: NonNull<bindings::shrinker>) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::shrinker_free(shrinker.as_ptr()) }
}
