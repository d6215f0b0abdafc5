// SPDX-License-Identifier: GPL-2.0

//! Ownership of pages that may still be reachable through a stale translation.
//!
//! A page goes into a [`Batch`] by value and comes out of [`Flushed`], which only
//! [`Batch::flush`] makes. There is no other way to get it back: what is not flushed cannot be
//! freed or reused. Dropping a batch flushes first and drops the pages afterwards, so to forget the
//! flush on an error path is safe, only slow.
//!
//! Storage is taken when a batch is made or [grown](Batch::reserve): [staging](Batch::stage) and
//! unmapping allocate nothing.
//!
//! Pure: what a flush is, the [`Flush`] policy knows.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    policy::{
        Flush,
        Report, //
    },
    range::Pending, //
};
use kernel::alloc::{
    AllocError,
    Flags,
    KBox,
    KVVec, //
};

/// A page in a batch, and which page of the file it was.
#[derive(Debug)]
pub struct Entry<P> {
    pub(crate) pgoff: usize,
    pub(crate) page: P,
}

/// A policy that is flushed when it is dropped.
struct Owed<F: Flush>(KBox<F>);

impl<F: Flush> Drop for Owed<F> {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Pages whose flush is owed.
///
/// # Invariants
///
/// - The first `nr_unmapped` entries were unmapped under `owed`; the others are staged, and have
///   not been touched.
/// - `owed` is declared, and so dropped, before `entries`: no page is dropped before the flush.
pub struct Batch<P, F: Flush> {
    owed: Owed<F>,
    entries: KVVec<Entry<P>>,
    nr_unmapped: usize,
}

/// A full batch gives back the page that it has no room for.
#[derive(Debug)]
pub struct Full<P>(pub P);

impl<P, F: Flush> Batch<P, F> {
    /// Makes a batch for up to `nr_pages` pages.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory for its storage.
    ///
    /// # Context
    ///
    /// May sleep, as `flags` say. No lock is needed.
    pub fn new(policy: F, nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        // INVARIANT: No entries.
        Ok(Self {
            owed: Owed(KBox::new(policy, flags)?),
            entries: KVVec::with_capacity(nr_pages, flags)?,
            nr_unmapped: 0,
        })
    }

    /// Makes room for `nr_pages` more pages.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory; the batch is as before.
    pub fn reserve(&mut self, nr_pages: usize, flags: Flags) -> Result<(), AllocError> {
        self.entries.reserve(nr_pages, flags)
    }

    /// Returns how many pages wait for the flush.
    pub fn nr_pages(&self) -> usize {
        self.nr_unmapped
    }

    /// Returns what the flush is owed for.
    pub fn owed(&self) -> Report {
        self.owed.0.owed()
    }

    /// Opens the batch for pages that are to be unmapped together.
    pub fn stage(&mut self) -> Staging<'_, P, F> {
        // What an earlier `Staging` left behind was never unmapped, and waits for nothing.
        self.entries.truncate(self.nr_unmapped);
        Staging { batch: self }
    }

    /// Flushes if a CPU can still write to one of the pages, and not otherwise: what has to happen
    /// before their contents are saved. They stay in the batch.
    ///
    /// # Context
    ///
    /// As [`Batch::flush`].
    pub fn flush_dirty(&mut self) -> Settled<'_, P> {
        let report = match self.owed().dirty {
            true => self.owed.0.flush(),
            false => Report::default(),
        };
        self.settled(report)
    }

    /// [`Batch::flush_dirty`] without the flush: the negative control.
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    pub fn flush_dirty_left_out(&mut self) -> Settled<'_, P> {
        self.settled(Report::default())
    }

    fn settled(&mut self, report: Report) -> Settled<'_, P> {
        self.entries.truncate(self.nr_unmapped);
        Settled {
            report,
            entries: &self.entries,
        }
    }

    /// Flushes what is owed, and lets go of the pages. Without any unmapped PTE it costs nothing.
    ///
    /// # Context
    ///
    /// May send IPIs and wait for them: IRQs enabled, no spinlock held.
    pub fn flush(mut self) -> Flushed<P, F> {
        self.entries.truncate(self.nr_unmapped);
        let report = self.owed.0.flush();
        Flushed {
            report,
            owed: self.owed,
            entries: self.entries,
        }
    }
}

/// Pages on their way into a batch: in it, but not unmapped yet. Dropped without being unmapped,
/// it leaves the pages to the batch, which drops them at its next use.
pub struct Staging<'b, P, F: Flush> {
    batch: &'b mut Batch<P, F>,
}

impl<P, F: Flush> Staging<'_, P, F> {
    /// Moves `page`, page `pgoff` of the file, into the batch. In ascending order is cheapest.
    ///
    /// # Errors
    ///
    /// - [`Full`], with the page, if no room was [reserved](Batch::reserve) for it.
    pub fn push(&mut self, pgoff: usize, page: P) -> Result<(), Full<P>> {
        let entry = Entry { pgoff, page };
        let pushed = self.batch.entries.push_within_capacity(entry);
        pushed.map_err(|refused| Full(refused.0.page))
    }

    /// Unmaps the staged pages, sorted by offset, with `walk`, which has to report each PTE that it
    /// clears to the policy before it lets go of that PTE's page-table lock.
    pub(crate) fn commit_with<R>(self, walk: impl FnOnce(&[Entry<P>], &mut F) -> R) -> R {
        let batch = self.batch;
        let staged = batch
            .entries
            .get_mut(batch.nr_unmapped..)
            .unwrap_or(&mut []);
        staged.sort_unstable_by_key(|e| e.pgoff);
        let result = walk(staged, &mut batch.owed.0);
        // INVARIANT: `walk` unmapped them, and told the policy.
        batch.nr_unmapped = batch.entries.len();
        result
    }
}

/// Pages that no CPU can write to through a mapping any more. Some may still read them.
pub struct Settled<'b, P> {
    report: Report,
    entries: &'b [Entry<P>],
}

impl<P> Settled<'_, P> {
    /// Returns what the flush did; nothing, if there was none.
    pub fn report(&self) -> Report {
        self.report
    }

    /// Returns the pages, with their page offsets.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, &P)> {
        self.entries.iter().map(|e| (e.pgoff, &e.page))
    }
}

/// Pages that no stale translation reaches any more.
pub struct Flushed<P, F: Flush> {
    report: Report,
    owed: Owed<F>,
    entries: KVVec<Entry<P>>,
}

impl<P, F: Flush> Flushed<P, F> {
    /// Returns what the flush did.
    pub fn report(&self) -> Report {
        self.report
    }

    /// Hands out the pages, with their page offsets, in the order in which they were staged.
    pub fn drain(&mut self) -> impl Iterator<Item = (usize, P)> + '_ {
        self.entries.drain_all().map(|e| (e.pgoff, e.page))
    }

    /// Turns the storage into an empty batch again; pages that were not drained are dropped.
    pub fn into_empty(mut self) -> Batch<P, F> {
        self.entries.clear();
        // INVARIANT: No entries, and the policy owes nothing after a flush.
        Batch {
            owed: self.owed,
            entries: self.entries,
            nr_unmapped: 0,
        }
    }
}

/// The smallest and the largest page offset of `entries`, which are sorted.
pub(crate) fn bounds<P>(entries: &[Entry<P>]) -> Option<(usize, usize)> {
    Some((entries.first()?.pgoff, entries.last()?.pgoff))
}

/// Adds `page` to what was cleared in one page table.
pub(crate) fn extend(cleared: &mut Option<Pending>, page: Pending) {
    match cleared {
        Some(pending) => pending.merge(page),
        None => *cleared = Some(page),
    }
}
