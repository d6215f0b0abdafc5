// SPDX-License-Identifier: GPL-2.0

//! Whether a flush is owed for a mapping: a count, up before the first PTE is cleared, and down
//! after the flush has returned.
//!
//! Who is about to change what a mapping shows asks this count, and not the address space: a flush
//! that is owed for another mapping of it costs nothing. A [ring](super::ring) cannot be asked. As
//! long as a flush is only owed, it is not in there; and a generation that is published is one whose
//! flush has begun, not ended.
//!
//! | who unmaps                        | who asks                         |
//! |-----------------------------------|----------------------------------|
//! | count up                          | page-table lock: finds no PTE    |
//! | page-table lock: clears PTEs      | unlock                           |
//! | the flush returns                 | reads the count, acquire         |
//! | count down                        | none owed: the flush has ended   |
//!
//! The count goes up before the page-table lock is taken, and so before whoever finds the PTE gone
//! takes it after; it goes down by a full barrier, whose partner is the acquire. Litmus:
//! `tlb-ring-pending`.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use core::ops::Deref;
use kernel::sync::atomic::{
    Acquire,
    Atomic,
    Full, //
};

/// Flushes that are owed for one mapping, by any number of batches.
pub struct OwedCount(Atomic<u64>);

impl OwedCount {
    /// None is owed.
    pub const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Returns whether one is owed. If not, whatever was cleared before has been flushed, from all
    /// CPUs. If so, which pages it is for the owner of the mapping has to know.
    ///
    /// # Context
    ///
    /// Any; after the page-table lock under which no PTE was found.
    pub fn is_owed(&self) -> bool {
        self.0.load(Acquire) != 0
    }
}

impl Default for OwedCount {
    fn default() -> Self {
        Self::new()
    }
}

/// One flush that is owed: to be made before the first PTE is cleared, and dropped after the flush.
pub struct Owing<C: Deref<Target = OwedCount>>(C);

impl<C: Deref<Target = OwedCount>> Owing<C> {
    /// Counts one more.
    pub fn new(count: C) -> Self {
        count.0.fetch_add(1, Full);
        Self(count)
    }
}

impl<C: Deref<Target = OwedCount>> Drop for Owing<C> {
    fn drop(&mut self) {
        self.0 .0.fetch_sub(1, Full);
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_owed))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;

    #[test]
    fn as_long_as_one_is_owed() {
        let count = OwedCount::new();
        assert!(!count.is_owed());
        let one = Owing::new(&count);
        let two = Owing::new(&count);
        drop(one);
        assert!(count.is_owed());
        drop(two);
        assert!(!count.is_owed());
    }
}
