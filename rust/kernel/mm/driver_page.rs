// SPDX-License-Identifier: GPL-2.0

//! Pages that are mapped without a reference.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::{
//!         driver_page::DriverPage,
//!         exclusive::ExclusivePage,
//!         rmap::AddressSpace,
//!         tlb::{Batch, Broadcast, Cpus}, //
//!     },
//!     sync::Arc, //
//! };
//!
//! let file = AddressSpace::new()?;
//! let data = Arc::new((), GFP_KERNEL)?;
//! let page = DriverPage::new(ExclusivePage::alloc_zeroed(GFP_KERNEL)?);
//! // A fault handler would map it, by `vmf.insert_pfn(&page, 7)`.
//!
//! let mut batch = Batch::new(Broadcast::new(Cpus::new(GFP_KERNEL)?), 1, GFP_KERNEL)?;
//! let mut staging = batch.stage();
//! staging.push(7, page).map_err(|_| ENOSPC)?;
//! staging.unmap(&file.over(data.as_arc_borrow()));
//! for (_, page) in batch.flush().drain() {
//!     // Nobody reaches it now: it may be changed, and given to someone else.
//!     let mut page = page.into_exclusive().map_err(|_| EBUSY)?;
//!     page.fill(7);
//! }
//! # Ok::<(), Error>(())
//! ```

use super::{
    exclusive::ExclusivePage,
    folio::{
        Folio,
        Pages,
        Shape, //
    },
    place::Place,
    stale::{
        Proof,
        Stale, //
    },
    stale_page::StalePage, //
};
use crate::{
    page::Page,
    prelude::*, //
};
use core::{
    cell::Cell,
    mem::ManuallyDrop,
    num::NonZeroUsize, //
};

/// Where a page is mapped by its frame number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mapped {
    place: Place,
    /// The page of the file behind it.
    next_pgoff: NonZeroUsize,
}

impl Mapped {
    /// [`None`]: no file has such a page.
    fn new(place: Place, pgoff: usize) -> Option<Self> {
        let next_pgoff = NonZeroUsize::new(pgoff.wrapping_add(1))?;
        Some(Self { place, next_pgoff })
    }
}

/// Its shape, and whether it is unmapped.
///
/// A word, as all else in a [`DriverPage`]: what is smaller, and what is left beside it, would be copied each
/// by itself.
#[derive(Clone, Copy)]
struct State(usize);

impl State {
    const UNMAPPED: usize = 1 << u8::BITS;

    fn new(shape: Shape) -> Self {
        Self(shape.bits().into())
    }

    #[inline]
    fn shape(self) -> Shape {
        Shape::of_bits(self.0 as u8)
    }

    fn is_unmapped(self) -> bool {
        self.0 & Self::UNMAPPED != 0
    }

    #[inline]
    fn unmapped(self, is: bool) -> Self {
        let bit = if is { Self::UNMAPPED } else { 0 };
        Self(self.0 & !Self::UNMAPPED | bit)
    }
}

/// An entry of a batch is copied a few times for each page.
const _: () = assert!(size_of::<DriverPage>() == 5 * size_of::<usize>());

/// A page of a driver, that may be mapped by its frame number ([`VmFault::insert_pfn`]): then no
/// PTE owns a reference to it, and this value is all that keeps it. Or several: a folio
/// ([`ExclusivePage::alloc_folio`]), or a bundle ([`ExclusivePage::alloc_bundle`]). Those go in and out of
/// a batch as a whole.
///
/// Once it was mapped so, it is not freed before it went through a [`Batch`](super::tlb::Batch) over the
/// same mappings. Dropped earlier, it is leaked, with a warning: a page that processes may reach is
/// never freed.
///
/// It is not [`Sync`]: threads share it under a lock, as their fault handlers have to anyway.
///
/// [`VmFault::insert_pfn`]: crate::mm::vm_ops::VmFault::insert_pfn
///
/// # Invariants
///
/// `page` and the shape in `state` are the parts of a `Folio`. It may be mapped by its frame numbers where
/// `mapped` says, from there on in mappings of that file over that data, and nowhere else. If `state` says
/// that it is unmapped, it is `mapped` still, but their PTEs were cleared after the last insertion, and the
/// flush is owed.
pub struct DriverPage {
    page: ManuallyDrop<Page>,
    /// Who maps pages has several of them borrowed, under the driver's lock, and none for itself.
    mapped: Cell<Option<Mapped>>,
    state: State,
}

impl DriverPage {
    /// Takes a page that nobody else can reach.
    pub fn new(page: ExclusivePage) -> Self {
        Self::unmapped_anywhere(page.into_folio())
    }

    /// Of a folio that is not mapped by its frame numbers.
    fn unmapped_anywhere(folio: Folio) -> Self {
        let (page, shape) = folio.into_parts();
        // INVARIANT: It is not mapped.
        Self {
            page,
            mapped: Cell::new(None),
            state: State::new(shape),
        }
    }

    /// Returns the page, to map it by reference; of several, the first one.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// Returns all of its pages.
    #[inline]
    pub(super) fn all(&self) -> Pages<'_> {
        // SAFETY: By the type invariants.
        unsafe { Pages::new(&self.page, self.state.shape()) }
    }

    /// Returns how many pages it is.
    pub fn nr_pages(&self) -> usize {
        self.all().nr()
    }

    /// Returns whether any of its memory is known to be bad: then it is not to be mapped, and
    /// [`DriverPage::into_exclusive`] refuses it.
    pub fn is_bad(&self) -> bool {
        self.all().are_bad()
    }

    /// Returns the page for exclusive use, if nobody else can reach it.
    ///
    /// # Errors
    ///
    /// Gives the page back if it may be mapped, if someone else holds a reference to it, or if its
    /// memory is bad.
    pub fn into_exclusive(self) -> Result<ExclusivePage, Self> {
        if self.may_be_mapped() {
            return Err(self);
        }
        let this = ManuallyDrop::new(self);
        // SAFETY: It is a folio by the type invariants; `this` is neither used afterwards, nor dropped.
        let folio = unsafe { Folio::from_parts(core::ptr::read(&this.page), this.state.shape()) };
        ExclusivePage::of_folio(folio).map_err(Self::unmapped_anywhere)
    }

    fn may_be_mapped(&self) -> bool {
        self.mapped.get().is_some()
    }

    /// Notes that it is about to be mapped by its frame numbers, as page `pgoff` of the file and what is
    /// behind that, or a part of it. Returns whether it may be: it must not be mapped so anywhere else.
    pub(crate) fn note_mapped(&self, place: Place, pgoff: usize) -> bool {
        let here = Mapped::new(place, pgoff);
        let is_free = self.mapped.get().is_none_or(|there| Some(there) == here);
        if is_free {
            // INVARIANT: It is mapped nowhere else, and stays noted until the flush.
            self.mapped.set(here);
        }
        is_free && here.is_some()
    }
}

impl Stale for DriverPage {
    #[inline]
    fn nr_pages(&self) -> usize {
        self.nr_pages()
    }

    #[inline]
    fn unmapped(&mut self, from: Place, pgoff: usize, _proof: Proof) {
        if let Some(there) = self.mapped.get() {
            // INVARIANT: Only if these are the mappings that it is in, and the place in the file.
            let is_here = Mapped::new(from, pgoff) == Some(there);
            self.state = self.state.unmapped(is_here);
        }
    }

    #[inline]
    fn flushed(&mut self, _proof: Proof) {
        if self.state.is_unmapped() {
            // INVARIANT: Its PTEs were cleared, and now they are flushed.
            self.state = self.state.unmapped(false);
            self.mapped.set(None);
        }
    }
}

// SAFETY:
// - The pages are the same each time; their references are put only when this is dropped,
//   or by `into_exclusive`, which consumes it.
// - By the invariants there are PTEs without a reference only at the place that is noted here, and
//   they were cleared if `state` says so.
// - This is what keeps account of them.
unsafe impl StalePage for DriverPage {
    #[inline]
    fn pages(&self) -> Pages<'_> {
        self.all()
    }

    fn is_unmapped(&self) -> bool {
        self.state.is_unmapped() || !self.may_be_mapped()
    }
}

impl Drop for DriverPage {
    fn drop(&mut self) {
        if self.may_be_mapped() {
            pr_warn!("a page was dropped without being unmapped: leaked\n");
            return;
        }
        // SAFETY: It is a folio by the type invariants, and not used afterwards. No PTE maps it that does
        // not own a reference, and no TLB.
        drop(unsafe { Folio::from_parts(core::ptr::read(&self.page), self.state.shape()) })
    }
}

#[cfg(CONFIG_RUST_TLB_KUNIT_TEST)]
#[macros::kunit_tests(rust_tlb_driver_page)]
mod tests {
    use super::*;
    use crate::{
        bindings,
        mm::{
            bundle::owned,
            mechanism, //
        }, //
    };
    use core::ptr::{
        self,
        NonNull, //
    };

    const HERE: Place = Place {
        mapping: 0x1000,
        data: 0x2000,
    };
    const PGOFF: usize = 5;

    fn mapped() -> DriverPage {
        let page = DriverPage::new(ExclusivePage::alloc_zeroed(GFP_KERNEL).unwrap());
        assert!(page.note_mapped(HERE, PGOFF));
        page
    }

    /// What a batch does that takes the page out of `place`, as page `pgoff`.
    fn unmap_and_flush(page: &mut DriverPage, place: Place, pgoff: usize) {
        page.unmapped(place, pgoff, Proof(()));
        page.flushed(Proof(()));
    }

    fn release(mut page: DriverPage) {
        unmap_and_flush(&mut page, HERE, PGOFF);
        assert!(page.into_exclusive().is_ok());
    }

    #[test]
    fn is_mapped_in_one_place_only() {
        let page = mapped();
        assert!(page.note_mapped(HERE, PGOFF));
        assert!(!page.note_mapped(HERE, PGOFF + 1));
        for place in [Place { mapping: 1, ..HERE }, Place { data: 1, ..HERE }] {
            assert!(!page.note_mapped(place, PGOFF));
        }
        release(page);
    }

    #[test]
    fn is_kept_if_it_was_unmapped_elsewhere() {
        let mut page = mapped();
        for (place, pgoff) in [
            (HERE, PGOFF + 1),
            (HERE, usize::MAX),
            (Place { mapping: 1, ..HERE }, PGOFF),
            (Place { data: 1, ..HERE }, PGOFF),
        ] {
            unmap_and_flush(&mut page, place, pgoff);
            assert!(!page.is_unmapped());
            page = page.into_exclusive().err().unwrap();
        }
        release(page);
    }

    #[test]
    fn is_kept_until_the_flush() {
        let mut page = mapped();
        page.unmapped(HERE, PGOFF, Proof(()));
        assert!(page.is_unmapped());
        page = page.into_exclusive().err().unwrap();
        page.flushed(Proof(()));
        assert!(page.into_exclusive().is_ok());
    }

    /// The second of two walks is what counts: the first may have left it mapped.
    #[test]
    fn is_kept_if_it_was_unmapped_elsewhere_at_last() {
        let mut page = mapped();
        page.unmapped(HERE, PGOFF, Proof(()));
        unmap_and_flush(&mut page, Place { data: 1, ..HERE }, PGOFF);
        page = page.into_exclusive().err().unwrap();
        release(page);
    }

    /// A folio is in one place, that of its first page, and there until that was unmapped and flushed.
    #[test]
    fn a_folio_is_kept_as_a_whole() {
        let mut folio = ExclusivePage::alloc_folio(2, GFP_KERNEL).unwrap();
        assert!(folio.is_filled_with(0));
        folio.fill(7);
        let folio = DriverPage::new(folio.into_page().err().unwrap());
        assert_eq!(folio.nr_pages(), 4);
        assert!(folio.note_mapped(HERE, PGOFF));
        assert!(!folio.note_mapped(HERE, PGOFF + 1));
        let mut folio = folio.into_exclusive().err().unwrap();
        unmap_and_flush(&mut folio, HERE, PGOFF + 1);
        folio = folio.into_exclusive().err().unwrap();
        unmap_and_flush(&mut folio, HERE, PGOFF);
        assert!(folio.into_exclusive().ok().unwrap().is_filled_with(7));
    }

    #[test]
    fn a_bundle_is_kept_as_a_whole() {
        let bundle = DriverPage::new(ExclusivePage::alloc_bundle(3, GFP_KERNEL).unwrap());
        assert_eq!(bundle.nr_pages(), 8);
        assert!(bundle.note_mapped(HERE, PGOFF));
        let mut bundle = bundle.into_exclusive().err().unwrap();
        unmap_and_flush(&mut bundle, HERE, PGOFF);
        let mut bundle = bundle.into_exclusive().ok().unwrap();
        assert!(bundle.is_filled_with(0));
        bundle.fill(7);
        assert!(bundle.is_filled_with(7));
        assert!(bundle.into_page().is_err());
        for order in [0, 10, u32::MAX] {
            assert!(ExclusivePage::alloc_bundle(order, GFP_KERNEL).is_err());
        }
    }

    /// What is for memory that is contiguous does not take it.
    #[test]
    fn a_bundle_is_no_folio() {
        for order in [2, 9] {
            let folio = DriverPage::new(ExclusivePage::alloc_folio(order, GFP_KERNEL).unwrap());
            assert!(folio.all().as_folio().is_some());
            let bundle = DriverPage::new(ExclusivePage::alloc_bundle(order, GFP_KERNEL).unwrap());
            assert!(bundle.all().as_folio().is_none());
        }
    }

    #[cfg(CONFIG_MEMORY_FAILURE)]
    #[test]
    fn each_page_of_a_bundle_can_be_bad() {
        for nth in [0, 5, 7] {
            let bundle = DriverPage::new(ExclusivePage::alloc_bundle(3, GFP_KERNEL).unwrap());
            let page = bundle.all().get(nth).unwrap();
            // SAFETY: It is valid; nobody else changes its flags meanwhile.
            let flip =
                || unsafe { (*page.as_ptr()).flags.f ^= 1 << bindings::pageflags_PG_hwpoison };
            flip();
            assert!(bundle.is_bad());
            let bundle = bundle.into_exclusive().err().unwrap();
            flip();
            assert!(!bundle.is_bad());
            let exclusive = bundle.into_exclusive().ok().unwrap();
            flip();
            assert!(exclusive.is_bad());
            flip();
        }
    }

    /// Whoever holds one of its pages holds that alone, and it is not exclusive.
    #[test]
    fn each_page_of_a_bundle_counts() {
        for nth in [0, 5, 7] {
            let bundle = DriverPage::new(ExclusivePage::alloc_bundle(3, GFP_KERNEL).unwrap());
            let page = bundle.all().get(nth).unwrap();
            // SAFETY: It is valid; nobody else changes the count meanwhile.
            let hold = |nr: i32| unsafe { (*page.as_ptr())._refcount.counter += nr };
            hold(1);
            let bundle = bundle.into_exclusive().err().unwrap();
            hold(-1);
            assert!(bundle.into_exclusive().is_ok());
        }
    }

    #[test]
    fn is_leaked_if_it_is_dropped_mapped() {
        let page = mapped();
        let raw = page.page().as_ptr();
        drop(page);
        // SAFETY: A `struct page` outlives its page, and no more of it than the count is read
        // before it is known that the page was not freed. Then nobody else has the reference that
        // was leaked, and nobody maps the page.
        let leaked = ManuallyDrop::new(unsafe { owned(NonNull::new(raw).unwrap()) });
        assert!(mechanism::page_exclusive(&leaked));
        drop(ManuallyDrop::into_inner(leaked));
    }

    #[test]
    fn a_bundle_is_leaked_if_it_is_dropped_mapped() {
        let bundle = DriverPage::new(ExclusivePage::alloc_bundle(3, GFP_KERNEL).unwrap());
        assert!(bundle.note_mapped(HERE, PGOFF));
        // SAFETY: `bundle` is not used but to be dropped, and that leaks what it owns: this owns it then.
        let leaked = ManuallyDrop::new(unsafe { ptr::read(&bundle) });
        drop(bundle);
        // If it was not leaked, nobody owns its pages, and to look at them is all that may be done.
        assert!(leaked.all().are_exclusive());
        release(ManuallyDrop::into_inner(leaked));
    }
}
