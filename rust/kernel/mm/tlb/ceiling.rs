// SPDX-License-Identifier: GPL-2.0

//! How to flush what is pending: the one decision of the precise policy.
//!
//! | address spaces | pages pending | span of one address space | flush                               |
//! |----------------|---------------|---------------------------|-------------------------------------|
//! | at most max    | at most max   | at most the ceiling       | [`Ranged`]: one round an mm         |
//! | at most max    | at most max   | above the ceiling         | [`Full`]: one round an mm           |
//! | above max      | any           | any                       | [`Broadcast`]: one round for all    |
//! | any            | above max     | any                       | [`Broadcast`]: one round for all    |
//!
//! Where in doubt, more is flushed: the rows below are always correct in place of those above.
//!
//! [`Ranged`]: Decision::Ranged
//! [`Full`]: Decision::Full
//! [`Broadcast`]: Decision::Broadcast

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::range::Pending;

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
    /// Most pages, over all address spaces, for which precision is worth a round an mm.
    pub max_pages: usize,
}

impl Limits {
    /// Returns whether a batch of `nr_mms` address spaces and `nr_pages` pages is too large to be
    /// flushed address space by address space.
    const fn outgrown(&self, nr_mms: usize, nr_pages: usize) -> bool {
        nr_mms > self.max_mms || nr_pages > self.max_pages
    }

    /// Decides how to flush `pending`, one of `nr_mms` address spaces in a batch of `nr_pages`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{
    ///     mm::tlb::{
    ///         ceiling::{Decision, Limits},
    ///         range::{PageRange, Pending}, //
    ///     },
    ///     page::PAGE_SIZE, //
    /// };
    ///
    /// let limits = Limits { ceiling_pages: 33, max_mms: 8, max_pages: 4096 };
    /// let near = PageRange::new(0, 33 * PAGE_SIZE).ok_or(EINVAL)?;
    /// let far = PageRange::new(0, 34 * PAGE_SIZE).ok_or(EINVAL)?;
    ///
    /// assert_eq!(limits.decide(1, 2, &Pending::new(near, 2)), Decision::Ranged);
    /// assert_eq!(limits.decide(1, 2, &Pending::new(far, 2)), Decision::Full);
    /// assert_eq!(limits.decide(9, 18, &Pending::new(near, 2)), Decision::Broadcast);
    /// # Ok::<(), Error>(())
    /// ```
    pub const fn decide(&self, nr_mms: usize, nr_pages: usize, pending: &Pending) -> Decision {
        if self.outgrown(nr_mms, nr_pages) {
            Decision::Broadcast
        } else if pending.range().span_pages() > self.ceiling_pages {
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
    use super::super::range::PageRange;
    use super::*;
    use kernel::page::PAGE_SIZE;

    const LIMITS: Limits = Limits {
        ceiling_pages: 33,
        max_mms: 8,
        max_pages: 100,
    };

    fn decide(nr_mms: usize, nr_pages: usize, span_pages: usize) -> Decision {
        let range = PageRange::new(PAGE_SIZE, (1 + span_pages) * PAGE_SIZE).unwrap();
        LIMITS.decide(nr_mms, nr_pages, &Pending::new(range, 1))
    }

    #[test]
    fn each_boundary_of_the_table() {
        for (nr_mms, nr_pages, span, expected) in [
            (1, 1, 1, Decision::Ranged),
            (1, 1, 33, Decision::Ranged),
            (1, 1, 34, Decision::Full),
            (8, 100, 33, Decision::Ranged),
            (8, 100, 34, Decision::Full),
            (9, 100, 1, Decision::Broadcast),
            (8, 101, 1, Decision::Broadcast),
            (9, 101, 1000, Decision::Broadcast),
        ] {
            assert_eq!(decide(nr_mms, nr_pages, span), expected);
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
