// SPDX-License-Identifier: GPL-2.0

//! A run of pages in one word: what one flush has to invalidate, small enough never to be torn.
//!
//! | bits     | meaning                                                              |
//! |----------|----------------------------------------------------------------------|
//! | 0 to 43  | number of the first 4 KiB page                                       |
//! | 44, 45   | stride: 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB                           |
//! | 46       | page tables were freed                                               |
//! | 47 to 62 | strides, less one                                                    |
//! | 63       | set                                                                  |
//!
//! Zero is no run, and every other word is everything: [`Run::FULL`], and what no run encodes to.
//! Where in doubt, [`Run::new`] returns [`Run::FULL`], which is always correct.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use kernel::page::PAGE_SHIFT;

const STRIDE: u32 = 44;
const TABLES: u32 = 46;
const COUNT: u32 = 47;
const VALID: u64 = 1 << 63;

/// Bits of an address that a user's half can have, with page tables of 5 levels. What lies above
/// is the kernel's, as the range of an LDT is, or tagged: an INVLPG of a tagged address does
/// nothing.
const USER_BITS: u32 = 56;
/// Levels of the page tables that can map a page: each is 9 bits.
const LEVEL_BITS: u32 = 9;
const NR_STRIDES: u32 = 3;

/// Most strides of one run.
pub const MAX_STRIDES: usize = 1 << 16;

/// Addresses from one on, a stride apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Run(u64);

impl Run {
    /// No run.
    pub const NONE: Self = Self(0);
    /// All of the address space.
    pub const FULL: Self = Self(u64::MAX);

    /// Returns the run that covers `start` (inclusive) to `end` (exclusive), flushed every
    /// `1 << stride_shift` bytes; the ends are rounded outwards. `tables_freed` says that page
    /// tables of the range were freed.
    ///
    /// What the word cannot hold is [`Run::FULL`]: an empty range, another stride than that of a
    /// page of some size, more than [`MAX_STRIDES`], an address above the user's half.
    pub const fn new(start: usize, end: usize, stride_shift: u32, tables_freed: bool) -> Self {
        let Some(stride) = stride_of(stride_shift) else {
            return Self::FULL;
        };
        if start >= end || end > 1 << USER_BITS {
            return Self::FULL;
        }
        let first = start >> stride_shift;
        let more = ((end - 1) >> stride_shift) - first;
        if more >= MAX_STRIDES {
            return Self::FULL;
        }
        let page = first << (stride_shift - PAGE_SHIFT as u32);
        Self(
            VALID
                | (more as u64) << COUNT
                | (tables_freed as u64) << TABLES
                | (stride as u64) << STRIDE
                | page as u64,
        )
    }

    /// Returns the run that a word stands for. Any word will do.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Returns the word that stands for the run.
    pub const fn into_word(self) -> u64 {
        self.0
    }

    /// Returns whether there is nothing to invalidate.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns whether everything is to be invalidated.
    pub const fn is_full(self) -> bool {
        !self.is_none() && (self.0 & VALID == 0 || self.stride() >= NR_STRIDES)
    }

    /// Returns whether page tables were freed.
    pub const fn frees_tables(self) -> bool {
        self.0 & (1 << TABLES) != 0
    }

    /// Returns the first address. Only for what is neither none nor full.
    pub const fn start(self) -> usize {
        (self.0 as usize & ((1 << STRIDE) - 1)) << PAGE_SHIFT
    }

    /// Returns how many addresses there are. Only for what is neither none nor full.
    pub const fn nr_strides(self) -> usize {
        (self.0 >> COUNT) as usize % MAX_STRIDES + 1
    }

    /// Returns by how much an address is to be shifted right to number its stride. Only for what is
    /// neither none nor full.
    pub const fn stride_shift(self) -> u32 {
        PAGE_SHIFT as u32 + LEVEL_BITS * self.stride()
    }

    const fn stride(self) -> u32 {
        (self.0 >> STRIDE) as u32 % 4
    }
}

const fn stride_of(shift: u32) -> Option<u32> {
    match shift.checked_sub(PAGE_SHIFT as u32) {
        Some(above) if above % LEVEL_BITS == 0 && above / LEVEL_BITS < NR_STRIDES => {
            Some(above / LEVEL_BITS)
        }
        _ => None,
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_run))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    const P: usize = PAGE_SIZE;
    const USER_END: usize = 1 << USER_BITS;

    fn pages(start: usize, end: usize) -> Run {
        Run::new(start, end, PAGE_SHIFT as u32, false)
    }

    #[test]
    fn a_run_is_what_went_in() {
        for (shift, nr) in [(12, 1), (12, 33), (21, 7), (30, 512), (12, MAX_STRIDES)] {
            for freed in [false, true] {
                let start = 5usize << 30;
                let run = Run::new(start, start + (nr << shift), shift, freed);
                assert!(!run.is_none() && !run.is_full());
                assert_eq!(run.start(), start);
                assert_eq!(run.nr_strides(), nr);
                assert_eq!(run.stride_shift(), shift);
                assert_eq!(run.frees_tables(), freed);
                assert_eq!(Run::from_word(run.into_word()), run);
            }
        }
    }

    #[test]
    fn ends_are_rounded_outwards() {
        let run = pages(P + 1, 2 * P + 1);
        assert_eq!((run.start(), run.nr_strides()), (P, 2));
        let run = Run::new((1 << 21) - 1, (1 << 21) + 1, 21, false);
        assert_eq!((run.start(), run.nr_strides()), (0, 2));
        assert_eq!(pages(0, 1).nr_strides(), 1);
    }

    #[test]
    fn what_does_not_fit_is_everything() {
        for (start, end, shift) in [
            (P, P, 12),
            (2 * P, P, 12),
            // flush_tlb_mm() has no stride, and no end.
            (0, usize::MAX, 0),
            (0, usize::MAX, 12),
            (0, P, 0),
            (0, P, 11),
            (0, P, 13),
            (0, P, 39),
            (0, P, u32::MAX),
            (0, (MAX_STRIDES + 1) * P, 12),
            (1, MAX_STRIDES * P + 1, 12),
            (USER_END - P, USER_END + 1, 12),
            // An LDT, mapped into the kernel's half of the process.
            (usize::MAX - 2 * P, usize::MAX - P, 12),
            // A tag in the bits that LAM ignores.
            (1 << 57, (1 << 57) + P, 12),
        ] {
            assert!(Run::new(start, end, shift, false).is_full());
        }
        assert!(!pages(USER_END - P, USER_END).is_full());
        assert!(!pages(0, MAX_STRIDES * P).is_full());
    }

    #[test]
    fn a_word_that_no_run_encodes_to_is_everything() {
        assert!(Run::FULL.is_full() && !Run::FULL.is_none());
        assert!(Run::NONE.is_none() && !Run::NONE.is_full());
        for word in [1, VALID - 1, VALID | 3 << STRIDE, u64::MAX - 1] {
            assert!(Run::from_word(word).is_full());
        }
    }
}
