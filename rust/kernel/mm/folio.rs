// SPDX-License-Identifier: GPL-2.0

//! What owns a page, a folio of several, or a bundle of them.

use super::bundle::{
    owned,
    Bundle, //
};
use crate::{
    alloc::Flags,
    bindings,
    mm::mechanism,
    page::{
        BorrowedPage,
        Page, //
    },
    prelude::*, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// Most that the order of a folio, or of a bundle, can be: what a page table maps (2 MiB).
pub const MAX_ORDER: u32 = 9;

/// How many pages are owned together, and how: a page, a folio of `2^order` that are one behind the
/// other in memory, or a bundle of as many that are pages of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape(u8);

impl Shape {
    const PAGE: Self = Self(0);
    const BUNDLE: u8 = 1 << 7;

    /// Returns it as bits, and [back](Self::of_bits): for who has others beside them.
    #[inline]
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    #[inline]
    pub(super) fn of_bits(bits: u8) -> Self {
        Self(bits)
    }

    #[inline]
    fn is_bundle(self) -> bool {
        self.0 & Self::BUNDLE != 0
    }

    #[inline]
    fn nr_pages(self) -> usize {
        1 << (self.0 & !Self::BUNDLE)
    }
}

/// What owns a page, a folio or a bundle.
///
/// # Invariants
///
/// - `page` is the first of as many as `shape` says. Of a bundle, it comes from
///   [`Bundle::alloc_zeroed`].
/// - The one reference to the page, or to the folio, is owned, or the bundle is.
pub(super) struct Folio {
    page: ManuallyDrop<Page>,
    shape: Shape,
}

impl Folio {
    /// Allocates zeroed memory: a page, or a folio.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if the `order` is 1 or above [`MAX_ORDER`]: there are no such folios here.
    /// - `ENOMEM` if there is none. For a folio of more than 8 pages nobody is killed.
    #[inline(never)]
    pub(super) fn alloc_zeroed(order: u32, flags: Flags) -> Result<Self> {
        let flags = flags | __GFP_ZERO;
        if order == 0 {
            return Ok(Page::alloc_page(flags)?.into());
        }
        if order == 1 || order > MAX_ORDER {
            return Err(EINVAL);
        }
        // SAFETY: It has no duties but those of the context, which `flags` say.
        let first = unsafe { bindings::tlb_batch_folio_alloc(flags.as_raw(), order) };
        let first = NonNull::new(first).ok_or(ENOMEM)?;
        // SAFETY: The one reference is ours, and goes with it.
        let page = ManuallyDrop::new(unsafe { owned(first) });
        // INVARIANT: It was just allocated, of so many pages.
        Ok(Self {
            page,
            shape: Shape(order as u8),
        })
    }

    /// Allocates a bundle of `2^order` zeroed pages.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if the `order` is 0 or above [`MAX_ORDER`].
    /// - `ENOMEM` if there is no memory, or if the task is being killed.
    pub(super) fn alloc_bundle(order: u32, flags: Flags) -> Result<Self> {
        if order == 0 || order > MAX_ORDER {
            return Err(EINVAL);
        }
        let page = Bundle::alloc_zeroed(1 << order, flags)?;
        // INVARIANT: It was just allocated, of so many pages.
        Ok(Self {
            page,
            shape: Shape(order as u8 | Shape::BUNDLE),
        })
    }

    /// Takes what is owned out: `from_parts` puts it back.
    pub(super) fn into_parts(self) -> (ManuallyDrop<Page>, Shape) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped: it is taken once.
        (unsafe { core::ptr::read(&this.page) }, this.shape)
    }

    /// # Safety
    ///
    /// Both must come from [`Folio::into_parts`], and the page not be used afterwards.
    pub(super) unsafe fn from_parts(page: ManuallyDrop<Page>, shape: Shape) -> Self {
        // INVARIANT: As promised by the caller.
        Self { page, shape }
    }

    /// Returns the page, if it is one.
    ///
    /// # Errors
    ///
    /// Gives several back.
    pub(super) fn into_page(self) -> Result<Page, Self> {
        match self.shape {
            Shape::PAGE => Ok(ManuallyDrop::into_inner(self.into_parts().0)),
            _ => Err(self),
        }
    }

    /// Returns its pages.
    pub(super) fn pages(&self) -> Pages<'_> {
        // SAFETY: By the type invariants.
        unsafe { Pages::new(&self.page, self.shape) }
    }
}

impl From<Page> for Folio {
    fn from(page: Page) -> Self {
        // INVARIANT: It is one page, and owns itself.
        Self {
            page: ManuallyDrop::new(page),
            shape: Shape::PAGE,
        }
    }
}

impl Drop for Folio {
    #[inline(never)]
    fn drop(&mut self) {
        if self.shape == Shape::PAGE {
            // SAFETY: It is not used afterwards.
            return unsafe { ManuallyDrop::drop(&mut self.page) };
        }
        if self.shape.is_bundle() {
            // SAFETY: By the type invariants it comes from there, and it is not used afterwards.
            return drop(unsafe { Bundle::take(&self.page) });
        }
        // SAFETY: By the type invariants the reference is ours, and it is not used afterwards.
        unsafe { bindings::tlb_batch_folio_put(self.page.as_ptr()) }
    }
}

/// The pages that somebody owns together.
///
/// # Invariants
///
/// As `Folio`, but for who owns them: they are kept as long as this exists.
#[derive(Clone, Copy)]
pub struct Pages<'a> {
    first: &'a Page,
    shape: Shape,
}

impl<'a> Pages<'a> {
    /// # Safety
    ///
    /// Both must be those of a [`Folio`], which is kept as long as the page is borrowed.
    #[inline]
    pub(super) unsafe fn new(first: &'a Page, shape: Shape) -> Self {
        // INVARIANT: As promised by the caller.
        Self { first, shape }
    }

    /// Returns the first of them.
    #[inline]
    pub fn first(self) -> &'a Page {
        self.first
    }

    /// Returns how many they are.
    #[inline]
    pub fn nr(self) -> usize {
        self.shape.nr_pages()
    }

    /// Returns them, if they are one behind the other: what is made for such, must not be made of a
    /// bundle.
    pub(super) fn as_folio(self) -> Option<Self> {
        (!self.shape.is_bundle()).then_some(self)
    }

    /// Returns all of them, if each is of its own.
    #[inline]
    pub(super) fn bundle(self) -> Option<&'a [NonNull<bindings::page>]> {
        if !self.shape.is_bundle() {
            return None;
        }
        // SAFETY: By the type invariants.
        Some(unsafe { Bundle::pages_of(self.first) })
    }

    /// Returns number `nth`, unless there are not as many.
    #[inline]
    pub(super) fn get(self, nth: usize) -> Option<NonNull<bindings::page>> {
        if let Some(pages) = self.bundle() {
            return pages.get(nth).copied();
        }
        if nth >= self.nr() {
            return None;
        }
        // `struct page`s of a folio are one behind the other, and it has as many.
        NonNull::new(self.first.as_ptr().wrapping_add(nth))
    }

    /// Returns them, one after the other.
    pub(super) fn iter(self) -> impl Iterator<Item = BorrowedPage<'a>> {
        let (first, bundle) = (self.first.as_ptr(), self.bundle());
        let pages = (0..self.nr()).filter_map(move |nth| match bundle {
            Some(pages) => pages.get(nth).copied(),
            // `struct page`s of a folio are one behind the other, and it has as many.
            None => NonNull::new(first.wrapping_add(nth)),
        });
        // SAFETY: They are valid for as long as they are kept.
        pages.map(|page| unsafe { BorrowedPage::from_raw(page) })
    }

    /// Returns whether nobody else holds a reference to any of them, and none is bad.
    pub(super) fn are_exclusive(self) -> bool {
        match self.shape.is_bundle() {
            true => self.iter().all(|page| mechanism::page_exclusive(&page)),
            false => mechanism::page_exclusive(self.first),
        }
    }

    /// Returns whether memory of any of them is known to be bad.
    pub(super) fn are_bad(self) -> bool {
        match self.shape.is_bundle() {
            true => self.iter().any(|page| mechanism::page_is_bad(&page)),
            false => mechanism::page_is_bad(self.first),
        }
    }
}

impl<'a> From<&'a Page> for Pages<'a> {
    #[inline]
    fn from(first: &'a Page) -> Self {
        // INVARIANT: It is one page, and is kept as long as it is borrowed.
        Self {
            first,
            shape: Shape::PAGE,
        }
    }
}
