// SPDX-License-Identifier: GPL-2.0

//! What a [move](super::moves) moves, when it flushes, and what it did.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    force_flush::{
        self,
        Reason,
        Reasons, //
    },
    walk::Mapping, //
};
use kernel::{
    mm::{
        pte::{
            Look,
            Pte, //
        },
        range::PageRange, //
    },
    prelude::*, //
};

/// Says that both addresses of a PTE show the same page of the file, and that this page is pinned until
/// the old one is flushed, or that this is flushed before its page table is unlocked. Only a move makes
/// one.
pub struct Permit(pub(super) ());

/// A mapping that PTEs can be moved out of, or into. Its process' page tables do not change but by
/// way of the file's rmap: the `mmap_lock` is held for writing.
pub trait Move: Mapping {
    /// Keeps a page from being reused. Dropped, it does not any more.
    type Pin;
    /// Secondary MMUs are told that PTEs change, until it is dropped.
    type Bracket<'m>
    where
        Self: 'm;
    /// A page table of the new mapping, locked while one of the old mapping is.
    type Nested<'m>
    where
        Self: 'm;
    /// Places in the upper tables for a whole page table, where it is and where it goes to, locked.
    type Whole<'m>
    where
        Self: 'm;

    /// Checks that what is right in a PTE of this mapping is right in one of `to`.
    ///
    /// # Errors
    ///
    /// - `EXDEV`: they are of two processes, files, or drivers' data.
    /// - `EACCES`: they are protected differently.
    fn check(&self, to: &Self) -> Result;

    /// Opens a bracket.
    fn bracket(&self, range: PageRange) -> Self::Bracket<'_>;

    /// Sees to it that there is a place for a page table that maps `addr`, and with `table` that
    /// there is one. May sleep.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: there is no memory for it.
    fn prepare(&self, addr: usize, table: bool) -> Result;

    /// Sees to it that there is no leaf at `addr`: what it maps is unmapped, and flushed. May sleep.
    fn split_leaf(&self, addr: usize);

    /// Locks the page table that maps `addr`, beside `old`; [`None`] if there is none.
    fn lock_beside<'m>(&'m self, addr: usize, old: &'m Self::Table<'_>)
        -> Option<Self::Nested<'m>>;

    /// Locks the places of the page tables that map `old` here and `new` in `to`; [`None`] unless
    /// there is one here and none there.
    fn lock_whole<'m>(&'m self, old: usize, to: &'m Self, new: usize) -> Option<Self::Whole<'m>>;

    /// Returns what maps `addr`.
    fn pte<'t>(table: &'t Self::Table<'_>, addr: usize) -> Option<Pte<'t>>;

    /// Returns entry `index` of the table.
    fn pte_of_whole<'t>(whole: &'t Self::Whole<'_>, index: usize) -> Option<Pte<'t>>;

    /// Pins the page of `pte`, if there is one.
    fn pin(&self, pte: Pte<'_>) -> Option<Self::Pin>;

    /// Moves the PTE of `old` to `new`, and returns whether it did: not if there is something.
    fn move_pte(
        from: &Self::Table<'_>,
        old: usize,
        to: &mut Self::Nested<'_>,
        new: usize,
        permit: &Permit,
    ) -> bool;

    /// Moves the table.
    fn move_whole(whole: &mut Self::Whole<'_>, permit: &Permit);

    /// Flushes what others have cleared in this process, noted, and not flushed yet. Page tables are
    /// locked.
    fn settle_others(&self);

    /// Looks at the page of `pte`, and does not wait.
    fn look(&self, pte: Pte<'_>) -> Look;

    /// Where it is counted why PTEs are flushed before they are unlocked.
    fn reasons(&self) -> &Reasons;

    /// Returns whether the old address of `pte` has to be flushed before the page table is unlocked.
    /// It looks at the page under a lock that it only tries to take: what cannot be known without
    /// waiting is flushed. The reason is counted.
    fn should_force_flush(&self, pte: Pte<'_>) -> bool {
        let reason = force_flush::reason(pte, |pte| self.look(pte));
        self.reasons().count(reason)
    }

    /// Tells those who watch that PTEs were moved, and that so many of them were flushed at once.
    fn trace_moved(&self, old: PageRange, new: usize, nr_ptes: usize, nr_flushed: usize);
}

/// When a move flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before page tables are unlocked.
    Locked,
    /// At the end of the move.
    Deferred,
    /// As `Deferred`, without pins: a negative control.
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    Unpinned,
    /// As `Deferred`, and it is the new addresses that are recorded: a negative control.
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    NewOnly,
}

impl When {
    pub(super) fn defers(self) -> bool {
        self != Self::Locked
    }

    pub(super) fn pins(self) -> bool {
        match self {
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            Self::Unpinned => false,
            _ => true,
        }
    }

    /// What is recorded.
    pub(super) fn recorded(self, old: PageRange, _new: PageRange) -> PageRange {
        match self {
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            Self::NewOnly => _new,
            _ => old,
        }
    }
}

/// What a move did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// PTEs that moved.
    pub nr_ptes: usize,
    /// Page tables that moved as they are, with their PTEs.
    pub nr_tables: usize,
    /// PTEs that stayed, for there was something at the new address.
    pub nr_occupied: usize,
    /// Flushes before page tables were unlocked.
    pub nr_locked_flushes: usize,
    /// Why, by the number of the [`Reason`]; not those of [`When::Locked`].
    pub reasons: [usize; Reason::NR],
    /// Not all that there was did move, for want of memory.
    pub is_cut_short: bool,
}
