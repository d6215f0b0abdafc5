// SPDX-License-Identifier: GPL-2.0

//! What is at each page offset of an open file: a page, a copy of one, or a page whose flush is owed. If
//! the file has folios, a slot is that of a folio: it is found by the offset of any of its pages, and
//! what is handed out is that of its first.
//!
//! One rule is kept here, H3 of `Documentation/mm/tlb_batch.rst`: where a flush is owed, no other page
//! is mapped. [`Slots::fill`], which alone puts a page where a fault maps it, refuses such a place, and
//! [`Slots::settle`] opens it again, which is for who has flushed.
//!
//! Pure: pages `P` and copies `C` are whatever one likes. The host's tests run this very source.

#![forbid(unsafe_code)]

use super::sparse::{
    Item,
    Room,
    Sparse, //
};
use core::mem;
use kernel::{
    alloc::{
        AllocError,
        Flags,
        KVVec, //
    },
    mm::window::PTRS_PER_PTE, //
};

/// What is at one offset.
enum Slot<P, C> {
    /// Nothing: a fault maps a fresh page. Takes no memory.
    Empty,
    /// A page, that a fault maps.
    Present(P),
    /// As `Present`, but memory pressure may take it. It `was_taken` before, and came back empty.
    Idle { page: P, was_taken: bool },
    /// Memory pressure took an idle page. A fault maps a fresh one, which is idle, too.
    Taken,
    /// A page was here, and its flush is owed: other CPUs may still reach it. A fault has to flush
    /// before it maps another (H3).
    Pending,
    /// As `Pending`, with its contents saved here.
    PendingStored(C),
    /// A copy of the page that was here: a fault maps it.
    Stored(C),
}

impl<P, C> Slot<P, C> {
    /// The page that a fault maps, if there is one.
    fn page(&self) -> Option<&P> {
        match self {
            Self::Present(page) | Self::Idle { page, .. } => Some(page),
            _ => None,
        }
    }

    fn into_page(self) -> Option<P> {
        match self {
            Self::Present(page) | Self::Idle { page, .. } => Some(page),
            _ => None,
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self, Self::Idle { .. })
    }

    /// Leaves `instead` in the place of the page, if there is one.
    fn take(&mut self, instead: Self) -> Option<P> {
        self.page()?;
        mem::replace(self, instead).into_page()
    }

    /// The flush that was owed was made.
    fn settle(&mut self) {
        match self {
            Self::Pending => *self = Self::Empty,
            Self::PendingStored(_) => {
                if let Self::PendingStored(copy) = mem::replace(self, Self::Empty) {
                    *self = Self::Stored(copy);
                }
            }
            _ => {}
        }
    }
}

impl<P, C> Item for Slot<P, C> {
    fn is_nothing(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// A fault maps the page, or has.
    fn is_used(&self) -> bool {
        self.page().is_some()
    }
}

/// Memory for slots.
pub(crate) struct SlotRoom<P, C>(Room<Slot<P, C>>);

impl<P, C> SlotRoom<P, C> {
    /// Makes room for `nr` slots.
    pub(crate) fn new(nr: usize, flags: Flags) -> Result<Self, AllocError> {
        Room::new(nr, flags).map(Self)
    }
}

/// What a fault finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The file ends before it.
    Nowhere,
    /// A page.
    Page,
    /// None: it wants to be filled.
    Nothing,
    /// A copy: it wants to be restored.
    Copy,
    /// A flush is owed, and has to come first.
    Pending,
}

/// Who takes a page out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// It is flushed before anyone can look: nothing is left of it.
    Flushed,
    /// It goes into a batch, which is flushed some time.
    Settled,
    /// It is flushed before anyone can look, too, and that it was taken is remembered.
    Used,
}

/// The slots of an open file.
///
/// # Invariants
///
/// `nr_idle` of them are [`Slot::Idle`].
pub(crate) struct Slots<P, C> {
    slots: Sparse<Slot<P, C>>,
    nr_idle: usize,
    nr_pages: usize,
    /// Of the folios.
    order: u32,
}

impl<P, C> Slots<P, C> {
    /// Makes `nr_pages` empty slots.
    pub(crate) fn new(nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        let slots = Sparse::new(nr_pages, flags)?;
        // INVARIANT: None is idle.
        Ok(Self {
            slots,
            nr_idle: 0,
            nr_pages,
            order: 0,
        })
    }

    /// Has a slot for each folio of `2^order` pages, at most as many as a page table maps. All slots are
    /// empty so far.
    pub(crate) fn set_order(&mut self, order: u32) {
        self.order = order;
        self.slots
            .cut(self.nr_pages >> order, (PTRS_PER_PTE >> order).max(1));
    }

    /// Returns how many pages a slot is for.
    pub(crate) fn nr_per_slot(&self) -> usize {
        1 << self.order
    }

    /// Returns the first page of the slot that `pgoff` is in.
    pub(crate) fn first_of(&self, pgoff: usize) -> usize {
        pgoff >> self.order << self.order
    }

    /// Returns the first page of each slot that any of `pgoffs`, which are sorted, is in.
    pub(crate) fn firsts_of<'a>(&self, pgoffs: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        let (order, mut last) = (self.order, None);
        let firsts = pgoffs.iter().map(move |pgoff| pgoff >> order << order);
        firsts.filter(move |first| last.replace(*first) != Some(*first))
    }

    /// Returns all pages of the slots that any of `pgoffs`, which are sorted, is in.
    pub(crate) fn whole(&self, pgoffs: &[usize], flags: Flags) -> Result<KVVec<usize>, AllocError> {
        let nr_slots = self.firsts_of(pgoffs).count();
        let mut all = KVVec::with_capacity(nr_slots * self.nr_per_slot(), flags)?;
        for first in self.firsts_of(pgoffs) {
            for pgoff in first..first + self.nr_per_slot() {
                all.push(pgoff, flags)?;
            }
        }
        Ok(all)
    }

    /// Returns what a fault finds at `pgoff`.
    pub(crate) fn find(&self, pgoff: usize) -> Found {
        let number = pgoff >> self.order;
        match self.slots.get(number) {
            _ if number >= self.slots.len() => Found::Nowhere,
            Some(Slot::Present(_) | Slot::Idle { .. }) => Found::Page,
            None | Some(Slot::Empty | Slot::Taken) => Found::Nothing,
            Some(Slot::Stored(_)) => Found::Copy,
            Some(Slot::Pending | Slot::PendingStored(_)) => Found::Pending,
        }
    }

    /// Returns the page at `pgoff`, if there is one.
    pub(crate) fn get(&self, pgoff: usize) -> Option<&P> {
        self.slots.get(pgoff >> self.order)?.page()
    }

    /// Returns for how many slots there has to be [`SlotRoom`] before `pgoff` can be
    /// [filled](Slots::fill); [`None`] if there is room.
    pub(crate) fn room_wanted(&self, pgoff: usize) -> Option<usize> {
        self.slots.room_wanted(pgoff >> self.order)
    }

    /// Gives `pgoff`, and those around it, more room.
    pub(crate) fn grow(&mut self, pgoff: usize, room: SlotRoom<P, C>) {
        self.slots.grow(pgoff >> self.order, room.0);
    }

    /// Makes something else of the slot at `pgoff`, unless nothing has been there.
    fn change<R>(&mut self, pgoff: usize, change: impl FnOnce(&mut Slot<P, C>) -> R) -> Option<R> {
        let changed = self.slots.change(pgoff >> self.order, |slot| {
            let was_idle = slot.is_idle();
            let answer = change(slot);
            (was_idle, slot.is_idle(), answer)
        });
        let (was_idle, is_idle, answer) = changed?;
        // INVARIANT: Counted.
        self.nr_idle = self.nr_idle + usize::from(is_idle) - usize::from(was_idle);
        Some(answer)
    }

    /// As [`Slots::change`], by value.
    fn turn<R>(
        &mut self,
        pgoff: usize,
        turn: impl FnOnce(Slot<P, C>) -> (Slot<P, C>, R),
    ) -> Option<R> {
        self.change(pgoff, |slot| {
            let (turned, answer) = turn(mem::replace(slot, Slot::Empty));
            *slot = turned;
            answer
        })
    }

    /// Puts `page` at `pgoff`, where there is [`Found::Nothing`].
    ///
    /// # Errors
    ///
    /// Gives the page back if there is something, or a flush is owed (H3), and if
    /// [`Slots::room_wanted`].
    pub(crate) fn fill(&mut self, pgoff: usize, page: P) -> Result<(), P> {
        let number = pgoff >> self.order;
        if !matches!(self.slots.get(number), Some(Slot::Taken)) {
            let filled = self.slots.insert(number, Slot::Present(page));
            return filled.or_else(|slot| slot.into_page().map_or(Ok(()), Err));
        }
        let was_taken = true;
        self.change(pgoff, |slot| *slot = Slot::Idle { page, was_taken });
        Ok(())
    }

    /// Turns the copy at `pgoff`, if there is one, into a page.
    pub(crate) fn restore(&mut self, pgoff: usize, page: impl FnOnce(C) -> P) {
        self.turn(pgoff, |slot| match slot {
            Slot::Stored(copy) => (Slot::Present(page(copy)), ()),
            other => (other, ()),
        });
    }

    /// Takes the page at `pgoff` out, `until` then.
    pub(crate) fn take(&mut self, pgoff: usize, until: Until) -> Option<P> {
        let instead = match until {
            Until::Flushed => Slot::Empty,
            Until::Settled => Slot::Pending,
            Until::Used => Slot::Taken,
        };
        self.change(pgoff, |slot| slot.take(instead))?
    }

    /// Takes the first idle page at `from` or behind it out, for memory pressure.
    pub(crate) fn take_idle(&mut self, from: usize) -> Option<(usize, P)> {
        let number = self.slots.first_from(from >> self.order, Slot::is_idle)?;
        let pgoff = number << self.order;
        Some((pgoff, self.take(pgoff, Until::Used)?))
    }

    /// Takes the first page at `from` or behind it out.
    pub(crate) fn take_any(&mut self, from: usize) -> Option<(usize, P)> {
        let is_there = |slot: &Slot<P, C>| slot.page().is_some();
        let pgoff = self.slots.first_from(from >> self.order, is_there)? << self.order;
        Some((pgoff, self.take(pgoff, Until::Flushed)?))
    }

    /// Puts a page back that was taken out until it is settled, and is still mapped.
    pub(crate) fn put_back(&mut self, pgoff: usize, page: P) {
        self.turn(pgoff, |slot| match slot {
            Slot::Pending | Slot::PendingStored(_) => (Slot::Present(page), ()),
            other => (other, ()),
        });
    }

    /// Keeps `copy` of the page at `pgoff`, whose flush is owed.
    pub(crate) fn store(&mut self, pgoff: usize, copy: C) {
        self.turn(pgoff, |slot| match slot {
            Slot::Pending => (Slot::PendingStored(copy), ()),
            other => (other, ()),
        });
    }

    /// The flushes of the pages that were at `pgoffs` were made. A page whose contents were to be saved
    /// (`true` beside it), and were not, is still [`Found::Pending`]: it goes [back](Slots::put_back).
    pub(crate) fn settle(&mut self, pgoffs: impl Iterator<Item = (usize, bool)>) {
        let order = self.order;
        let numbers = pgoffs.map(|(pgoff, keep)| (pgoff >> order, keep));
        // INVARIANT: What is pending is not idle, nor is what it becomes.
        self.slots.change_each(numbers, |slot, keep| {
            if !(keep && matches!(slot, Slot::Pending)) {
                slot.settle();
            }
        });
    }

    /// Marks the page at `pgoff` as idle; returns whether there is one that was not.
    pub(crate) fn mark_idle(&mut self, pgoff: usize) -> bool {
        let was_taken = false;
        let marked = self.turn(pgoff, |slot| match slot {
            Slot::Present(page) => (Slot::Idle { page, was_taken }, true),
            other => (other, false),
        });
        marked.unwrap_or(false)
    }

    /// Takes the page at `pgoff` back into use. Returns whether it was idle, and whether it was
    /// taken since it was marked.
    pub(crate) fn unmark_idle(&mut self, pgoff: usize) -> (bool, bool) {
        let unmarked = self.turn(pgoff, |slot| match slot {
            Slot::Idle { page, was_taken } => (Slot::Present(page), (true, was_taken)),
            Slot::Taken => (Slot::Empty, (false, true)),
            other => (other, (false, false)),
        });
        unmarked.unwrap_or((false, false))
    }

    /// Returns how many pages are idle.
    pub(crate) fn nr_idle(&self) -> usize {
        self.nr_idle
    }

    /// Returns whether nothing is at any of `pgoffs`, and no flush is owed.
    pub(crate) fn are_free(&self, mut pgoffs: core::ops::Range<usize>) -> bool {
        pgoffs.all(|pgoff| self.find(pgoff) == Found::Nothing)
    }

    /// Returns whether there is a page in any of the page tables' worth of slots that `first` to
    /// `last` are in. Where there is none, page tables that show only those are empty, once what was
    /// taken out of them is unmapped.
    pub(crate) fn is_used(&self, first: usize, last: usize) -> bool {
        self.slots.is_used(first >> self.order, last >> self.order)
    }
}
