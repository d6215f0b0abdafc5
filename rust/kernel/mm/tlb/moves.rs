// SPDX-License-Identifier: GPL-2.0

//! Moves: PTEs go from one mapping to another of the same process, and the old addresses are flushed.
//!
//! Both mappings show the same pages of the same file; a page is at its new address afterwards, and
//! at the old one nothing is, until it is touched there again. The `mmap_lock` is held for writing,
//! from before until after, and so are the locks of both VMAs.
//!
//! In this order, for each page table:
//!
//! 1. A table for the new address is made, with no lock but the `mmap_lock`. What is mapped as a whole
//!    there, or at the old address, is unmapped and flushed before: it does not move, and is mapped
//!    again by the next use of either address.
//! 2. The rmap of the file is locked for writing, then the page table of the old address, then that
//!    of the new one, unless they share a lock. Who walks the rmap for reading comes before all of
//!    this or after it, and so meets a page once: at its old address, or at its new one.
//! 3. What others have cleared in this process and have yet to flush is flushed, once per move.
//! 4. Each PTE is cleared at the old address, and set at the new one.
//! 5. [`When::Locked`]: the old addresses are flushed. [`When::Deferred`]: each page is pinned before
//!    its PTE moves, and the old addresses are recorded; where [`should_force_flush`] says so, they
//!    are flushed now, as in the other mode.
//! 6. The locks are dropped.
//!
//! A deferred move hands back a [`Moved`], which flushes what was recorded, and only then unpins the
//! pages: so a page that somebody takes out of the new mapping meanwhile, and whose new address alone
//! he flushes, is not free before the old one is flushed, too. That nobody did so was
//! CVE-2018-18281.
//!
//! [`should_force_flush`]: Move::should_force_flush
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    batch::Owed,
    mover::Mover,
    policy::{
        sealed::Sealed,
        Flush,
        Report,
        Why, //
    },
    trace,
    walk::{
        self,
        Mapping,
        Mappings, //
    }, //
};
use kernel::{
    alloc::{
        Flags,
        KBox,
        KVVec, //
    },
    mm::place::Place,
    prelude::*, //
};

pub use super::movable::{
    Done,
    Move,
    Permit,
    When, //
};

/// PTEs that were moved, and whose old addresses are not flushed yet, if they had to be.
///
/// It pins their pages. Dropped, in whichever way, it flushes the old addresses, and unpins the pages
/// then. It borrows the mappings, and so the `mmap_lock`: all of this is over before anyone else
/// comes to the process by way of that lock.
///
/// # Invariants
///
/// The fields are dropped in this order: flush, pins, bracket.
#[must_use = "dropped at once, it flushes at once"]
pub struct Moved<'m, M: Move + 'm, F: Flush + ?Sized> {
    owed: Owed<F>,
    pins: KVVec<M::Pin>,
    bracket: M::Bracket<'m>,
    done: Done,
}

impl<M: Move, F: Flush + ?Sized> Moved<'_, M, F> {
    /// Returns what was moved.
    pub fn done(&self) -> Done {
        self.done
    }

    /// Returns how many pages are pinned.
    #[cfg(test)]
    pub(crate) fn nr_pinned(&self) -> usize {
        self.pins.len()
    }

    /// Flushes the old addresses, if that is owed, and unpins the pages.
    ///
    /// # Context
    ///
    /// May sleep. IRQs are enabled, no spinlock is held.
    pub fn flush(mut self) -> (Done, Report) {
        let report = self.owed.flush(Why::End);
        let Self {
            owed,
            pins,
            bracket,
            done,
        } = self;
        drop((owed, pins));
        drop(bracket);
        (done, report)
    }
}

/// One mapping, for the walk to go through.
struct Only<'m, M>(&'m M);

impl<M> Sealed for Only<'_, M> {}

impl<M: Mapping> Mappings for Only<'_, M> {
    type Mapping = M;

    fn for_each(&self, _first: usize, _last: usize, mut visit: impl FnMut(&M)) {
        visit(self.0);
    }

    fn place(&self) -> Option<Place> {
        None
    }
}

/// Moves the PTEs of pages `pgoffs` of the file, which are sorted, out of `from` and into `to`, both
/// of which show all of them. What is not mapped in `from` is passed over, and so is what is mapped
/// in `to` already.
///
/// # Errors
///
/// - `EINVAL`: there are no pages, or they are not all shown.
/// - `EXDEV`, `EACCES`: see [`Move::check`].
/// - `ENOMEM`: there is no memory for the pins. Want of memory for page tables cuts a move short
///   ([`Done::is_cut_short`]).
///
/// # Context
///
/// May sleep. The `mmap_lock` is held for writing, which `from` and `to` stand for. Takes the lock of
/// the file's rmap, and page-table locks.
pub fn move_pages<'m, M, F>(
    from: &'m M,
    to: &'m M,
    pgoffs: &[usize],
    when: When,
    mut policy: KBox<F>,
    flags: Flags,
) -> Result<Moved<'m, M, F>>
where
    M: Move,
    F: Flush<Mm = M::Mm> + ?Sized,
{
    let (first, last) = pgoffs.first().zip(pgoffs.last()).ok_or(EINVAL)?;
    let shown = |mapping: &M| {
        let range = mapping.window()?.clip(*first, *last)?;
        (range.span_pages() == last - first + 1).then_some(range)
    };
    let (old, window) = shown(from).zip(to.window()).ok_or(EINVAL)?;
    shown(to).ok_or(EINVAL)?;
    from.check(to)?;
    let nr_pins = if when.defers() { pgoffs.len() } else { 0 };
    let mut pins = KVVec::with_capacity(nr_pins, flags)?;
    if when.defers() {
        trace::batch_open(&*policy, nr_pins);
    }
    let bracket = from.bracket(old);
    let mut mover = Mover {
        to,
        window,
        when,
        policy: &mut *policy,
        pins: &mut pins,
        is_settled: false,
        done: Done::default(),
    };
    walk::walk(&Only(from), pgoffs, &mut mover);
    let done = Done {
        reasons: from.reasons().get(),
        ..mover.done
    };
    Ok(Moved {
        owed: Owed::new(policy),
        pins,
        bracket,
        done,
    })
}
