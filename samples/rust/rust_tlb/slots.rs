// SPDX-License-Identifier: GPL-2.0

//! What is at each page offset of an open file: a page, a copy of one, or a page whose flush is owed.
//!
//! One rule is kept here (H3): where a flush is owed, no other page is mapped. [`Slots::fill`], which
//! alone puts a page where a fault maps it, refuses such a place, and [`Slots::settle`] opens it
//! again, which is for who has flushed.
//!
//! Pure: pages `P` and copies `C` are whatever one likes. The host's tests run this very source.

#![forbid(unsafe_code)]

use kernel::alloc::{
    AllocError,
    Flags,
    KVVec, //
};

/// What is at one offset.
enum Slot<P, C> {
    /// Nothing: a fault maps a fresh page.
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
    slots: KVVec<Slot<P, C>>,
    nr_idle: usize,
}

impl<P, C> Slots<P, C> {
    /// Makes `nr_pages` empty slots.
    pub(crate) fn new(nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut slots = KVVec::with_capacity(nr_pages, flags)?;
        for _ in 0..nr_pages {
            slots.push(Slot::Empty, flags)?;
        }
        // INVARIANT: None is idle.
        Ok(Self { slots, nr_idle: 0 })
    }

    /// Returns what a fault finds at `pgoff`.
    pub(crate) fn find(&self, pgoff: usize) -> Found {
        match self.slots.get(pgoff) {
            None => Found::Nowhere,
            Some(Slot::Present(_) | Slot::Idle { .. }) => Found::Page,
            Some(Slot::Empty | Slot::Taken) => Found::Nothing,
            Some(Slot::Stored(_)) => Found::Copy,
            Some(Slot::Pending | Slot::PendingStored(_)) => Found::Pending,
        }
    }

    /// Returns the page at `pgoff`, if there is one.
    pub(crate) fn get(&self, pgoff: usize) -> Option<&P> {
        match self.slots.get(pgoff)? {
            Slot::Present(page) | Slot::Idle { page, .. } => Some(page),
            _ => None,
        }
    }

    /// Puts `page` at `pgoff`, where there is [`Found::Nothing`].
    ///
    /// # Errors
    ///
    /// Gives the page back if there is something, or a flush is owed (H3).
    pub(crate) fn fill(&mut self, pgoff: usize, page: P) -> Result<(), P> {
        match self.slots.get_mut(pgoff) {
            Some(slot @ Slot::Empty) => *slot = Slot::Present(page),
            Some(slot @ Slot::Taken) => {
                // INVARIANT: One more is idle.
                self.nr_idle += 1;
                let was_taken = true;
                *slot = Slot::Idle { page, was_taken };
            }
            _ => return Err(page),
        }
        Ok(())
    }

    /// Turns the copy at `pgoff`, if there is one, into a page.
    pub(crate) fn restore(&mut self, pgoff: usize, page: impl FnOnce(C) -> P) {
        if let Some(slot @ Slot::Stored(_)) = self.slots.get_mut(pgoff) {
            if let Slot::Stored(copy) = core::mem::replace(slot, Slot::Empty) {
                *slot = Slot::Present(page(copy));
            }
        }
    }

    /// Takes the page at `pgoff` out, `until` then.
    pub(crate) fn take(&mut self, pgoff: usize, until: Until) -> Option<P> {
        self.get(pgoff)?;
        let instead = match until {
            Until::Flushed => Slot::Empty,
            Until::Settled => Slot::Pending,
            Until::Used => Slot::Taken,
        };
        match core::mem::replace(self.slots.get_mut(pgoff)?, instead) {
            Slot::Present(page) => Some(page),
            Slot::Idle { page, .. } => {
                // INVARIANT: One fewer is idle.
                self.nr_idle -= 1;
                Some(page)
            }
            _ => None,
        }
    }

    /// Takes the first idle page at `from` or behind it out, for memory pressure.
    pub(crate) fn take_idle(&mut self, from: usize) -> Option<(usize, P)> {
        let behind = self.slots.get(from..)?;
        let nr = behind.iter().position(|s| matches!(s, Slot::Idle { .. }))?;
        Some((from + nr, self.take(from + nr, Until::Used)?))
    }

    /// Takes the first page at `from` or behind it out.
    pub(crate) fn take_any(&mut self, from: usize) -> Option<(usize, P)> {
        let pgoff = (from..self.slots.len()).find(|pgoff| self.get(*pgoff).is_some())?;
        Some((pgoff, self.take(pgoff, Until::Flushed)?))
    }

    /// Puts a page back that was taken out until it is settled, and is still mapped.
    pub(crate) fn put_back(&mut self, pgoff: usize, page: P) {
        if let Some(slot @ (Slot::Pending | Slot::PendingStored(_))) = self.slots.get_mut(pgoff) {
            *slot = Slot::Present(page);
        }
    }

    /// Keeps `copy` of the page at `pgoff`, whose flush is owed.
    pub(crate) fn store(&mut self, pgoff: usize, copy: C) {
        if let Some(slot @ Slot::Pending) = self.slots.get_mut(pgoff) {
            *slot = Slot::PendingStored(copy);
        }
    }

    /// The flush of `page`, which was at `pgoff`, was made. Returns the page, unless it stays: that
    /// is if its contents were to be saved (`keep`), and there is no copy.
    pub(crate) fn settle(&mut self, pgoff: usize, page: P, keep: bool) -> Option<P> {
        if let Some(slot) = self.slots.get_mut(pgoff) {
            *slot = match core::mem::replace(slot, Slot::Empty) {
                Slot::PendingStored(copy) => Slot::Stored(copy),
                _ if keep => {
                    *slot = Slot::Present(page);
                    return None;
                }
                _ => Slot::Empty,
            };
        }
        Some(page)
    }

    /// Marks the page at `pgoff` as idle; returns whether there is one that was not.
    pub(crate) fn mark_idle(&mut self, pgoff: usize) -> bool {
        let Some(slot @ Slot::Present(_)) = self.slots.get_mut(pgoff) else {
            return false;
        };
        if let Slot::Present(page) = core::mem::replace(slot, Slot::Empty) {
            let was_taken = false;
            *slot = Slot::Idle { page, was_taken };
        }
        // INVARIANT: One more is idle.
        self.nr_idle += 1;
        true
    }

    /// Takes the page at `pgoff` back into use. Returns whether it was idle, and whether it was
    /// taken since it was marked.
    pub(crate) fn unmark_idle(&mut self, pgoff: usize) -> (bool, bool) {
        let Some(slot) = self.slots.get_mut(pgoff) else {
            return (false, false);
        };
        match core::mem::replace(slot, Slot::Empty) {
            Slot::Idle { page, was_taken } => {
                *slot = Slot::Present(page);
                // INVARIANT: One fewer is idle.
                self.nr_idle -= 1;
                (true, was_taken)
            }
            Slot::Taken => (false, true),
            other => {
                *slot = other;
                (false, false)
            }
        }
    }

    /// Returns how many pages are idle.
    pub(crate) fn nr_idle(&self) -> usize {
        self.nr_idle
    }
}
