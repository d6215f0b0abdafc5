// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: what a driver gives back when memory is short.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)

use super::mechanism;
use crate::{
    bindings,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};
use core::ptr::NonNull;

/// A cache that can be shrunk.
///
/// Both functions run in whatever task needs memory, with whatever locks it holds: of the driver's
/// own locks, they may only try those under which the driver allocates. Several tasks can be in
/// them at a time.
pub trait Shrink: Send + Sync + 'static {
    /// Returns how many objects could be freed; `0` if that is not known now.
    ///
    /// # Context
    ///
    /// Process context. Must not sleep for long.
    fn count(this: ArcBorrow<'_, Self>) -> usize;

    /// Frees up to `nr_to_scan` objects, and returns how many, or [`None`] if it cannot get on, for
    /// example because a lock is taken.
    ///
    /// # Context
    ///
    /// Process context, may sleep. Must not allocate in a way that reclaims.
    fn scan(this: ArcBorrow<'_, Self>, nr_to_scan: usize) -> Option<usize>;
}

/// `SHRINK_STOP`, which bindgen takes for an `i32`.
const STOP: c_ulong = c_ulong::MAX;

/// A shrinker that memory pressure knows of, until it is dropped.
///
/// # Invariants
///
/// `raw` is registered, and its private data point to `data`.
pub struct Shrinker<T: Shrink> {
    raw: NonNull<bindings::shrinker>,
    _data: Arc<T>,
}

// SAFETY: It can be freed from any thread, and `T` is `Send` and `Sync`.
unsafe impl<T: Shrink> Send for Shrinker<T> {}

// SAFETY: Nothing can be done with a reference.
unsafe impl<T: Shrink> Sync for Shrinker<T> {}

impl<T: Shrink> Shrinker<T> {
    /// Registers a shrinker for `data`.
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there is no memory for it.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn register(name: &'static CStr, data: Arc<T>) -> Result<Self> {
        let raw = mechanism::shrinker_alloc(name).ok_or(ENOMEM)?;
        let raw_data = Arc::as_ptr(&data).cast_mut().cast();
        // SAFETY: It was just allocated; these are the fields to be filled in. The functions are of
        // the module that this code was compiled into, and are done with when `drop` returns.
        unsafe {
            (*raw.as_ptr()).count_objects = Some(Self::count);
            (*raw.as_ptr()).scan_objects = Some(Self::scan);
            (*raw.as_ptr()).private_data = raw_data;
            mechanism::shrinker_register(raw);
        }
        // INVARIANT: It was registered, with a pointer to `data`.
        Ok(Self { raw, _data: data })
    }

    /// # Safety
    ///
    /// `raw` must be that of a `Shrinker<T>`.
    unsafe fn data<'a>(raw: *mut bindings::shrinker) -> ArcBorrow<'a, T> {
        // SAFETY: The data are kept until the shrinker is freed, which waits for its functions.
        unsafe { ArcBorrow::from_raw((*raw).private_data.cast_const().cast()) }
    }

    /// # Safety
    ///
    /// As `data`.
    unsafe extern "C" fn count(
        raw: *mut bindings::shrinker,
        _control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As promised by the caller.
        T::count(unsafe { Self::data(raw) })
    }

    /// # Safety
    ///
    /// As `data`; `control` must be valid.
    unsafe extern "C" fn scan(
        raw: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As promised by the caller.
        let (data, nr_to_scan) = unsafe { (Self::data(raw), (*control).nr_to_scan) };
        T::scan(data, nr_to_scan).unwrap_or(STOP)
    }
}

impl<T: Shrink> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: It is registered by the type invariants, and not used afterwards.
        unsafe { mechanism::shrinker_free(self.raw) }
    }
}
