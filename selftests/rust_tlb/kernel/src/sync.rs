// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/sync.rs` as the pure files use, over the standard library.

use crate::alloc::{AllocError, Flags};
use std::{
    ops::{Deref, DerefMut},
    sync::{self, PoisonError},
};

pub mod atomic;
pub mod barrier;
#[cfg(test)]
pub(crate) mod interleavings;
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

/// As the kernel's `Mutex`, which knows no poison. Where all interleavings are gone through, it is loom's.
pub struct Mutex<T>(Lock<T>);

enum Lock<T> {
    Std(sync::Mutex<T>),
    #[cfg(test)]
    Loom(loom::sync::Mutex<T>),
}

// Nothing points into it.
impl<T> Unpin for Mutex<T> {}

/// As the kernel's `SpinLock`: it excludes others as well.
pub type SpinLock<T> = Mutex<T>;

impl<T> Mutex<T> {
    /// Makes an unlocked mutex.
    pub fn new(value: T) -> Self {
        #[cfg(test)]
        if interleavings::are_gone_through() {
            return Self(Lock::Loom(loom::sync::Mutex::new(value)));
        }
        Self(Lock::Std(sync::Mutex::new(value)))
    }

    /// Waits for the mutex.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match &self.0 {
            Lock::Std(lock) => MutexGuard::Std(lock.lock().unwrap_or_else(PoisonError::into_inner)),
            #[cfg(test)]
            Lock::Loom(lock) => MutexGuard::Loom(lock.lock().expect("no thread of a model panics")),
        }
    }
}

/// A mutex, locked.
pub enum MutexGuard<'a, T> {
    /// The standard library's.
    Std(sync::MutexGuard<'a, T>),
    /// Loom's.
    #[cfg(test)]
    Loom(loom::sync::MutexGuard<'a, T>),
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Std(guard) => guard,
            #[cfg(test)]
            Self::Loom(guard) => guard,
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Std(guard) => guard,
            #[cfg(test)]
            Self::Loom(guard) => guard,
        }
    }
}
