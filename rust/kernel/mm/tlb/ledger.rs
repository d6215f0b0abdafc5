// SPDX-License-Identifier: GPL-2.0

//! Which address spaces a batch owes a flush, and for which range.
//!
//! A fixed table: it is written under the page-table lock, where nothing can be allocated. Pure,
//! and generic over what stands for an address space: the kernel keeps an `ARef<Mm>`, the host a
//! model.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use kernel::mm::range::Pending;

/// One address space, and what it is owed.
#[derive(Debug)]
pub struct Entry<M> {
    /// What keeps the address space, and so its identity, from being reused.
    pub mm: M,
    /// The pages that wait for a flush.
    pub pending: Pending,
}

/// A table of up to `N` address spaces.
///
/// # Invariants
///
/// - The first `len` entries are [`Some`], the others [`None`].
/// - No two entries are for the same address space.
/// - `nr_pages` is the sum of the pages ever noted since the last [`Ledger::clear`], over address
///   spaces in the table or not; `dirty` is set if and only if one of them was.
pub struct Ledger<M, const N: usize> {
    entries: [Option<Entry<M>>; N],
    len: usize,
    nr_pages: usize,
    dirty: bool,
}

/// The table has no room for another address space.
#[derive(Debug, PartialEq, Eq)]
pub struct Overflow;

impl<M, const N: usize> Ledger<M, N> {
    /// Returns an empty table.
    pub const fn new() -> Self {
        // INVARIANT: No entry, no page.
        Self {
            entries: [const { None }; N],
            len: 0,
            nr_pages: 0,
            dirty: false,
        }
    }

    /// Notes `pending` for the address space that `same` recognises; `pin` makes its entry if there
    /// is none yet.
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the address space is new and the table full. The pages are counted all the
    /// same, but whoever called has to see to it that this address space is flushed.
    pub fn note(
        &mut self,
        pending: Pending,
        same: impl Fn(&M) -> bool,
        pin: impl FnOnce() -> M,
    ) -> Result<(), Overflow> {
        // INVARIANT: Whether there is room or not.
        self.nr_pages = self.nr_pages.saturating_add(pending.nr_pages());
        self.dirty |= pending.is_dirty();
        let mut known = self.entries.iter_mut().take(self.len).flatten();
        if let Some(entry) = known.find(|e| same(&e.mm)) {
            entry.pending.merge(pending);
            return Ok(());
        }
        let slot = self.entries.get_mut(self.len).ok_or(Overflow)?;
        // INVARIANT: The first free entry is taken, and the search above found no equal.
        *slot = Some(Entry { mm: pin(), pending });
        self.len += 1;
        Ok(())
    }

    /// Returns the entries, in the order in which their address spaces were first noted.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<M>> {
        self.entries.iter().take(self.len).flatten()
    }

    /// Returns how many address spaces are in the table.
    pub const fn nr_mms(&self) -> usize {
        self.len
    }

    /// Returns how many pages were noted.
    pub const fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    /// Returns whether one of them was dirty.
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Empties the table and lets go of the address spaces.
    pub fn clear(&mut self) {
        // INVARIANT: Entries from `len` on are `None` already.
        self.entries
            .iter_mut()
            .take(self.len)
            .for_each(|e| *e = None);
        self.len = 0;
        self.nr_pages = 0;
        self.dirty = false;
    }
}

impl<M, const N: usize> Default for Ledger<M, N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_ledger))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;
    use kernel::{
        mm::range::PageRange,
        page::PAGE_SIZE, //
    };

    fn page(n: usize) -> Pending {
        Pending::new(PageRange::of_page(n * PAGE_SIZE).unwrap(), 1)
    }

    fn note<const N: usize>(l: &mut Ledger<u32, N>, mm: u32, n: usize) -> Result<(), Overflow> {
        l.note(page(n), |m| *m == mm, || mm)
    }

    #[test]
    fn ranges_stay_apart_by_address_space() {
        let mut ledger = Ledger::<u32, 2>::new();
        assert_eq!(note(&mut ledger, 7, 1), Ok(()));
        assert_eq!(note(&mut ledger, 8, 100), Ok(()));
        assert_eq!(note(&mut ledger, 7, 3), Ok(()));
        assert_eq!(ledger.nr_mms(), 2);
        assert_eq!(ledger.nr_pages(), 3);
        let spans = [3, 1];
        for (entry, span) in ledger.iter().zip(spans) {
            assert_eq!(entry.pending.range().span_pages(), span);
        }
    }

    #[test]
    fn a_full_table_still_takes_what_it_knows() {
        let mut ledger = Ledger::<u32, 1>::new();
        assert_eq!(note(&mut ledger, 7, 1), Ok(()));
        assert_eq!(note(&mut ledger, 8, 2), Err(Overflow));
        assert_eq!(note(&mut ledger, 7, 2), Ok(()));
        assert_eq!((ledger.nr_mms(), ledger.nr_pages()), (1, 3));
        ledger.clear();
        assert_eq!((ledger.nr_mms(), ledger.nr_pages()), (0, 0));
        assert_eq!(note(&mut ledger, 8, 2), Ok(()));
    }
}
