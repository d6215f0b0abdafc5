// SPDX-License-Identifier: GPL-2.0

//! A mark for each page table's worth of an open file: memory that never grows, and marks that merge.

#![forbid(unsafe_code)]

use kernel::{
    alloc::{
        AllocError,
        Flags,
        KVVec, //
    },
    mm::window::PTRS_PER_PTE, //
};

const BITS: usize = u64::BITS as usize;

/// Marks.
///
/// # Invariants
///
/// `nr` bits are set.
pub(crate) struct Marks {
    words: KVVec<u64>,
    nr: usize,
}

impl Marks {
    /// Makes marks for `nr_pages` pages, none set.
    pub(crate) fn new(nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        let nr_words = nr_pages.div_ceil(PTRS_PER_PTE).div_ceil(BITS);
        let mut words = KVVec::with_capacity(nr_words, flags)?;
        for _ in 0..nr_words {
            words.push(0, flags)?;
        }
        // INVARIANT: None is set.
        Ok(Self { words, nr: 0 })
    }

    /// Returns how many are set.
    pub(crate) fn nr(&self) -> usize {
        self.nr
    }

    /// Sets the mark of page `pgoff`; returns whether it was not set.
    pub(crate) fn set(&mut self, pgoff: usize) -> bool {
        let chunk = pgoff / PTRS_PER_PTE;
        let Some(word) = self.words.get_mut(chunk / BITS) else {
            return false;
        };
        let bit = 1 << (chunk % BITS);
        let is_new = *word & bit == 0;
        *word |= bit;
        // INVARIANT: Counted.
        self.nr += usize::from(is_new);
        is_new
    }

    /// Takes the first mark at page `from` or behind it away; returns the first of its pages.
    pub(crate) fn take(&mut self, from: usize) -> Option<usize> {
        let chunk = from.div_ceil(PTRS_PER_PTE);
        let mut above = u64::MAX << (chunk % BITS);
        for (nr, word) in self.words.iter_mut().enumerate().skip(chunk / BITS) {
            let left = *word & above;
            if left != 0 {
                *word &= !(left & left.wrapping_neg());
                // INVARIANT: Counted.
                self.nr -= 1;
                return Some((nr * BITS + left.trailing_zeros() as usize) * PTRS_PER_PTE);
            }
            above = u64::MAX;
        }
        None
    }
}
