// SPDX-License-Identifier: GPL-2.0

//! Locks for the pure files: the kernel's macros expand to `unsafe`, which those forbid.

use crate::{
    alloc::Flags,
    prelude::*,
    sync::{
        new_mutex,
        new_spinlock,
        Mutex,
        SpinLock, //
    }, //
};

/// Allocates a spinlock.
pub(super) fn spinlock<T>(value: T, flags: Flags) -> Result<Pin<KBox<SpinLock<T>>>> {
    KBox::pin_init(new_spinlock!(value), flags)
}

/// Allocates a mutex.
pub(super) fn mutex<T>(value: T, flags: Flags) -> Result<Pin<KBox<Mutex<T>>>> {
    KBox::pin_init(new_mutex!(value), flags)
}
