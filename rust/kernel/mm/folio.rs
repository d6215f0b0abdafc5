// SPDX-License-Identifier: GPL-2.0

//! What owns a page, or a folio of several.

use crate::{
    alloc::Flags,
    mm::mechanism,
    page::{
        BorrowedPage,
        Page, //
    },
    prelude::*, //
};
use core::mem::ManuallyDrop;

/// Most that the order of a folio can be: what a page table maps (2 MiB).
pub const MAX_ORDER: u32 = 9;

/// One reference to a page, or to a folio of `2^order` pages that are one behind the other in memory.
///
/// # Invariants
///
/// `page` is the first of them. The reference is owned.
pub(super) struct Folio {
    page: ManuallyDrop<Page>,
    order: u8,
}

impl Folio {
    /// Allocates zeroed memory.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if the `order` is 1 or above [`MAX_ORDER`]: there are no such folios here.
    /// - `ENOMEM` if there is none. For a folio of more than 8 pages nobody is killed.
    pub(super) fn alloc_zeroed(order: u32, flags: Flags) -> Result<Self> {
        let flags = flags | __GFP_ZERO;
        if order == 0 {
            return Ok(Page::alloc_page(flags)?.into());
        }
        if order == 1 || order > MAX_ORDER {
            return Err(EINVAL);
        }
        let first = mechanism::folio_alloc(flags, order).ok_or(ENOMEM)?;
        // SAFETY: It is valid, and stays so: the reference goes with it.
        let first = unsafe { BorrowedPage::from_raw(first) };
        // SAFETY: The one reference is ours, and is given away here, once: `first` does not put it when
        // it is dropped.
        let page = ManuallyDrop::new(unsafe { core::ptr::read(&*first) });
        // INVARIANT: It was just allocated, of so many pages.
        Ok(Self {
            page,
            order: order as u8,
        })
    }

    /// Takes the reference out: `from_parts` puts it back.
    pub(super) fn into_parts(self) -> (ManuallyDrop<Page>, u8) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped: the reference is taken once.
        (unsafe { core::ptr::read(&this.page) }, this.order)
    }

    /// # Safety
    ///
    /// Both must come from [`Folio::into_parts`], and the page not be used afterwards.
    pub(super) unsafe fn from_parts(page: ManuallyDrop<Page>, order: u8) -> Self {
        // INVARIANT: As promised by the caller.
        Self { page, order }
    }

    /// Returns the page; of a folio, the first one.
    pub(super) fn page(&self) -> &Page {
        &self.page
    }

    /// Returns the page, if it is one.
    ///
    /// # Errors
    ///
    /// Gives a folio of several back.
    pub(super) fn into_page(self) -> Result<Page, Self> {
        match self.order {
            0 => Ok(ManuallyDrop::into_inner(self.into_parts().0)),
            _ => Err(self),
        }
    }

    /// Returns all of its pages, one after the other.
    pub(super) fn pages(&self) -> impl Iterator<Item = BorrowedPage<'_>> {
        pages(self.page(), nr_pages(self.order))
    }

    /// Returns how many pages it is.
    pub(super) fn nr_pages(&self) -> usize {
        nr_pages(self.order)
    }
}

/// Returns `nr` pages, of which `first` is the first, and which are kept as that is.
pub(super) fn pages(first: &Page, nr: usize) -> impl Iterator<Item = BorrowedPage<'_>> {
    let first = first.as_ptr();
    // SAFETY: `struct page`s of a folio are one behind the other.
    let page = move |nth| unsafe { core::ptr::NonNull::new_unchecked(first.add(nth)) };
    // SAFETY: They are valid for as long as the first one is borrowed.
    (0..nr).map(move |nth| unsafe { BorrowedPage::from_raw(page(nth)) })
}

/// Returns how many pages a folio of this order is.
pub(super) fn nr_pages(order: u8) -> usize {
    1 << order
}

impl From<Page> for Folio {
    fn from(page: Page) -> Self {
        // INVARIANT: It is one page, and owns itself.
        Self {
            page: ManuallyDrop::new(page),
            order: 0,
        }
    }
}

impl Drop for Folio {
    fn drop(&mut self) {
        if self.order == 0 {
            // SAFETY: It is not used afterwards.
            return unsafe { ManuallyDrop::drop(&mut self.page) };
        }
        // SAFETY: By the type invariants the reference is ours, and it is not used afterwards.
        unsafe { mechanism::folio_put(&self.page) }
    }
}
