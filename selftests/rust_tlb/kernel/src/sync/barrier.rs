// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/sync/barrier.rs` as the pure files use, over the standard library.

use super::memory;
use std::sync::atomic::Ordering;

/// As the kernel's.
pub struct Read;

/// What a barrier may be.
pub trait Barrier {
    /// At least as strong.
    const FENCE: Ordering;
}

impl Barrier for Read {
    const FENCE: Ordering = Ordering::Acquire;
}

/// As the kernel's.
pub fn smp_mb<B: Barrier>(_: B) {
    memory::fence(B::FENCE);
}
