// SPDX-License-Identifier: GPL-2.0

//! What one page table shows of the entries of a batch, and what was done to it.
//!
//! An entry is a page, or a folio of several. What a page table shows of it is a [`Part`]; several of
//! them are changed in one go ([`MAX_PARTS`]), each as far as it is there.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    range::PageRange,
    stale::Stale, //
};
use core::slice;

/// A page in a batch, or a folio, and which page of the file it was, or began with.
#[derive(Debug)]
pub struct Entry<P> {
    pub(crate) pgoff: usize,
    pub(crate) page: P,
}

/// What one page table shows of an entry of a batch.
pub struct Part<'a, P> {
    /// Where it does.
    pub pages: PageRange,
    /// The entry.
    pub entry: &'a P,
    /// Which of its pages is at the first of `pages`.
    pub nth: usize,
}

impl<P> Clone for Part<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Part<'_, P> {}

impl<'a, P> Part<'a, P> {
    /// Returns its pages, each by itself.
    pub(super) fn single(self) -> impl Iterator<Item = Part<'a, P>> {
        let pages = self.pages.pages().enumerate();
        pages.map(move |(nr_before, pages)| Part {
            pages,
            entry: self.entry,
            nth: self.nth + nr_before,
        })
    }
}

/// What one page table shows of entries of a batch, one after the other.
///
/// # Invariants
///
/// All that it returns lie in `table`.
pub struct Parts<'a, P> {
    table: PageRange,
    /// The page of the file that is at its start.
    pgoff: usize,
    entries: slice::Iter<'a, Entry<P>>,
}

impl<P> Clone for Parts<'_, P> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            ..*self
        }
    }
}

impl<'a, P> Parts<'a, P> {
    /// Of `entries`. `table` is what the page table maps of the mapping; at its start is page `pgoff` of
    /// the file.
    pub(super) fn new(table: PageRange, pgoff: usize, entries: &'a [Entry<P>]) -> Self {
        // INVARIANT: None was returned yet.
        Self {
            table,
            pgoff,
            entries: entries.iter(),
        }
    }

    /// Returns what the page table maps.
    pub fn table(&self) -> PageRange {
        self.table
    }

    /// Returns whether none is left.
    pub(super) fn is_done(&self) -> bool {
        self.entries.as_slice().is_empty()
    }
}

impl<'a, P: Stale> Iterator for Parts<'a, P> {
    type Item = Part<'a, P>;

    #[inline]
    fn next(&mut self) -> Option<Part<'a, P>> {
        for entry in self.entries.by_ref() {
            let nth = self.pgoff.saturating_sub(entry.pgoff);
            let nr_before = entry.pgoff.saturating_sub(self.pgoff);
            let nr_pages = entry.page.nr_pages().saturating_sub(nth);
            // INVARIANT: It is a part of it.
            if let Some(pages) = self.table.part(nr_before, nr_pages) {
                let entry = &entry.page;
                return Some(Part { pages, entry, nth });
            }
        }
        None
    }
}

/// Parts that are changed in one go, at most.
pub const MAX_PARTS: usize = 16;

/// Some of the parts that were changed in one go, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Which(pub(crate) u16);

impl Which {
    /// Adds part `number`, which is below [`MAX_PARTS`].
    pub(crate) fn add(&mut self, number: usize) {
        self.0 |= 1 << number;
    }

    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Returns those of `parts`.
    pub(super) fn of<'a, P: Stale + 'a>(
        self,
        parts: Parts<'a, P>,
    ) -> impl Iterator<Item = PageRange> + 'a {
        let numbered = parts.take(MAX_PARTS).enumerate();
        let those = numbered.filter(move |(number, _)| self.0 >> number & 1 != 0);
        those.map(|(_, part)| part.pages)
    }
}

/// PTEs that were cleared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// How many.
    pub nr: usize,
    /// How many of them had the Dirty bit set: until the flush, a CPU can still write to the page
    /// without a fault.
    pub nr_dirty: usize,
    /// How many of them were writable: until the flush, a CPU that breaks its promise can.
    pub nr_writable: usize,
}

impl Cleared {
    pub(super) fn add(&mut self, other: Self) {
        self.nr += other.nr;
        self.nr_dirty += other.nr_dirty;
        self.nr_writable += other.nr_writable;
    }
}

/// What was done to the PTEs of parts, in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// How many are read-only now. They were clean.
    pub nr_protected: usize,
    /// Those that are none now.
    pub cleared: Cleared,
    /// Those of them that were not dirty are no proof that nobody writes to their pages until the
    /// flush.
    pub doubtful: bool,
    /// From the first to the last of all those; [`None`] if there are none.
    pub range: Option<PageRange>,
    /// Parts of which not all were there.
    pub missing: Which,
}

impl Changed {
    /// `pages`, of part `number`, are none now, unless `cleared` is empty.
    pub(crate) fn add_cleared(&mut self, number: usize, pages: PageRange, cleared: Cleared) {
        self.cleared.add(cleared);
        match cleared.nr {
            0 => self.missing.add(number),
            _ => self.add_range(pages),
        }
    }

    /// The PTE of `page` is read-only now.
    pub(super) fn add_protected(&mut self, page: PageRange) {
        self.nr_protected += 1;
        self.add_range(page);
    }

    fn add_range(&mut self, pages: PageRange) {
        self.range = Some(self.range.map_or(pages, |range| range.union(pages)));
    }

    /// As one: that of a leaf.
    pub(super) fn as_one(mut self) -> Self {
        self.cleared.nr = self.cleared.nr.min(1);
        self.cleared.nr_dirty = self.cleared.nr_dirty.min(1);
        self
    }
}
