// SPDX-License-Identifier: GPL-2.0

//! Contents of pages that nobody can write to any more.

use super::batch::Settled;
use crate::mm::{
    exclusive::Unwritable,
    stale_page::StalePage, //
};

impl<P: StalePage> Settled<'_, P> {
    /// Returns the pages with their page offsets, and [`None`] for one that someone else holds a
    /// reference to, and so may write to, for example by direct I/O; that may be mapped still; or
    /// whose memory is bad.
    pub fn pages(&self) -> impl Iterator<Item = (usize, Option<Unwritable<'_>>)> {
        self.entries().map(|(pgoff, entry)| {
            // SAFETY: The batch has flushed if there was a dirty translation; a write through a clean
            // one faults, and its PTE is gone.
            (pgoff, unsafe { Unwritable::of(entry) })
        })
    }
}

#[cfg(CONFIG_RUST_TLB_KUNIT_TEST)]
#[macros::kunit_tests(rust_tlb_settled)]
mod tests {
    use super::super::{
        Batch,
        Broadcast,
        Cpus, //
    };
    use super::*;
    use crate::{
        mm::{
            driver_page::DriverPage,
            exclusive::ExclusivePage,
            place::Place,
            rmap::AddressSpace,
            stale::{
                Proof,
                Stale, //
            },
            stale_page::Pages, //
        },
        prelude::*,
        sync::Arc, //
    };

    const PGOFF: usize = 5;

    /// What a driver may put around a page.
    struct Wrapped(DriverPage);

    impl Stale for Wrapped {
        fn nr_pages(&self) -> usize {
            self.0.nr_pages()
        }

        fn unmapped(&mut self, from: Place, pgoff: usize, proof: Proof) {
            self.0.unmapped(from, pgoff, proof);
        }

        fn flushed(&mut self, proof: Proof) {
            self.0.flushed(proof);
        }
    }

    // SAFETY: All of it is that of the page within.
    unsafe impl StalePage for Wrapped {
        fn pages(&self) -> Pages<'_> {
            self.0.pages()
        }

        fn is_unmapped(&self) -> bool {
            self.0.is_unmapped()
        }
    }

    /// A batch takes at its word where a page is mapped. Where it is not, it may be mapped elsewhere,
    /// and written to: its contents are nobody's to save.
    #[test]
    fn what_is_mapped_elsewhere_is_not_final() {
        let mapping = AddressSpace::new().unwrap();
        let data = Arc::new((), GFP_KERNEL).unwrap();
        for (pgoff, is_final) in [(PGOFF, true), (PGOFF + 1, false)] {
            let page = DriverPage::new(ExclusivePage::alloc_zeroed(GFP_KERNEL).unwrap());
            let place = mapping.place(data.as_arc_borrow());
            assert!(page.note_mapped(place, PGOFF));
            let policy = Broadcast::new(Cpus::new(GFP_KERNEL).unwrap());
            let mut batch = Batch::new(policy, 1, GFP_KERNEL).unwrap();
            let mut staging = batch.stage();
            assert!(staging.push(pgoff, Wrapped(page)).is_ok());
            staging.unmap(&mapping.over(data.as_arc_borrow()));
            let settled = batch.flush_dirty();
            // A loop: what adapters make of these types has a longer name than modpost takes.
            let mut nr_pages = 0;
            for (_, page) in settled.pages() {
                assert_eq!(page.is_some(), is_final);
                nr_pages += 1;
            }
            assert_eq!(nr_pages, 1);
            for (_, page) in batch.flush().drain() {
                let mut page = page.0;
                page.unmapped(place, PGOFF, Proof(()));
                page.flushed(Proof(()));
                assert!(page.into_exclusive().is_ok());
            }
        }
    }

    /// Copies `folio`, which is full of sevens, by way of a batch, to `copy`.
    fn expect_copied(mut folio: ExclusivePage, mut copy: ExclusivePage) {
        let mapping = AddressSpace::new().unwrap();
        let data = Arc::new((), GFP_KERNEL).unwrap();
        folio.fill(7);
        let policy = Broadcast::new(Cpus::new(GFP_KERNEL).unwrap());
        let mut batch = Batch::new(policy, 1, GFP_KERNEL).unwrap();
        let mut staging = batch.stage();
        assert!(staging.push(PGOFF, DriverPage::new(folio)).is_ok());
        staging.unmap(&mapping.over(data.as_arc_borrow()));
        for (_, page) in batch.flush_dirty().pages() {
            copy.copy_from(&page.unwrap());
        }
        assert!(copy.is_filled_with(7));
    }

    #[test]
    fn all_pages_of_a_folio_are_copied() {
        let folio = || ExclusivePage::alloc_folio(2, GFP_KERNEL).unwrap();
        let bundle = || ExclusivePage::alloc_bundle(2, GFP_KERNEL).unwrap();
        expect_copied(folio(), folio());
        expect_copied(bundle(), bundle());
        expect_copied(bundle(), folio());
        expect_copied(folio(), bundle());
    }
}
