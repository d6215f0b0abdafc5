// SPDX-License-Identifier: GPL-2.0

//! The visitor that moves PTEs: the steps of a [move](super::moves) between the locks of one page
//! table and the next.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    movable::{
        Done,
        Move,
        Permit,
        When, //
    },
    policy::{
        Flush,
        Touched, //
    },
    walk::{
        At,
        Visitor, //
    }, //
};
use kernel::{
    alloc::KVVec,
    mm::{
        pte::Pte,
        range::{
            PageRange,
            Pending, //
        },
        window::{
            Window,
            PTRS_PER_PTE, //
        }, //
    },
    prelude::*, //
};

/// The visitor that moves.
pub(super) struct Mover<'a, M: Move, F: ?Sized> {
    pub(super) to: &'a M,
    /// Of `to`.
    pub(super) window: Window,
    pub(super) when: When,
    pub(super) policy: &'a mut F,
    pub(super) pins: &'a mut KVVec<M::Pin>,
    pub(super) is_settled: bool,
    pub(super) done: Done,
}

/// What is to be flushed of a page table.
#[derive(Default)]
struct Debt {
    now: Option<PageRange>,
    later: Option<Pending>,
    nr_ptes: usize,
    nr_now: usize,
}

impl Debt {
    fn add_now(&mut self, page: PageRange) {
        self.now = Some(self.now.map_or(page, |range| range.union(page)));
        self.nr_ptes += 1;
        self.nr_now += 1;
    }

    fn add_later(&mut self, page: PageRange, dirty: bool) {
        let page = Pending::new(page, 1).dirty(dirty);
        match &mut self.later {
            Some(pending) => pending.merge(page),
            None => self.later = Some(page),
        }
        self.nr_ptes += 1;
    }
}

impl<M, F> Mover<'_, M, F>
where
    M: Move,
    F: Flush<Mm = M::Mm> + ?Sized,
{
    /// The page of the new mapping that shows page `pgoff` of the file.
    fn page(&self, pgoff: usize) -> Option<PageRange> {
        PageRange::of_page(self.window.address_of(pgoff)?)
    }

    fn settle_others_once(&mut self, from: &M) {
        if !core::mem::replace(&mut self.is_settled, true) {
            from.settle_others();
        }
    }

    /// Pins the page of `pte`, if its flush can be left to later. Returns whether it can.
    fn defer(&mut self, from: &M, pte: Pte<'_>) -> bool {
        if !self.when.defers() || from.should_force_flush(pte) {
            return false;
        }
        if !self.when.pins() {
            return true;
        }
        let pin = from.pin(pte);
        pin.is_some_and(|pin| self.pins.push_within_capacity(pin).is_ok())
    }

    /// Moves what one pair of page tables has of `pgoffs`.
    fn move_ptes(
        &mut self,
        at: &At<'_, M>,
        old: &M::Table<'_>,
        new: &mut M::Nested<'_>,
        pgoffs: &[usize],
    ) {
        let mut debt = Debt::default();
        for &pgoff in pgoffs {
            let (Some(from), Some(to)) = (at.page(pgoff), self.page(pgoff)) else {
                continue;
            };
            let Some(pte) = M::pte(old, from.start()).filter(Pte::is_present) else {
                continue;
            };
            let dirty = pte.is_dirty();
            // Pinned before it moves. What does not move is pinned for nothing.
            let defers = self.defer(at.mapping, pte);
            if !M::move_pte(old, from.start(), new, to.start(), &Permit(())) {
                self.done.nr_occupied += 1;
            } else if defers {
                debt.add_later(self.when.recorded(from, to), dirty);
            } else {
                debt.add_now(from);
            }
        }
        self.pay(at, debt, pgoffs);
    }

    /// Flushes and records what is owed for a page table, which is locked.
    fn pay(&mut self, at: &At<'_, M>, debt: Debt, pgoffs: &[usize]) {
        if let Some(range) = debt.now {
            at.mapping.flush_now(range);
            self.done.nr_locked_flushes += 1;
        }
        if let Some(pending) = debt.later {
            at.mapping.trace_owed(pending, Touched::Moved);
            self.policy.record(at.mapping.mm(), pending);
        }
        self.done.nr_ptes += debt.nr_ptes;
        let first = pgoffs.first().copied();
        let places = first.and_then(|first| at.page(first).zip(self.page(first)));
        if let Some((from, to)) = places {
            at.mapping
                .trace_moved(from, to.start(), debt.nr_ptes, debt.nr_now);
        }
    }

    /// Moves a page table as it is, if `pgoffs` are all that it maps, and it fits where they go to.
    /// Returns whether it did.
    fn move_whole(&mut self, at: &At<'_, M>, pgoffs: &[usize]) -> bool {
        let Some((old, new)) = self.whole(at, pgoffs) else {
            return false;
        };
        let Some(mut whole) = at.mapping.lock_whole(old.start(), self.to, new.start()) else {
            return false;
        };
        self.settle_others_once(at.mapping);
        let mut debt = Debt::default();
        let mut defers = self.when.defers();
        for (index, (from, to)) in old.pages().zip(new.pages()).enumerate() {
            let Some(pte) = M::pte_of_whole(&whole, index).filter(Pte::is_present) else {
                continue;
            };
            // One that has to be flushed now is enough: it is one table.
            defers = defers && self.defer(at.mapping, pte);
            debt.add_later(self.when.recorded(from, to), pte.is_dirty());
        }
        if debt.nr_ptes == 0 {
            // It stays: to move it would owe a flush all the same, for the upper entries.
            return true;
        }
        M::move_whole(&mut whole, &Permit(()));
        // Upper entries may be cached, too, and lead to the table from all of its old addresses.
        debt.later = Some(Pending::new(self.when.recorded(old, new), debt.nr_ptes).dirty(true));
        if !defers {
            debt.now = debt.later.take().map(|_| old);
            debt.nr_now = debt.nr_ptes;
        }
        self.done.nr_tables += 1;
        self.pay(at, debt, pgoffs);
        true
    }

    /// Where a page table is and goes to that maps `pgoffs` and nothing else.
    fn whole(&self, at: &At<'_, M>, pgoffs: &[usize]) -> Option<(PageRange, PageRange)> {
        if pgoffs.len() != PTRS_PER_PTE {
            return None;
        }
        let (first, last) = (*pgoffs.first()?, *pgoffs.last()?);
        let old = at.page(first)?.union(at.page(last)?);
        let new = self.page(first)?.union(self.page(last)?);
        let is_whole =
            |window: Window, range: PageRange| window.whole_table_at(range.start()) == Some(range);
        let are_whole = is_whole(at.mapping.window()?, old) && is_whole(self.window, new);
        are_whole.then_some((old, new))
    }

    /// Those of `pgoffs` at the front that one page table of the new mapping maps, and the others.
    fn split<'p>(&self, pgoffs: &'p [usize]) -> Option<(usize, &'p [usize], &'p [usize])> {
        let addr = self.window.address_of(*pgoffs.first()?)?;
        let here = self.window.table_of(addr)?;
        let is_here = |pgoff: &usize| {
            let addr = self.window.address_of(*pgoff);
            addr.is_some_and(|addr| here.contains(addr))
        };
        let (front, rest) = pgoffs.split_at_checked(pgoffs.partition_point(is_here))?;
        Some((addr, front, rest))
    }

    /// Leaves nothing of `pgoffs` mapped as a whole, in either mapping: none comes while it moves.
    fn split_leaves(&self, at: &At<'_, M>, pgoffs: &[usize]) {
        if let Some(old) = pgoffs.first().and_then(|pgoff| at.page(*pgoff)) {
            at.mapping.split_leaf(old.start());
        }
        let mut rest = pgoffs;
        while let Some((addr, _, behind)) = self.split(rest) {
            self.to.split_leaf(addr);
            rest = behind;
        }
    }

    /// Does what comes before the page table of `pgoffs` is locked. Returns whether there is nothing
    /// left to do there.
    fn move_unlocked(&mut self, at: &At<'_, M>, pgoffs: &[usize]) -> bool {
        if self.done.is_cut_short {
            return true;
        }
        self.split_leaves(at, pgoffs);
        if let Some((_, new)) = self.whole(at, pgoffs) {
            if self.to.prepare(new.start(), false).is_ok() && self.move_whole(at, pgoffs) {
                return true;
            }
        }
        self.done.is_cut_short = self.prepare(pgoffs).is_err();
        self.done.is_cut_short
    }

    /// Makes what page tables `pgoffs` need in the new mapping.
    fn prepare(&self, mut pgoffs: &[usize]) -> Result {
        while let Some((addr, _, rest)) = self.split(pgoffs) {
            self.to.prepare(addr, true)?;
            pgoffs = rest;
        }
        Ok(())
    }
}

impl<M, F> Visitor<M, usize> for Mover<'_, M, F>
where
    M: Move,
    F: Flush<Mm = M::Mm> + ?Sized,
{
    // They are told for longer than the walk lasts: until the flush.
    const CHANGES: bool = false;

    fn visit(&mut self, at: &At<'_, M>, pgoffs: &[usize]) {
        if self.move_unlocked(at, pgoffs) {
            return;
        }
        let Some(old) = at.lock() else {
            return;
        };
        self.settle_others_once(at.mapping);
        let mut rest = pgoffs;
        while let Some((addr, front, behind)) = self.split(rest) {
            match self.to.lock_beside(addr, &old) {
                Some(mut new) => self.move_ptes(at, &old, &mut new, front),
                // Does not happen: it was made, and who takes it out needs the `mmap_lock`.
                None => self.done.is_cut_short = true,
            }
            rest = behind;
        }
    }
}
