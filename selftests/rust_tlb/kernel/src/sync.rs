// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/sync.rs` as the pure files use, over the standard library.

use crate::alloc::{AllocError, Flags};
use std::{
    ops::Deref,
    sync::{self, MutexGuard, PoisonError},
};

pub mod atomic;
pub mod barrier;
pub(crate) mod memory;

/// As the kernel's `Arc`.
pub struct Arc<T>(sync::Arc<T>);

impl<T> Arc<T> {
    /// Never fails on the host.
    pub fn new(value: T, _flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(sync::Arc::new(value)))
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// As the kernel's `Mutex`, which knows no poison.
pub struct Mutex<T>(sync::Mutex<T>);

// Nothing points into it.
impl<T> Unpin for Mutex<T> {}

/// As the kernel's `SpinLock`: it excludes others as well.
pub type SpinLock<T> = Mutex<T>;

impl<T> Mutex<T> {
    /// Makes an unlocked mutex.
    pub fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    /// Waits for the mutex.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
