// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/sync/atomic.rs` as the pure files use, over the standard library.
//!
//! `Full` is as strong as the kernel's: a full barrier before, and one after.

use super::memory;
use std::sync::atomic::{AtomicU64, Ordering};

/// As the kernel's.
pub struct Acquire;
/// As the kernel's.
pub struct Full;
/// As the kernel's.
pub struct Relaxed;
/// As the kernel's.
pub struct Release;

/// What a load may be.
pub trait AcquireOrRelaxed {
    /// What the standard library calls it.
    const LOAD: Ordering;
}

/// What a store may be.
pub trait ReleaseOrRelaxed {
    /// What the standard library calls it.
    const STORE: Ordering;
}

impl AcquireOrRelaxed for Acquire {
    const LOAD: Ordering = Ordering::Acquire;
}

impl AcquireOrRelaxed for Relaxed {
    const LOAD: Ordering = Ordering::Relaxed;
}

impl ReleaseOrRelaxed for Release {
    const STORE: Ordering = Ordering::Release;
}

impl ReleaseOrRelaxed for Relaxed {
    const STORE: Ordering = Ordering::Relaxed;
}

/// What can be atomic.
pub trait AtomicType {
    /// What the standard library calls it.
    type Repr;
}

impl AtomicType for u64 {
    type Repr = AtomicU64;
}

/// As the kernel's.
pub struct Atomic<T: AtomicType>(T::Repr);

impl Atomic<u64> {
    /// As the kernel's.
    pub const fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// As the kernel's.
    pub fn load<O: AcquireOrRelaxed>(&self, _: O) -> u64 {
        memory::load(&self.0, O::LOAD)
    }

    /// As the kernel's.
    pub fn store<O: ReleaseOrRelaxed>(&self, value: u64, _: O) {
        memory::store(&self.0, value, O::STORE);
    }

    /// As the kernel's.
    pub fn fetch_add(&self, value: u64, _: Full) -> u64 {
        self.update(|before| before.wrapping_add(value))
    }

    /// As the kernel's.
    pub fn fetch_sub(&self, value: u64, _: Full) -> u64 {
        self.update(|before| before.wrapping_sub(value))
    }

    fn update(&self, change: impl Fn(u64) -> u64) -> u64 {
        let mut before = self.load(Relaxed);
        while let Err(seen) = self.cmpxchg(before, change(before), Full) {
            before = seen;
        }
        before
    }

    /// As the kernel's, which is a full barrier only if it succeeds.
    ///
    /// # Errors
    ///
    /// - What was there, if that is not `old`.
    pub fn cmpxchg(&self, old: u64, new: u64, _: Full) -> Result<u64, u64> {
        memory::fence(Ordering::SeqCst);
        let orders = [Ordering::SeqCst, Ordering::Relaxed];
        let result = memory::compare_exchange(&self.0, old, new, orders);
        if result.is_ok() {
            memory::fence(Ordering::SeqCst);
        }
        result
    }
}
