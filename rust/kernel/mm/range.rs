// SPDX-License-Identifier: GPL-2.0

//! Ranges of user addresses that a flush has to cover.
//!
//! A flush covers one range an address space, so a batch keeps the smallest range that holds all
//! its pages. Pure: no pointer, no lock, no page table.
//!
//! C counterpart: `__tlb_adjust_range()` in
//! [`include/asm-generic/tlb.h`](srctree/include/asm-generic/tlb.h).

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use kernel::page::{
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE, //
};

/// A non-empty range of pages of a user address space.
///
/// # Invariants
///
/// `start` and `end` are multiples of [`PAGE_SIZE`], and `start < end`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     mm::range::PageRange,
///     page::PAGE_SIZE, //
/// };
///
/// let a = PageRange::of_page(4 * PAGE_SIZE).ok_or(EINVAL)?;
/// let b = PageRange::of_page(9 * PAGE_SIZE + 17).ok_or(EINVAL)?;
/// let both = a.union(b);
///
/// assert_eq!(both.start(), 4 * PAGE_SIZE);
/// assert_eq!(both.end(), 10 * PAGE_SIZE);
/// // What a ranged flush has to walk, not what was unmapped.
/// assert_eq!(both.span_pages(), 6);
/// assert!(PageRange::new(PAGE_SIZE, PAGE_SIZE).is_none());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    start: usize,
    end: usize,
}

impl PageRange {
    /// All pages but the last, whose end cannot be represented.
    pub const ALL: Self = Self {
        start: 0,
        end: usize::MAX & PAGE_MASK,
    };

    /// Returns the range from `start` (inclusive) to `end` (exclusive).
    ///
    /// Returns [`None`] if it is empty or if one of them is not a multiple of [`PAGE_SIZE`].
    pub const fn new(start: usize, end: usize) -> Option<Self> {
        if start >= end || (start | end) & !PAGE_MASK != 0 {
            return None;
        }
        // INVARIANT: Both were just checked.
        Some(Self { start, end })
    }

    /// Returns the range of the one page that holds `addr`, or [`None`] if that is the last page of
    /// the address space, whose end cannot be represented.
    pub const fn of_page(addr: usize) -> Option<Self> {
        let start = addr & PAGE_MASK;
        match start.checked_add(PAGE_SIZE) {
            // INVARIANT: Both are multiples of the page size, and `end` is above `start`.
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Returns the first byte.
    pub const fn start(self) -> usize {
        self.start
    }

    /// Returns the first byte behind the range.
    pub const fn end(self) -> usize {
        self.end
    }

    /// Returns the smallest range that covers both. It covers all that lies between them, too.
    pub fn union(self, other: Self) -> Self {
        // INVARIANT: Multiples of the page size remain, and `start` can only fall, `end` only rise.
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// Returns how many pages the range spans: what the flush ceiling is compared with.
    pub const fn span_pages(self) -> usize {
        (self.end - self.start) >> PAGE_SHIFT
    }

    /// Returns the pages of the range, one by one.
    pub fn pages(self) -> impl Iterator<Item = Self> {
        (self.start..self.end)
            .step_by(PAGE_SIZE)
            .filter_map(Self::of_page)
    }

    /// Returns its pages from number `first` on, at most `nr_pages`; [`None`] if there are none.
    #[inline]
    pub fn part(self, first: usize, nr_pages: usize) -> Option<Self> {
        let nr_pages = nr_pages.min(self.span_pages().checked_sub(first)?);
        let start = self.start + (first << PAGE_SHIFT);
        // INVARIANT: Both are multiples of the page size, and lie in the range; `end` is above `start`.
        (nr_pages > 0).then_some(Self {
            start,
            end: start + (nr_pages << PAGE_SHIFT),
        })
    }

    /// Returns the part of it that lies in the same block of `nr_pages`, a power of two, as `addr`;
    /// [`None`] if `addr` lies outside. Blocks are aligned.
    #[inline]
    pub fn block_of(self, addr: usize, nr_pages: usize) -> Option<Self> {
        let len_bytes = nr_pages << PAGE_SHIFT;
        let start = addr & !(len_bytes - 1);
        let end = start.checked_add(len_bytes).unwrap_or(self.end);
        // INVARIANT: All four are multiples of the page size; `addr` lies in both.
        self.contains(addr).then_some(Self {
            start: self.start.max(start),
            end: self.end.min(end),
        })
    }

    /// Returns whether `addr` lies in the range.
    pub const fn contains(self, addr: usize) -> bool {
        self.start <= addr && addr < self.end
    }

    /// Returns whether all of `other` lies in the range.
    pub const fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// Pages of one address space that wait for a flush: how many, the range that covers them, and
/// whether one of them can still be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    range: PageRange,
    nr_pages: usize,
    dirty: bool,
}

impl Pending {
    /// Starts with `nr_pages` pages somewhere in `range`.
    pub const fn new(range: PageRange, nr_pages: usize) -> Self {
        Self {
            range,
            nr_pages,
            dirty: false,
        }
    }

    /// Says whether a PTE among them was dirty: through a stale dirty translation a CPU writes
    /// without a fault. One through a clean translation faults.
    pub const fn dirty(self, dirty: bool) -> Self {
        Self { dirty, ..self }
    }

    /// Adds what `other` holds.
    pub fn merge(&mut self, other: Self) {
        self.range = self.range.union(other.range);
        self.nr_pages = self.nr_pages.saturating_add(other.nr_pages);
        self.dirty |= other.dirty;
    }

    /// Returns the range that covers all pages.
    pub const fn range(&self) -> PageRange {
        self.range
    }

    /// Returns how many pages were unmapped.
    pub const fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    /// Returns whether a PTE among them was dirty.
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_range))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;

    const P: usize = PAGE_SIZE;

    fn range(start: usize, end: usize) -> PageRange {
        PageRange::new(start, end).unwrap()
    }

    #[test]
    fn new_refuses_empty_and_unaligned() {
        for (start, end, ok) in [
            (0, P, true),
            (0, 0, false),
            (P, P, false),
            (2 * P, P, false),
            (1, P, false),
            (0, P + 1, false),
            (usize::MAX & PAGE_MASK, usize::MAX, false),
        ] {
            assert_eq!(PageRange::new(start, end).is_some(), ok);
        }
    }

    #[test]
    fn of_page_rounds_down_and_refuses_the_last() {
        assert_eq!(PageRange::of_page(0), Some(range(0, P)));
        assert_eq!(PageRange::of_page(P - 1), Some(range(0, P)));
        assert_eq!(PageRange::of_page(P), Some(range(P, 2 * P)));
        assert_eq!(PageRange::of_page(usize::MAX), None);
    }

    #[test]
    fn union_covers_both_and_the_gap() {
        let both = range(8 * P, 9 * P).union(range(P, 2 * P));
        assert_eq!(both, range(P, 9 * P));
        assert_eq!(both.span_pages(), 8);
        assert!(both.contains(5 * P) && !both.contains(9 * P));
        assert_eq!(both.union(range(2 * P, 3 * P)), both);
        assert!(both.covers(both) && both.covers(range(2 * P, 3 * P)));
        assert!(!both.covers(range(0, 2 * P)) && !both.covers(range(8 * P, 10 * P)));
        assert_eq!(both.pages().count(), 8);
        assert_eq!(both.pages().next(), Some(range(P, 2 * P)));
    }

    #[test]
    fn part_is_of_the_range() {
        let all = range(3 * P, 8 * P);
        for (first, nr_pages, pages) in [
            (0, 5, Some((3, 8))),
            (0, 1, Some((3, 4))),
            (2, 2, Some((5, 7))),
            (2, usize::MAX, Some((5, 8))),
            (4, 1, Some((7, 8))),
            (0, 0, None),
            (5, 1, None),
            (6, 1, None),
            (usize::MAX, 1, None),
        ] {
            let pages = pages.map(|(start, end)| range(start * P, end * P));
            assert_eq!(all.part(first, nr_pages), pages);
        }
    }

    #[test]
    fn pending_counts_pages_not_span() {
        let mut pending = Pending::new(range(0, P), 1);
        pending.merge(Pending::new(range(99 * P, 100 * P), 1));
        assert_eq!(pending.nr_pages(), 2);
        assert!(!pending.is_dirty());
        pending.merge(Pending::new(range(0, P), 1).dirty(true));
        pending.merge(Pending::new(range(0, P), 1));
        assert!(pending.is_dirty());
        assert_eq!(pending.nr_pages(), 4);
        assert_eq!(pending.range().span_pages(), 100);
    }

    #[test]
    fn a_block_ends_with_the_range_or_the_block() {
        let all = range(3 * P, 13 * P);
        for (page, expected) in [
            (2, None),
            (3, Some((3, 4))),
            (4, Some((4, 8))),
            (7, Some((4, 8))),
            (12, Some((12, 13))),
            (13, None),
        ] {
            let expected = expected.map(|(start, end)| range(start * P, end * P));
            assert_eq!(all.block_of(page * P + 1, 4), expected);
        }
        // The end of the last block cannot be represented.
        let end = PageRange::ALL.end();
        let last = range(end - 3 * P, end);
        assert_eq!(PageRange::ALL.block_of(end - 1, 4), Some(last));
    }
}
