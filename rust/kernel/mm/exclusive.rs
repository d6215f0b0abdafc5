// SPDX-License-Identifier: GPL-2.0

//! Pages that nobody else can reach.

use super::{
    bundle::owned,
    folio::{
        Folio,
        Pages, //
    },
    stale_page::StalePage,
    window::PTRS_PER_PTE, //
};
use crate::{
    alloc::{
        flags::__GFP_HIGHMEM,
        Flags, //
    },
    bindings,
    mm::mechanism,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use core::ptr::NonNull;

/// Words that are copied at a time; a page is a multiple of them.
const CHUNK_WORDS: usize = 64;

/// Aligned, so that it costs the same wherever it lies on a stack: from the low bytes of both addresses
/// `memcpy()` of x86 concludes whether to begin at the end.
#[repr(align(256))]
struct Chunk([u64; CHUNK_WORDS]);

/// A page, or several, to which nobody else holds a reference: no PTE, no gather that has yet
/// to flush, no GUP user. Its contents can be changed, and it can be given to someone else.
///
/// # Invariants
///
/// The references that are owned are the only ones, and no TLB holds a translation to any of it.
pub struct ExclusivePage(Folio);

impl ExclusivePage {
    /// Takes `page` if there is no other reference to it.
    ///
    /// A page that is not flushed yet is in a [`Batch`](super::tlb::Batch), and cannot be passed here.
    ///
    /// # Errors
    ///
    /// Gives the page back if someone else holds a reference, or if its memory is bad. To drop it is
    /// then right: the last one to let go frees it.
    pub fn new(page: Page) -> Result<Self, Page> {
        if !mechanism::page_exclusive(&page) {
            return Err(page);
        }
        // INVARIANT: A PTE owns a reference, and so does a gather until it has flushed. Only
        // `Staging::unmap` puts a PTE's reference before the flush, and while it is owed, the page
        // is in a batch. GUP-fast may take a reference for a moment, but finds the PTE changed and
        // puts it again, without a look at the page.
        Ok(Self(page.into()))
    }

    /// As [`ExclusivePage::new`].
    pub(super) fn of_folio(folio: Folio) -> Result<Self, Folio> {
        if !folio.pages().are_exclusive() {
            return Err(folio);
        }
        // INVARIANT: As in `new`. All PTEs of a folio own references to its one count, and those of a
        // bundle to the counts of its pages, which were all looked at.
        Ok(Self(folio))
    }

    /// Allocates a zeroed page.
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there is none.
    pub fn alloc_zeroed(flags: Flags) -> Result<Self> {
        Self::alloc_folio(0, flags)
    }

    /// Allocates a zeroed folio of `2^order` pages, one behind the other in memory and aligned to all of
    /// them: one reference, and one entry of a [`Batch`](super::tlb::Batch), for all of them. Of order 0 it
    /// is a page.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if `order` is 1, or above [`MAX_ORDER`](super::folio::MAX_ORDER).
    /// - `ENOMEM` if there is none. For a folio of more than 8 pages nobody is killed.
    ///
    /// # Context
    ///
    /// May sleep, as `flags` say.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::{driver_page::DriverPage, exclusive::ExclusivePage};
    ///
    /// let mut folio = ExclusivePage::alloc_folio(2, GFP_KERNEL)?;
    /// assert_eq!(folio.nr_pages(), 4);
    /// folio.fill(7);
    /// assert!(folio.is_filled_with(7));
    /// // As a page: to be mapped by `VmFault::insert_folio`, and taken back by a batch.
    /// let folio = DriverPage::new(folio);
    /// assert!(folio.into_exclusive().is_ok());
    /// assert!(ExclusivePage::alloc_folio(1, GFP_KERNEL).is_err());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn alloc_folio(order: u32, flags: Flags) -> Result<Self> {
        // INVARIANT: It was just allocated; nobody knows of it.
        Ok(Self(Folio::alloc_zeroed(order, flags)?))
    }

    /// Allocates a bundle: `2^order` zeroed pages, each of its own, wherever there are some. To be mapped
    /// by frame numbers ([`VmFault::insert_pfn`]); one entry of a [`Batch`](super::tlb::Batch), as a folio
    /// is, for drivers that need no memory which is contiguous, such as buffer objects.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if `order` is 0, or above [`MAX_ORDER`](super::folio::MAX_ORDER).
    /// - `ENOMEM` if there is no memory, or if the task is being killed.
    ///
    /// # Context
    ///
    /// May sleep, as `flags` say.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::{driver_page::DriverPage, exclusive::ExclusivePage};
    ///
    /// let mut bundle = ExclusivePage::alloc_bundle(4, GFP_KERNEL)?;
    /// assert_eq!(bundle.nr_pages(), 16);
    /// bundle.fill(7);
    /// assert!(bundle.is_filled_with(7));
    /// let bundle = DriverPage::new(bundle);
    /// assert!(bundle.into_exclusive().is_ok());
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// [`VmFault::insert_pfn`]: crate::mm::vm_ops::VmFault::insert_pfn
    pub fn alloc_bundle(order: u32, flags: Flags) -> Result<Self> {
        // INVARIANT: It was just allocated; nobody knows of it.
        Ok(Self(Folio::alloc_bundle(order, flags)?))
    }

    /// Returns how many pages it is.
    pub fn nr_pages(&self) -> usize {
        self.0.pages().nr()
    }

    /// Allocates zeroed pages, one behind the other in memory and aligned to all of them: as many as
    /// a page table maps, to be mapped as a whole by frame numbers ([`VmFault::insert_huge`]). They are
    /// pages of their own: to be mapped by reference as a whole, they have to be a
    /// [folio](Self::alloc_folio).
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there are none, or not without much ado.
    ///
    /// # Context
    ///
    /// May sleep, as `flags` say.
    ///
    /// [`VmFault::insert_huge`]: crate::mm::vm_ops::VmFault::insert_huge
    #[inline(never)]
    pub fn alloc_huge(flags: Flags) -> Result<KVec<Self>> {
        // That is for pages, and not for a list of them.
        let mut pages = KVec::with_capacity(PTRS_PER_PTE, flags & !__GFP_HIGHMEM)?;
        // SAFETY: It has no duties but those of the context, which `flags` say.
        let first = unsafe { bindings::tlb_batch_alloc_huge((flags | __GFP_ZERO).as_raw()) };
        let first = NonNull::new(first).ok_or(ENOMEM)?;
        for nr in 0..PTRS_PER_PTE {
            // SAFETY: There are so many `struct page`s, one behind the other. The one reference to each
            // is ours, and goes with it.
            let page = unsafe { owned(first.add(nr)) };
            // INVARIANT: The page was just allocated; nobody knows of it. There is room.
            let _ = pages.push_within_capacity(Self(page.into()));
        }
        Ok(pages)
    }

    /// Returns whether any of its memory has turned out to be bad since. What is left to do is to drop
    /// it: nobody gets it again then.
    pub fn is_bad(&self) -> bool {
        self.0.pages().are_bad()
    }

    /// Fills it with zeroes.
    pub fn zero(&mut self) {
        for page in self.0.pages().iter() {
            // SAFETY: By the type invariants nobody else reads or writes the page.
            let result = unsafe { page.fill_zero_raw(0, PAGE_SIZE) };
            debug_assert!(result.is_ok());
        }
    }

    /// Fills it with `word`, over and over.
    pub fn fill(&mut self, word: u64) {
        let Chunk(words) = &Chunk([word; CHUNK_WORDS]);
        for page in self.0.pages().iter() {
            for offset in (0..PAGE_SIZE).step_by(size_of_val(words)) {
                let len = size_of_val(words);
                // SAFETY: `words` is valid for reads, and by the type invariants nobody else reads or
                // writes the page.
                let result = unsafe { page.write_raw(words.as_ptr().cast(), offset, len) };
                debug_assert!(result.is_ok());
            }
        }
    }

    /// Returns whether it holds nothing but `word`.
    pub fn is_filled_with(&self, word: u64) -> bool {
        let Chunk(words) = &mut Chunk([!word; CHUNK_WORDS]);
        let mut pages = self.0.pages().iter();
        pages.all(|page| {
            (0..PAGE_SIZE).step_by(size_of_val(words)).all(|offset| {
                let len = size_of_val(words);
                // SAFETY: `words` is valid for writes, and by the type invariants nobody else writes
                // the page.
                let result = unsafe { page.read_raw(words.as_mut_ptr().cast(), offset, len) };
                result.is_ok() && words.iter().all(|found| *found == word)
            })
        })
    }

    /// Makes it a copy of `from`, as far as both go.
    pub fn copy_from(&mut self, from: &Unwritable<'_>) {
        let Chunk(words) = &mut Chunk([0; CHUNK_WORDS]);
        for (to, from) in self.0.pages().iter().zip(from.0.iter()) {
            for offset in (0..PAGE_SIZE).step_by(size_of_val(words)) {
                let len = size_of_val(words);
                // SAFETY: `words` is valid for reads and writes of `len` bytes. By the type invariants
                // nobody writes `from`, and nobody else reads or writes this page.
                let result = unsafe {
                    let read = from.read_raw(words.as_mut_ptr().cast(), offset, len);
                    read.and_then(|()| to.write_raw(words.as_ptr().cast(), offset, len))
                };
                debug_assert!(result.is_ok());
            }
        }
    }

    /// Gives up exclusivity, for example to map the page.
    ///
    /// # Errors
    ///
    /// Gives several back: those are mapped as a [`DriverPage`](super::driver_page::DriverPage).
    pub fn into_page(self) -> Result<Page, Self> {
        self.0.into_page().map_err(Self)
    }

    pub(super) fn into_folio(self) -> Folio {
        self.0
    }
}

/// A page, or several, that nobody can write to, although CPUs may still read it.
///
/// # Invariants
///
/// The references of its owner are the only ones, and no TLB holds a dirty translation to any of it.
pub struct Unwritable<'a>(Pages<'a>);

impl<'a> Unwritable<'a> {
    /// Returns what `entry` owns, if no PTE can map it that owns no reference to it, and if nobody else
    /// holds one.
    ///
    /// # Safety
    ///
    /// No TLB holds a dirty translation to any of it.
    pub(super) unsafe fn of<P: StalePage>(entry: &'a P) -> Option<Self> {
        let is_exclusive = entry.is_unmapped() && entry.pages().are_exclusive();
        // INVARIANT: It was just looked at who holds references; the TLBs are as the caller promises.
        is_exclusive.then(|| Self(entry.pages()))
    }
}
