// SPDX-License-Identifier: GPL-2.0

//! As `rust/kernel/mm/tlb/locks.rs`.

use crate::{
    alloc::{Flags, KBox},
    prelude::*,
    sync::{Mutex, SpinLock},
};
use std::pin::Pin;

pub(super) fn spinlock<T>(value: T, flags: Flags) -> Result<Pin<KBox<SpinLock<T>>>> {
    Ok(KBox::pin(Mutex::new(value), flags)?)
}

pub(super) fn mutex<T>(value: T, flags: Flags) -> Result<Pin<KBox<Mutex<T>>>> {
    Ok(KBox::pin(Mutex::new(value), flags)?)
}
