// SPDX-License-Identifier: GPL-2.0

//! Locks for the pure files: the kernel's macros expand to `unsafe`, which those forbid.
//!
//! A lock has a class, and that one name. What is generic here is compiled into the module that uses it,
//! and a literal with it, but not the class: lockdep would see the class of a lock of the kernel with
//! another name. So the names are statics.

use crate::{
    alloc::Flags,
    prelude::*,
    static_lock_class,
    sync::{
        Mutex,
        SpinLock, //
    }, //
};

static SPINLOCK: &CStr = c"rust_tlb_spinlock";
static MUTEX: &CStr = c"rust_tlb_mutex";

/// Allocates a spinlock.
pub(super) fn spinlock<T>(value: T, flags: Flags) -> Result<Pin<KBox<SpinLock<T>>>> {
    let lock = SpinLock::new(value, SPINLOCK, static_lock_class!());
    KBox::pin_init(lock, flags)
}

/// Allocates a mutex.
pub(super) fn mutex<T>(value: T, flags: Flags) -> Result<Pin<KBox<Mutex<T>>>> {
    let lock = Mutex::new(value, MUTEX, static_lock_class!());
    KBox::pin_init(lock, flags)
}
