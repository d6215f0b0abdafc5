// SPDX-License-Identifier: GPL-2.0

//! Where the pages of a file lie in one mapping of it. Pure arithmetic of addresses and offsets.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::range::PageRange;
use core::ops::Range;
use kernel::page::{
    PAGE_SHIFT,
    PAGE_SIZE, //
};

/// Pages mapped by one page table at the lowest level (x86-64: 8 bytes per entry).
pub const PTRS_PER_PTE: usize = PAGE_SIZE / 8;

/// The part of a file that a VMA maps, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    range: PageRange,
    pgoff: usize,
}

impl Window {
    /// The window of a VMA over `range` whose first page is page `pgoff` of the file.
    pub const fn new(range: PageRange, pgoff: usize) -> Self {
        Self { range, pgoff }
    }

    /// Returns the addresses of the window.
    pub const fn range(&self) -> PageRange {
        self.range
    }

    /// Returns where page `pgoff` of the file is mapped, or [`None`] if this window does not show
    /// it.
    pub fn address_of(&self, pgoff: usize) -> Option<usize> {
        let index = pgoff.checked_sub(self.pgoff)?;
        if index >= self.range.span_pages() {
            return None;
        }
        Some(self.range.start() + (index << PAGE_SHIFT))
    }

    /// Returns which page of the file is mapped at `addr`, or [`None`] if `addr` lies outside.
    pub fn pgoff_of(&self, addr: usize) -> Option<usize> {
        if !self.range.contains(addr) {
            return None;
        }
        self.pgoff
            .checked_add((addr - self.range.start()) >> PAGE_SHIFT)
    }

    /// Returns whether page `pgoff` of the file lies before what the window shows.
    pub fn is_before(&self, pgoff: usize) -> bool {
        pgoff < self.pgoff
    }

    /// Returns whether page `pgoff` of the file lies behind what the window shows.
    #[inline]
    pub fn is_behind(&self, pgoff: usize) -> bool {
        !self.is_before(pgoff) && self.address_of(pgoff).is_none()
    }

    /// Returns the addresses of those of pages `first` to `last` that the window shows.
    #[inline]
    pub fn clip(&self, first: usize, last: usize) -> Option<PageRange> {
        let from = first.max(self.pgoff);
        let nr_pages = last.checked_add(1)?.checked_sub(from)?;
        self.range.part(from - self.pgoff, nr_pages)
    }

    /// Returns the part of the window that is mapped by the same page table as `addr`, or [`None`]
    /// if `addr` lies outside.
    #[inline]
    pub fn table_of(&self, addr: usize) -> Option<PageRange> {
        self.range.block_of(addr, PTRS_PER_PTE)
    }

    /// As [`Window::table_of`], with the pages of the file that are there.
    #[inline]
    pub fn part_of_table(&self, addr: usize) -> Option<Self> {
        let range = self.table_of(addr)?;
        let nr_before = (range.start() - self.range.start()) >> PAGE_SHIFT;
        let pgoff = self.pgoff.saturating_add(nr_before);
        Some(Self { range, pgoff })
    }

    /// Returns the first page of the file that the window shows.
    pub const fn pgoff(&self) -> usize {
        self.pgoff
    }

    /// Returns what the page table maps whose first entry is that of `addr`; [`None`] if there can be none,
    /// or if the window does not show all of it.
    pub fn whole_table_at(&self, addr: usize) -> Option<PageRange> {
        let table = self.table_of(addr)?;
        let is_whole = table.start() == addr && table.span_pages() == PTRS_PER_PTE;
        is_whole.then_some(table)
    }

    /// Returns which pages of the file a leaf would map that is in the place of the page table of
    /// `addr`; [`None`] if there can be none: the window has to show all of it, to its end, and the
    /// offset in the file to be aligned as the address is.
    pub fn leaf_of(&self, addr: usize) -> Option<Range<usize>> {
        let table = self.table_of(addr)?;
        let first = self.pgoff_of(table.start())?;
        let is_whole = table.span_pages() == PTRS_PER_PTE && first % PTRS_PER_PTE == 0;
        is_whole.then_some(first..first.saturating_add(PTRS_PER_PTE))
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_window))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;

    const P: usize = PAGE_SIZE;

    fn window(start: usize, end: usize, pgoff: usize) -> Window {
        Window::new(PageRange::new(start * P, end * P).unwrap(), pgoff)
    }

    #[test]
    fn address_of_the_first_and_the_last_page() {
        let w = window(100, 110, 5);
        for (pgoff, addr) in [
            (4, None),
            (5, Some(100 * P)),
            (14, Some(109 * P)),
            (15, None),
            (usize::MAX, None),
        ] {
            assert_eq!(w.address_of(pgoff), addr);
            assert!(addr.is_none_or(|addr| w.pgoff_of(addr) == Some(pgoff)));
            assert_eq!(addr.is_none(), w.is_before(pgoff) || w.is_behind(pgoff));
        }
    }

    #[test]
    fn pgoff_of_is_the_way_back() {
        let w = window(100, 110, 5);
        for pgoff in 5..15 {
            let addr = w.address_of(pgoff).unwrap();
            assert_eq!(w.pgoff_of(addr), Some(pgoff));
            assert_eq!(w.pgoff_of(addr + P - 1), Some(pgoff));
        }
        assert_eq!(w.pgoff_of(100 * P - 1), None);
        assert_eq!(w.pgoff_of(110 * P), None);
    }

    #[test]
    fn clip_to_what_is_shown() {
        let w = window(100, 110, 5);
        assert_eq!(w.clip(0, 4), None);
        assert_eq!(w.clip(15, 99), None);
        assert_eq!(w.clip(0, 5), PageRange::new(100 * P, 101 * P));
        assert_eq!(w.clip(0, 99), Some(w.range()));
        assert_eq!(w.clip(7, 8), PageRange::new(102 * P, 104 * P));
        assert_eq!(w.clip(0, usize::MAX), None);
    }

    #[test]
    fn table_ends_with_the_window_or_the_table() {
        let n = PTRS_PER_PTE;
        let w = window(n - 2, 2 * n + 1, 0);
        assert_eq!(w.table_of((n - 1) * P), PageRange::new((n - 2) * P, n * P));
        assert_eq!(w.table_of(n * P), PageRange::new(n * P, 2 * n * P));
        assert_eq!(
            w.table_of(2 * n * P),
            PageRange::new(2 * n * P, (2 * n + 1) * P)
        );
        assert_eq!(w.table_of((2 * n + 1) * P), None);
        assert_eq!(w.table_of(0), None);
    }

    #[test]
    fn a_whole_table_begins_at_its_first_entry_and_is_shown_to_its_end() {
        let n = PTRS_PER_PTE;
        let w = window(n - 2, 3 * n - 1, 0);
        let whole = PageRange::new(n * P, 2 * n * P);
        for (addr, expected) in [
            (0, None),
            ((n - 2) * P, None),
            ((n - 1) * P, None),
            (n * P, whole),
            (n * P + 8, None),
            ((n + 1) * P, None),
            ((2 * n - 1) * P, None),
            (2 * n * P, None),
            (3 * n * P, None),
        ] {
            assert_eq!(w.whole_table_at(addr), expected);
        }
        assert_eq!(window(n, 2 * n, 7).whole_table_at(n * P), whole);
    }

    #[test]
    fn a_leaf_is_shown_to_both_its_ends() {
        let n = PTRS_PER_PTE;
        let w = window(n - 2, 3 * n - 1, 2 * n - 2);
        for (addr, expected) in [
            (n - 3, None),
            (n - 1, None),
            (n, Some(2 * n..3 * n)),
            (2 * n - 1, Some(2 * n..3 * n)),
            (2 * n, None),
            (3 * n - 2, None),
        ] {
            assert_eq!(w.leaf_of(addr * P), expected);
        }
        // Address and offset are not aligned alike.
        assert_eq!(window(n, 3 * n, 1).leaf_of(n * P), None);
        assert_eq!(window(n, 2 * n, n).leaf_of(n * P), Some(n..2 * n));
    }
}
