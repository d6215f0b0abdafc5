// SPDX-License-Identifier: GPL-2.0

//! The visitor that takes page tables out: which ones, and who is told. See [`tables`](super::tables).
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    policy::Record,
    walk::{
        self,
        At,
        FileLocked,
        Item,
        Mapping,
        Visitor, //
    }, //
};
use kernel::mm::{
    range::PageRange,
    window::PTRS_PER_PTE, //
};

/// Page tables that the pages of a batch were in, and that had to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Were empty, and are freed with the flush.
    pub nr_taken: usize,
    /// Map something still: that they may be empty was not so.
    pub nr_used: usize,
    /// Stay, because someone changes the mappings of their process right now.
    pub nr_busy: usize,
}

/// What became of a page table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Was empty, and is taken out.
    Taken,
    /// Is none.
    Absent,
    /// Maps something.
    Used,
    /// Stays, because someone changes the mappings of its process.
    Busy,
}

/// Says that the mapping is locked by its file, that it covers all that the page table maps, and that
/// the policy is told if that is taken out. Only [`take`] makes one.
pub(crate) struct Permit(());

/// A mapping that page tables can be taken out of.
pub(crate) trait TakeTable: Mapping {
    /// Page tables that were taken out. Whoever made it drops it after the policy has flushed.
    type Dead;

    /// Takes the page table out that maps `table`, if it is empty, and adds it to `dead`.
    fn take_table(&self, table: PageRange, dead: &mut Self::Dead, permit: &Permit) -> Fate;
}

/// Takes page tables out.
struct Taker<'a, F: ?Sized, D, E> {
    policy: &'a mut F,
    dead: &'a mut D,
    may_be_empty: E,
    counts: Counts,
}

impl<M, I, F, E> Visitor<M, I> for Taker<'_, F, M::Dead, E>
where
    M: TakeTable,
    F: Record<Mm = M::Mm> + ?Sized,
    E: Fn(usize, usize) -> bool,
{
    // For each table that goes they are told of all that it maps, and not only of some pages.
    const CHANGES: bool = false;

    fn visit(&mut self, at: &At<'_, M>, _items: &[I]) {
        let (table, (first, last)) = (at.table(), at.pgoffs());
        // The mapping covers it.
        if table.span_pages() != PTRS_PER_PTE || !(self.may_be_empty)(first, last) {
            return;
        }
        match at.mapping.take_table(table, self.dead, &Permit(())) {
            Fate::Taken => {
                self.policy.record_table(at.mapping.mm(), table);
                self.counts.nr_taken += 1;
            }
            Fate::Used => self.counts.nr_used += 1,
            Fate::Busy => self.counts.nr_busy += 1,
            Fate::Absent => {}
        }
    }
}

/// Takes those page tables out of `mappings` that any of `items` are in, which are sorted, and that are
/// empty. `may_be_empty` is asked about the first and the last page of the file that a table shows:
/// those are looked at for which it says so. `policy` is told of each that goes, and has to be flushed
/// before `dead` is dropped.
pub(crate) fn take<T, I, F>(
    mappings: &T,
    items: &[I],
    policy: &mut F,
    may_be_empty: impl Fn(usize, usize) -> bool,
    dead: &mut <T::Mapping as TakeTable>::Dead,
) -> Counts
where
    T: FileLocked<Mapping: TakeTable>,
    I: Item,
    F: Record<Mm = <T::Mapping as Mapping>::Mm> + ?Sized,
{
    let mut taker = Taker {
        policy,
        dead,
        may_be_empty,
        counts: Counts::default(),
    };
    walk::walk(mappings, items, &mut taker);
    taker.counts
}
