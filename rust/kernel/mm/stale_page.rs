// SPDX-License-Identifier: GPL-2.0

//! What owns a page that may still be reachable through a stale translation.

use super::{
    place::Place,
    stale::{
        Proof,
        Stale, //
    }, //
};
use crate::page::Page;

pub use super::folio::Pages;

/// What owns a page, a folio or a bundle that may still be reachable through a stale translation.
///
/// # Safety
///
/// - The value must own a reference to each of the [`pages`](StalePage::pages), or to the folio that they
///   are of, must return the same each time, and must not put those references before it is dropped.
///   [`Stale::nr_pages`] must return the same each time: no more than they are, and no fewer than may be
///   mapped without owning a reference.
/// - [`is_unmapped`](StalePage::is_unmapped) may return `true` only if every PTE that maps the page
///   without owning a reference to it was cleared, at the place that it was made for.
/// - Both [`Stale::unmapped`] and [`Stale::flushed`] must reach whatever keeps account
///   of such PTEs. What is wrapped around it has to hand them on, and how many pages it is, and a
///   [`Proof`] to nothing else than what owns that very page.
pub unsafe trait StalePage: Stale {
    /// Returns its pages.
    fn pages(&self) -> Pages<'_>;

    /// Returns whether no PTE can map any of it that owns no reference to it.
    fn is_unmapped(&self) -> bool;
}

impl Stale for Page {
    #[inline]
    fn nr_pages(&self) -> usize {
        1
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {}

    fn flushed(&mut self, _proof: Proof) {}
}

// SAFETY:
// - A `Page` owns itself, alone, and puts its reference when it is dropped.
// - Only a `DriverPage` is mapped without a reference: nobody keeps account of such PTEs here, and
//   there are none.
unsafe impl StalePage for Page {
    #[inline]
    fn pages(&self) -> Pages<'_> {
        self.into()
    }

    fn is_unmapped(&self) -> bool {
        true
    }
}
