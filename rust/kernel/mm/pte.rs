// SPDX-License-Identifier: GPL-2.0

//! What is in a page-table entry, and what is known of the page that it maps.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use core::marker::PhantomData;

/// What is in a page-table entry, by value: to look at it changes no page table. The table stays
/// locked for `'t`, and so what the entry maps is not freed.
///
/// # Invariants
///
/// If `present`, an entry of a table that is locked for `'t` maps frame `pfn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pte<'t> {
    pfn: usize,
    present: bool,
    dirty: bool,
    _table: PhantomData<&'t ()>,
}

impl Pte<'_> {
    /// What is in an entry of a table that is locked: it maps frame `pfn`, if it is `present`. For who
    /// has just read one.
    pub(crate) const fn new(pfn: usize, present: bool, dirty: bool) -> Self {
        // INVARIANT: As the caller has read it.
        Self {
            pfn,
            present,
            dirty,
            _table: PhantomData,
        }
    }

    /// Returns the frame that it maps.
    pub const fn pfn(&self) -> usize {
        self.pfn
    }

    /// Returns whether it maps a frame.
    pub const fn is_present(&self) -> bool {
        self.present
    }

    /// Returns whether it was written through.
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }
}

/// What is known of a page, under its lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// Its memory is known to be bad.
    pub bad: bool,
    /// It belongs to a file or is anonymous: it can be found, cleaned and unmapped by the reverse
    /// map.
    pub has_rmap: bool,
    /// It is being written back.
    pub writeback: bool,
}

/// What is found out about a page without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The frame is no page.
    NoPage,
    /// Somebody has locked the page.
    Locked,
    /// Nobody had.
    Page(PageState),
}
