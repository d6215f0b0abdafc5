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
//! Pure: what a flush is, the [`Flush`] policy knows; what a page table is, the [`Mappings`].

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    actions::Clear,
    policy::{
        Flush,
        Report,
        Why, //
    },
    trace,
    walk::{
        Action,
        Change,
        Item,
        Leaves,
        Mapping,
        Mappings,
        Unmap,
        Walk, //
    }, //
};
use kernel::{
    alloc::{
        AllocError,
        Flags,
        KBox,
        KVVec, //
    },
    mm::{
        parts::Entry,
        stale::{
            Proof,
            Stale, //
        }, //
    }, //
};

/// Pages, of which some are unmapped.
///
/// # Invariants
///
/// Every unmapped page in the list still awaits its flush, or the flush after it was pushed has been
/// made. `Entries` is not dropped before that.
struct Entries<P: Stale> {
    list: KVVec<Entry<P>>,
    nr_unmapped: usize,
}

impl<P: Stale> Entries<P> {
    /// Drops what was staged and not unmapped: it waits for nothing.
    fn unstage(&mut self) {
        self.list.truncate(self.nr_unmapped);
    }

    /// The flush has been made.
    fn flushed(&mut self) {
        let unmapped = self.list.iter_mut().take(self.nr_unmapped);
        unmapped.for_each(|entry| entry.page.flushed(Proof(())));
    }
}

impl<P: Stale> Drop for Entries<P> {
    fn drop(&mut self) {
        self.flushed();
    }
}

/// A policy that is flushed when it is dropped.
pub(super) struct Owed<F: Flush + ?Sized>(KBox<F>);

impl<F: Flush + ?Sized> Owed<F> {
    /// Sees to it that what `policy` owes is flushed.
    pub(super) fn new(policy: KBox<F>) -> Self {
        Self(policy)
    }

    /// Flushes what is owed, and waits for the end of it.
    pub(super) fn flush(&mut self, why: Why) -> Report {
        let report = self.send(why);
        self.0.wait();
        report
    }

    fn send(&mut self, why: Why) -> Report {
        trace::flush(&mut *self.0, why)
    }
}

impl<F: Flush + ?Sized> Drop for Owed<F> {
    fn drop(&mut self) {
        self.flush(Why::Dropped);
    }
}

/// What a batch is made of.
///
/// # Invariants
///
/// - The first `nr_unmapped` entries were unmapped, or are being, under `owed`; the others are
///   staged, and have not been touched.
/// - `owed` is declared, and so dropped, before `entries`: no page is dropped before the flush.
struct Inner<P: Stale, F: Flush + ?Sized> {
    owed: Owed<F>,
    entries: Entries<P>,
    /// What flushes did that the caller was not told of yet.
    report: Report,
    /// Those of leaves are left out: the negative control.
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    defers_leaves: bool,
}

/// Pages whose flush is owed.
///
/// A word: it is handed on a few times, with all that it holds.
pub struct Batch<P: Stale, F: Flush + ?Sized> {
    inner: KBox<Inner<P, F>>,
}

/// A full batch gives back the page that it has no room for.
#[derive(Debug)]
pub struct Full<P>(pub P);

impl<P: Stale, F: Flush> Batch<P, F> {
    /// Makes a batch for up to `nr_pages` pages, or folios.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory for its storage.
    ///
    /// # Context
    ///
    /// May sleep, as `flags` say. No lock is needed.
    pub fn new(policy: F, nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        Self::with_policy(KBox::new(policy, flags)?, nr_pages, flags)
    }
}

impl<P: Stale, F: Flush + ?Sized> Batch<P, F> {
    /// As [`Batch::new`], with a policy of any kind: for callers who find out at run time which one
    /// they want.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory for its storage.
    pub fn with_policy(policy: KBox<F>, nr_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        // INVARIANT: No entries.
        let inner = Inner {
            owed: Owed(policy),
            entries: Entries {
                list: KVVec::with_capacity(nr_pages, flags)?,
                nr_unmapped: 0,
            },
            report: Report::default(),
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            defers_leaves: false,
        };
        Ok(Self {
            inner: KBox::new(inner, flags)?,
        })
    }

    /// Makes room for `nr_pages` more pages, or folios.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory; the batch is as before.
    pub fn reserve(&mut self, nr_pages: usize, flags: Flags) -> Result<(), AllocError> {
        self.inner.entries.list.reserve(nr_pages, flags)
    }

    /// Returns how many pages, or folios, wait for the flush.
    pub fn nr_entries(&self) -> usize {
        self.inner.entries.nr_unmapped
    }

    /// Returns what the flush is owed for.
    pub fn owed(&self) -> Report {
        self.inner.owed.0.owed()
    }

    /// Returns what flushes did, since the last call, that could not be left to [`Batch::flush`]: those
    /// for leaves of 2 MiB, at the end of [`Staging::unmap`] and of either phase of an unmap. What
    /// nobody asks for here is in the report of the next flush.
    pub fn flushed_early(&mut self) -> Report {
        core::mem::take(&mut self.inner.report)
    }

    /// Leaves the flush of leaves to later, too: the negative control.
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    pub fn defer_leaves(&mut self) {
        self.inner.defers_leaves = true;
    }

    /// Leaves were cleared: flushes what is owed, unless that is to show what happens then.
    fn flush_leaves(&mut self) {
        #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
        if core::mem::take(&mut self.inner.defers_leaves) {
            return;
        }
        let report = self.inner.owed.flush(Why::Leaf);
        self.inner.report.merge(report);
    }

    /// Returns the pages that wait for the flush, sorted by their offset, and the policy.
    pub(super) fn unmapped(&mut self) -> (&[Entry<P>], &mut F) {
        let Inner { owed, entries, .. } = &mut *self.inner;
        entries.unstage();
        entries.list.sort_unstable_by_key(|e| e.pgoff);
        (&entries.list, &mut owed.0)
    }

    /// Opens the batch for pages that are to be unmapped together.
    pub fn stage(&mut self) -> Staging<'_, P, F> {
        // What an earlier `Staging` left behind.
        self.inner.entries.unstage();
        if self.nr_entries() == 0 {
            trace::batch_open(&*self.inner.owed.0, self.inner.entries.list.capacity());
        }
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
            true => self.inner.owed.flush(Why::Dirty),
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
        self.inner.entries.unstage();
        Settled {
            report,
            entries: &self.inner.entries.list,
        }
    }

    /// Flushes what is owed so far, and keeps the pages: some of them may be mapped still.
    pub(super) fn flush_phase(&mut self) -> Report {
        self.inner.owed.flush(Why::Phase)
    }

    /// Lets go of the pages before the flush: the negative control.
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    pub fn drain_unflushed(&mut self) -> impl Iterator<Item = (usize, P)> + '_ {
        self.inner.entries.unstage();
        self.inner.entries.flushed();
        self.inner.entries.nr_unmapped = 0;
        self.inner
            .entries
            .list
            .drain_all()
            .map(|e| (e.pgoff, e.page))
    }

    /// Flushes what is owed, and lets go of the pages. Without any unmapped PTE it costs nothing.
    ///
    /// # Context
    ///
    /// May send IPIs and wait for them: IRQs enabled, no spinlock held.
    pub fn flush(self) -> Flushed<P, F> {
        self.flush_because(Why::End)
    }

    /// Begins to flush what is owed. [`Sent::wait`] lets go of the pages: there is time in between
    /// for something else, if the policy does not interrupt CPUs, but lets them come by themselves.
    ///
    /// # Context
    ///
    /// As [`Batch::flush`].
    pub fn send(self) -> Sent<P, F> {
        self.send_because(Why::End)
    }

    fn send_because(mut self, why: Why) -> Sent<P, F> {
        let inner = &mut *self.inner;
        inner.entries.unstage();
        inner.report.merge(inner.owed.send(why));
        Sent { batch: self }
    }

    /// As [`Batch::flush`], and tells those who watch why.
    ///
    /// # Context
    ///
    /// As [`Batch::flush`].
    pub fn flush_because(self, why: Why) -> Flushed<P, F> {
        self.send_because(why).wait()
    }
}

/// Pages whose flush is under way.
///
/// Dropped, it waits, and drops them.
#[must_use = "the pages are not flushed yet"]
pub struct Sent<P: Stale, F: Flush + ?Sized> {
    // Dropped, it flushes, for which nothing is owed any more, and waits.
    batch: Batch<P, F>,
}

impl<P: Stale, F: Flush + ?Sized> Sent<P, F> {
    /// Waits for the end of the flush, and lets go of the pages.
    ///
    /// # Context
    ///
    /// May sleep. No spinlock is held.
    pub fn wait(mut self) -> Flushed<P, F> {
        self.batch.inner.owed.0.wait();
        Flushed { batch: self.batch }
    }
}

/// Pages on their way into a batch: in it, but not unmapped yet. Dropped without being unmapped,
/// it leaves the pages to the batch, which drops them at its next use.
pub struct Staging<'b, P: Stale, F: Flush + ?Sized> {
    batch: &'b mut Batch<P, F>,
}

impl<'b, P: Stale, F: Flush + ?Sized> Staging<'b, P, F> {
    /// Moves `page`, page `pgoff` of the file, into the batch; of a folio, that is the first one. In
    /// ascending order is cheapest. No other entry may be at a page of a folio: else all that is staged
    /// stays mapped, and is not taken for unmapped.
    ///
    /// # Errors
    ///
    /// - [`Full`], with the page, if no room was [reserved](Batch::reserve) for it.
    pub fn push(&mut self, pgoff: usize, page: P) -> Result<(), Full<P>> {
        let entry = Entry { pgoff, page };
        let pushed = self.batch.inner.entries.list.push_within_capacity(entry);
        pushed.map_err(|refused| Full(refused.0.page))
    }

    /// Unmaps the staged pages from `mappings`, and returns how many PTEs it cleared. The flush is
    /// owed: other CPUs may use the pages until then. If another CPU has cleared PTEs of such a
    /// mapping and has yet to flush them, that flush is owed too.
    ///
    /// What is mapped as a whole ([`VmFault::insert_huge`]) is unmapped as a whole, which counts as one
    /// PTE, and flushed before this returns, with all else that the batch owes: others who change
    /// mappings of that process could not see that a flush is owed ([`Batch::flushed_early`]).
    ///
    /// What someone else put there is left alone: a PTE is cleared only if it maps the very page
    /// that was staged for its offset. A folio is unmapped as a whole, wherever a part of it is mapped.
    ///
    /// The caller has to keep the pages from being mapped again meanwhile, for example by the lock
    /// under which its fault handler looks them up. If it does not, a page that was faulted in
    /// again has another reference, and is not exclusive after the flush. Where there are leaves, that
    /// is so for all pages that one of them maps: a small page of it would come to TLBs beside the
    /// leaf, which no CPU has to bear.
    ///
    /// # Context
    ///
    /// May sleep: IRQs enabled, no spinlock held. Takes the lock of `mappings` (of a file:
    /// `i_mmap_rwsem`), then page-table locks.
    ///
    /// [`VmFault::insert_huge`]: kernel::mm::vm_ops::VmFault::insert_huge
    pub fn unmap<T>(self, mappings: &T) -> usize
    where
        T: Mappings<Mapping: Unmap<P, Mm = F::Mm>>,
    {
        let (done, mut walked) = self.walk(mappings, Clear);
        walked.note_unmapped(mappings);
        done.nr_cleared
    }

    /// Has `action` done to the PTEs of the staged pages, sorted by offset. It may leave pages
    /// mapped: the caller comes back to them.
    pub(super) fn walk<T, A>(self, mappings: &T, action: A) -> (Walk, Walked<'b, P, F>)
    where
        T: Mappings<Mapping: Mapping<Mm = F::Mm>>,
        A: Action<T::Mapping, P>,
    {
        let batch = self.batch;
        let from = batch.inner.entries.nr_unmapped;
        // INVARIANT: The walk unmaps them, and tells the policy.
        batch.inner.entries.nr_unmapped = batch.inner.entries.list.len();
        let mut walked = Walked {
            batch,
            from,
            are_apart: false,
        };
        let entries = walked.entries();
        // Mostly they came in ascending order.
        walked.are_apart = entries.is_sorted_by(is_behind) || {
            entries.sort_unstable_by_key(|e| e.pgoff);
            entries.is_sorted_by(|a, b| are_apart(a, b))
        };
        (walked.walk_again(mappings, action), walked)
    }
}

/// Whether `b` begins behind all of `a`.
fn is_behind<P: Stale>(a: &Entry<P>, b: &Entry<P>) -> bool {
    a.pgoff < b.pgoff && b.pgoff - a.pgoff >= a.nr_pages()
}

/// Whether a walk gets all of `a` and of `b`, which comes next: one that is several pages has to end
/// before the other begins.
fn are_apart<P: Stale>(a: &Entry<P>, b: &Entry<P>) -> bool {
    is_behind(a, b) || a.nr_pages().max(b.nr_pages()) <= 1
}

/// Pages of a batch, from one on, that were walked over together.
pub(super) struct Walked<'b, P: Stale, F: Flush + ?Sized> {
    pub(super) batch: &'b mut Batch<P, F>,
    from: usize,
    /// If not, they are not walked over.
    are_apart: bool,
}

impl<P: Stale, F: Flush + ?Sized> Walked<'_, P, F> {
    fn entries(&mut self) -> &mut [Entry<P>] {
        let entries = self.batch.inner.entries.list.get_mut(self.from..);
        entries.unwrap_or(&mut [])
    }

    /// Walks over the same pages, in ascending order.
    pub(super) fn walk_again<T, A>(&mut self, mappings: &T, action: A) -> Walk
    where
        T: Mappings<Mapping: Mapping<Mm = F::Mm>>,
        A: Action<T::Mapping, P>,
    {
        if !self.are_apart {
            return Walk::default();
        }
        let inner = &mut *self.batch.inner;
        let entries = inner.entries.list.get(self.from..).unwrap_or(&[]);
        // Until they are dropped, at the end of this, others are told.
        let mut leaves = Leaves::new();
        let policy = &mut *inner.owed.0;
        let walk = Change::walk(mappings, entries, policy, action, &mut leaves);
        if walk.nr_leaves > 0 {
            self.batch.flush_leaves();
        }
        walk
    }

    /// The last walk left none of the pages mapped in `mappings`.
    pub(super) fn note_unmapped(&mut self, mappings: &impl Mappings) {
        if let (Some(place), true) = (mappings.place(), self.are_apart) {
            for entry in self.entries() {
                entry.page.unmapped(place, entry.pgoff, Proof(()));
            }
        }
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
pub struct Flushed<P: Stale, F: Flush + ?Sized> {
    // Owes nothing.
    batch: Batch<P, F>,
}

impl<P: Stale, F: Flush + ?Sized> Flushed<P, F> {
    /// Returns what the flush did.
    pub fn report(&self) -> Report {
        self.batch.inner.report
    }

    /// Returns how many pages, or folios, there are.
    pub fn nr_entries(&self) -> usize {
        self.batch.inner.entries.list.len()
    }

    /// Returns the pages, with their page offsets, in the order in which they were staged.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &P)> {
        self.batch
            .inner
            .entries
            .list
            .iter()
            .map(|e| (e.pgoff, &e.page))
    }

    /// Hands out the pages, with their page offsets, in the order in which they were staged.
    pub fn drain(&mut self) -> impl Iterator<Item = (usize, P)> + '_ {
        let Inner { owed, entries, .. } = &mut *self.batch.inner;
        entries.flushed();
        entries.nr_unmapped = 0;
        let watched = trace::watched_releases(&*owed.0);
        entries.list.drain_all().map(move |e| {
            if let Some(batch) = watched {
                trace::page_release(batch, e.pgoff);
            }
            (e.pgoff, e.page)
        })
    }

    /// Turns the storage into an empty batch again; pages that were not drained are dropped.
    pub fn into_empty(mut self) -> Batch<P, F> {
        if self.nr_entries() > 0 {
            self.drain().for_each(drop);
        }
        let inner = &mut *self.batch.inner;
        inner.report = Report::default();
        #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
        {
            inner.defers_leaves = false;
        }
        self.batch
    }
}
