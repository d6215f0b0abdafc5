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
///     mm::tlb::range::PageRange,
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

    /// Returns the first `nr_pages` pages, one at least and all at most, and what is behind them.
    pub fn split_at(self, nr_pages: usize) -> (Self, Option<Self>) {
        let nr_pages = nr_pages.clamp(1, self.span_pages());
        let at = self.start + (nr_pages << PAGE_SHIFT);
        // INVARIANT: `at` is a multiple of the page size, above `start` and not above `end`.
        let first = Self {
            start: self.start,
            end: at,
        };
        (first, Self::new(at, self.end))
    }

    /// Returns whether `addr` lies in the range.
    pub const fn contains(self, addr: usize) -> bool {
        self.start <= addr && addr < self.end
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
        assert_eq!(both.pages().count(), 8);
        assert_eq!(both.pages().next(), Some(range(P, 2 * P)));
    }

    #[test]
    fn split_at_leaves_nothing_out() {
        let all = range(3 * P, 8 * P);
        for (nr, first, rest) in [
            (0, 1, 4),
            (1, 1, 4),
            (4, 4, 1),
            (5, 5, 0),
            (usize::MAX, 5, 0),
        ] {
            let (a, b) = all.split_at(nr);
            assert_eq!(a, range(3 * P, (3 + first) * P));
            assert_eq!(b, PageRange::new((3 + first) * P, 8 * P));
            assert_eq!(b.map_or(0, PageRange::span_pages), rest);
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
}
