// SPDX-License-Identifier: GPL-2.0

//! How to flush what is pending: the one decision of the precise policy.
//!
//! | address spaces | their ranges         | range of this one | flush                            |
//! |----------------|----------------------|-------------------|----------------------------------|
//! | at most max    | any                  | up to the ceiling | [`Ranged`]: one round per mm     |
//! | 1              | above the ceiling    | above the ceiling | [`Full`]: one round              |
//! | at most max    | not all above it     | above the ceiling | [`Full`]: one round per mm       |
//! | 2 to max       | all above it         | above the ceiling | [`Broadcast`]: one round for all |
//! | above max      | any                  | any               | [`Broadcast`]: one round for all |
//!
//! If every CPU is to lose all of its translations anyway, one round is better than several.
//!
//! Where in doubt, more is flushed: the rows below are always correct in place of those above.
//!
//! [`Ranged`]: Decision::Ranged
//! [`Full`]: Decision::Full
//! [`Broadcast`]: Decision::Broadcast

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use kernel::mm::range::Pending;

/// What a flush has to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The pages of one range of one address space, page by page.
    Ranged,
    /// All of one address space.
    Full,
    /// All of every address space in the batch, in one round.
    Broadcast,
}

/// Where a cheaper flush is chosen over a more precise one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most pages that are flushed one by one, read from the kernel
    /// (`x86/tlb_single_page_flush_ceiling` in debugfs), never assumed.
    pub ceiling_pages: usize,
    /// Most address spaces that get a round each.
    pub max_mms: usize,
}

impl Limits {
    /// Returns whether so many address spaces are too many to be flushed one by one.
    pub const fn outgrown(&self, nr_mms: usize) -> bool {
        nr_mms > self.max_mms
    }

    /// Returns whether `pending` is too far apart to be flushed page by page.
    pub const fn is_far(&self, pending: &Pending) -> bool {
        pending.range().span_pages() > self.ceiling_pages
    }

    /// Decides how to flush `pending`, one of `nr_mms` address spaces in a batch of which `nr_far`
    /// [are too far apart](Limits::is_far).
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{
    ///     mm::{
    ///         range::{PageRange, Pending},
    ///         tlb::ceiling::{Decision, Limits}, //
    ///     },
    ///     page::PAGE_SIZE, //
    /// };
    ///
    /// let limits = Limits { ceiling_pages: 33, max_mms: 8 };
    /// let near = Pending::new(PageRange::new(0, 33 * PAGE_SIZE).ok_or(EINVAL)?, 2);
    /// let far = Pending::new(PageRange::new(0, 34 * PAGE_SIZE).ok_or(EINVAL)?, 2);
    ///
    /// assert_eq!(limits.decide(1, 0, &near), Decision::Ranged);
    /// assert_eq!(limits.decide(2, 1, &far), Decision::Full);
    /// assert_eq!(limits.decide(2, 2, &far), Decision::Broadcast);
    /// assert_eq!(limits.decide(9, 0, &near), Decision::Broadcast);
    /// # Ok::<(), Error>(())
    /// ```
    pub const fn decide(&self, nr_mms: usize, nr_far: usize, pending: &Pending) -> Decision {
        if self.outgrown(nr_mms) || (nr_mms > 1 && nr_far == nr_mms) {
            Decision::Broadcast
        } else if self.is_far(pending) {
            Decision::Full
        } else {
            Decision::Ranged
        }
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_ceiling))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;
    use kernel::{
        mm::range::PageRange,
        page::PAGE_SIZE, //
    };

    const LIMITS: Limits = Limits {
        ceiling_pages: 33,
        max_mms: 8,
    };

    fn decide(nr_mms: usize, nr_far: usize, span_pages: usize) -> Decision {
        let range = PageRange::new(PAGE_SIZE, (1 + span_pages) * PAGE_SIZE).unwrap();
        LIMITS.decide(nr_mms, nr_far, &Pending::new(range, 1))
    }

    #[test]
    fn each_boundary_of_the_table() {
        for (nr_mms, nr_far, span, expected) in [
            (1, 0, 1, Decision::Ranged),
            (1, 0, 33, Decision::Ranged),
            (1, 1, 34, Decision::Full),
            (2, 0, 33, Decision::Ranged),
            (2, 1, 33, Decision::Ranged),
            (2, 1, 34, Decision::Full),
            (2, 2, 34, Decision::Broadcast),
            (8, 7, 34, Decision::Full),
            (8, 8, 34, Decision::Broadcast),
            (8, 0, 33, Decision::Ranged),
            (9, 0, 1, Decision::Broadcast),
            (9, 9, 1000, Decision::Broadcast),
        ] {
            assert_eq!(decide(nr_mms, nr_far, span), expected);
        }
    }

    #[test]
    fn a_ceiling_of_zero_flushes_in_full() {
        let limits = Limits {
            ceiling_pages: 0,
            ..LIMITS
        };
        let one = Pending::new(PageRange::of_page(0).unwrap(), 1);
        assert_eq!(limits.decide(1, 1, &one), Decision::Full);
    }
}
