// SPDX-License-Identifier: GPL-2.0

//! The walk over page tables: the one loop that keeps rules H1, H2 and H4.
//!
//! [`walk`] goes from [`Mappings`] to a [`Mapping`], from that to its page tables, and takes a
//! [`Visitor`] to each one, which it can lock, with the items that it maps. Which mappings there are,
//! and under which lock, is theirs to say: the rmap of a file, one VMA, those of a process, the model of
//! the host's tests.
//!
//! `Change` is the visitor that changes PTEs, each by an [`Action`]. In this order, under one
//! page-table lock:
//!
//! 1. The action changes the PTEs.
//! 2. If it does not find all of ours, but someone else has cleared PTEs of that mm and has yet to flush
//!    them, other CPUs may still reach the page: the flush has to cover it (H2).
//! 3. The policy is told ([`Record::record`]): after the PTEs were changed (H1), before the lock is
//!    dropped, so that munmap, mprotect, mremap and madvise, which take the same lock, see that a
//!    flush is owed (H4).
//!
//! An entry of a batch is a page, or a folio of several. What a page table shows of it is a [`Part`]:
//! several of those are changed in one go ([`MAX_PARTS`]), each as far as it is there.
//!
//! Where there is a *leaf*, which maps all that a page table would (2 MiB), it is changed as a whole if
//! any of the items is mapped by it. Others would find neither a PTE nor a table, and return early: so
//! they are told before it is cleared ([`Mapping::announce`]), until `Leaves` is dropped, and
//! whoever walks flushes before that.
//!
//! Rules H1 to H14 are those of
//! [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst), those of leaves are in
//! [`Documentation/mm/tlb_batch_huge.rst`](srctree/Documentation/mm/tlb_batch_huge.rst).
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::policy::{
    sealed::Sealed,
    Flush,
    Record,
    Report,
    Touched,
    MAX_MMS, //
};
use kernel::mm::{
    parts::{
        Changed,
        Cleared,
        Entry,
        Part,
        Parts,
        MAX_PARTS, //
    },
    place::Place,
    range::{
        PageRange,
        Pending, //
    },
    stale::Stale,
    window::Window, //
};

/// Where pages of a file are mapped. Sealed: only this crate says so.
pub trait Mappings: Sealed {
    /// One of them.
    type Mapping: Mapping;

    /// Calls `visit` for each mapping that shows any of pages `first` to `last`, in the order in
    /// which a walk has to visit them: one that PTEs are copied or moved to comes after the one
    /// they come from. All of them stay as they are until this returns.
    fn for_each(&self, first: usize, last: usize, visit: impl FnMut(&Self::Mapping));

    /// Returns what identifies them, if they are *all* mappings of a file over one driver's data;
    /// [`None`] if there may be others.
    fn place(&self) -> Option<Place>;
}

/// Mappings that are shown under the lock of their file (`i_mmap_rwsem`), and not another one.
pub trait FileLocked: Mappings {}

/// A mapping: a VMA, held by some lock. Sealed, as [`Mappings`].
pub trait Mapping: Sealed {
    /// Its address space.
    type Mm;
    /// A page table of it, or a leaf, locked. Dropped, it is unlocked.
    type Table<'m>
    where
        Self: 'm;
    /// What has others flush all of an address space, until it is dropped.
    type Announced;

    /// Returns the address space.
    fn mm(&self) -> &Self::Mm;

    /// Returns which part of the file it shows, and where; [`None`] if it is empty.
    fn window(&self) -> Option<Window>;

    /// Locks the page table that maps `addr`, or the leaf; [`None`] if there is neither.
    fn lock(&self, addr: usize) -> Option<Self::Table<'_>>;

    /// Returns what the leaf maps, if it is one.
    fn leaf(table: &Self::Table<'_>) -> Option<PageRange>;

    /// Tells whoever changes mappings of this address space that it owes a flush of all of it, also
    /// where it finds nothing to clear. Does not sleep: something is locked.
    fn announce(&self) -> Self::Announced;

    /// Returns whether `by` tells it.
    fn is_announced(&self, by: &Self::Announced) -> bool;

    /// Flushes `range`. Page tables are locked.
    fn flush_now(&self, range: PageRange);

    /// Calls `f` between the notifications that tell secondary MMUs that PTEs in `range` are being
    /// changed.
    fn invalidating<R>(&self, range: PageRange, f: impl FnOnce() -> R) -> R;

    /// Returns whether someone else changed PTEs of this address space and has yet to flush them.
    /// If there is a page table, it is locked.
    fn flush_is_pending(&self) -> bool;

    /// Lets other tasks run, between two page tables.
    fn cond_resched(&self);

    /// Tells those who watch that `pending` is owed, before the policy is told.
    fn trace_owed(&self, pending: Pending, why: Touched);
}

/// A mapping that entries `P` of a batch can be taken out of.
pub trait Unmap<P: Stale>: Mapping {
    /// Clears the PTE of `part`, which is one page, if it maps that. Returns whether it did, and what was
    /// in it. A leaf is cleared as a whole, and returns the same for each of the pages that it mapped.
    fn clear(table: &mut Self::Table<'_>, part: Part<'_, P>, permit: &Permit) -> Cleared;

    /// As [`Unmap::clear`], for all pages of the first [`MAX_PARTS`] of `parts` at most, which it takes
    /// out.
    fn clear_each(
        table: &mut Self::Table<'_>,
        parts: &mut Parts<'_, P>,
        permit: &Permit,
    ) -> Changed {
        let mut changed = Changed::default();
        for (number, part) in parts.take(MAX_PARTS).enumerate() {
            for page in part.single() {
                let cleared = Self::clear(table, page, permit);
                changed.add_cleared(number, page.pages, cleared);
            }
        }
        changed
    }

    /// Write-protects the PTE of `part`, which is one page, if it maps that and is writable and clean;
    /// returns whether it did. A leaf is not.
    fn protect(table: &mut Self::Table<'_>, part: Part<'_, P>, permit: &Permit) -> bool;
}

/// Address spaces in which leaves were cleared: others are told until this is dropped, and that is
/// after the flush.
///
/// # Invariants
///
/// Those of `announced` that are something come first; no two are of one address space.
pub(super) struct Leaves<A> {
    /// Nothing before the first leaf: most walks find none.
    announced: Option<[Option<A>; MAX_MMS]>,
}

impl<A> Leaves<A> {
    pub(super) fn new() -> Self {
        // INVARIANT: None.
        Self { announced: None }
    }

    /// Sees to it that the address space of `mapping` is announced. Returns whether it is: there is
    /// no room for more than [`MAX_MMS`].
    fn announce<M: Mapping<Announced = A>>(&mut self, mapping: &M) -> bool {
        let none = || [const { None }; MAX_MMS];
        for place in self.announced.get_or_insert_with(none) {
            match place {
                Some(by) if mapping.is_announced(by) => return true,
                Some(_) => {}
                None => {
                    // INVARIANT: The first that is nothing; none before is of this address space.
                    *place = Some(mapping.announce());
                    return true;
                }
            }
        }
        false
    }
}

/// Says that the page of a PTE is in a batch, which keeps it until the policy has flushed, and that
/// the policy is told before the page table is unlocked. Only `Change` makes one.
pub struct Permit(());

/// What a walk walks for: pages of the file, one behind the other, and more.
pub trait Item {
    /// Returns which page of the file it is, or begins with.
    fn pgoff(&self) -> usize;

    /// Returns how many pages it is.
    fn nr_pages(&self) -> usize {
        1
    }

    /// Returns the last of its pages.
    fn last(&self) -> usize {
        self.pgoff().saturating_add(self.nr_pages().max(1) - 1)
    }
}

impl<P: Stale> Item for Entry<P> {
    fn pgoff(&self) -> usize {
        self.pgoff
    }

    fn nr_pages(&self) -> usize {
        self.page.nr_pages()
    }
}

/// A page of the file, whichever it is.
impl Item for usize {
    fn pgoff(&self) -> usize {
        *self
    }
}

/// What is done in each page table.
pub trait Visitor<M: Mapping, I> {
    /// Whether it changes PTEs, so that secondary MMUs have to be told.
    const CHANGES: bool;

    /// Visits a page table, or a place without one: it shows some of all `items`, which are not empty.
    /// Nothing of it is locked: see [`At::lock`].
    fn visit(&mut self, at: &At<'_, M>, items: &[I]);
}

/// Where a walk is.
pub struct At<'m, M> {
    /// The mapping.
    pub mapping: &'m M,
    window: Window,
    /// The part of the window that the page table maps.
    table: Window,
    /// Where the first of the items is.
    addr: usize,
}

impl<M> At<'_, M> {
    /// Returns what the page table maps of the mapping.
    pub(super) fn table(&self) -> PageRange {
        self.table.range()
    }

    /// Returns the first and the last page of the file that the page table shows.
    pub(super) fn pgoffs(&self) -> (usize, usize) {
        let (pgoff, nr_behind) = (self.table.pgoff(), self.table().span_pages() - 1);
        (pgoff, pgoff.saturating_add(nr_behind))
    }

    /// Returns the page of the address space that shows page `pgoff` of the file.
    pub fn page(&self, pgoff: usize) -> Option<PageRange> {
        PageRange::of_page(self.window.address_of(pgoff)?)
    }

    /// Returns what the page table shows of `entries`.
    fn parts<'a, P>(&self, entries: &'a [Entry<P>]) -> Parts<'a, P> {
        Parts::new(self.table(), self.table.pgoff(), entries)
    }
}

impl<'m, M: Mapping> At<'m, M> {
    /// Locks the page table, or the leaf; [`None`] if there is neither.
    pub fn lock(&self) -> Option<M::Table<'m>> {
        self.mapping.lock(self.addr)
    }
}

/// Takes `visitor` through all page tables of `mappings` for `items`, which are sorted and have no page
/// twice.
pub fn walk<T, I, V>(mappings: &T, items: &[I], visitor: &mut V)
where
    T: Mappings,
    I: Item,
    V: Visitor<T::Mapping, I>,
{
    if let (Some(first), Some(last)) = (items.first(), items.last()) {
        mappings.for_each(first.pgoff(), last.last(), |mapping| {
            walk_mapping(mapping, items, visitor);
        });
    }
}

fn walk_mapping<M, I, V>(mapping: &M, items: &[I], visitor: &mut V)
where
    M: Mapping,
    I: Item,
    V: Visitor<M, I>,
{
    let Some(window) = mapping.window() else {
        return;
    };
    // Sorted: those that this mapping shows, or a part of, are next to each other.
    let from = items.partition_point(|i| window.is_before(i.last()));
    let to = items.partition_point(|i| !window.is_behind(i.pgoff()));
    let items = items.get(from..to).unwrap_or(&[]);
    let (Some(first), Some(last)) = (items.first(), items.last()) else {
        return;
    };
    let Some(range) = window.clip(first.pgoff(), last.last()) else {
        return;
    };
    if V::CHANGES {
        mapping.invalidating(range, || {
            walk_tables(mapping, window, range, items, visitor)
        });
    } else {
        walk_tables(mapping, window, range, items, visitor);
    }
}

/// Goes from page table to page table. `window` shows all of `items`, or a part of them, in `range`.
fn walk_tables<M, I, V>(mapping: &M, window: Window, range: PageRange, items: &[I], visitor: &mut V)
where
    M: Mapping,
    I: Item,
    V: Visitor<M, I>,
{
    let (mut rest, mut addr) = (items, Some(range.start()));
    while let Some((here, table)) = addr.and_then(|addr| Some((addr, window.part_of_table(addr)?)))
    {
        let behind = table.pgoff().saturating_add(table.range().span_pages());
        // One at least, so that the walk gets on.
        let nr = rest.partition_point(|i| i.pgoff() < behind).max(1);
        let (items, others) = rest.split_at_checked(nr).unwrap_or((rest, &[]));
        let at = At {
            mapping,
            window,
            table,
            addr: here,
        };
        visitor.visit(&at, items);
        mapping.cond_resched();
        // The next table has the rest of the last one, or whatever comes next.
        let is_split = items.last().is_some_and(|i| i.last() >= behind);
        (rest, addr) = match is_split {
            true => (rest.get(nr - 1..).unwrap_or(&[]), window.address_of(behind)),
            false => (
                others,
                others.first().and_then(|i| window.address_of(i.pgoff())),
            ),
        };
    }
}

/// What `Change` does to PTEs.
pub trait Action<M: Mapping, P> {
    /// Changes the PTEs of the first of `parts`, one at least and [`MAX_PARTS`] at most, that map what
    /// they should, and takes those parts out.
    fn change(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        parts: &mut Parts<'_, P>,
        permit: &Permit,
    ) -> Changed;
}

/// How many PTEs a walk changed. A leaf counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// PTEs that it cleared.
    pub nr_cleared: usize,
    /// PTEs that it write-protected.
    pub nr_protected: usize,
    /// Of those that it cleared, how many were dirty.
    pub nr_dirty: usize,
    /// Of those that it cleared, how many were leaves.
    pub nr_leaves: usize,
}

impl Walk {
    /// Counts PTEs. Returns what is owed for them: `pages` is where they are.
    fn count(&mut self, pages: PageRange, changed: &Changed) -> Pending {
        let Cleared { nr, nr_dirty, .. } = changed.cleared;
        self.nr_protected += changed.nr_protected;
        self.nr_cleared += nr;
        self.nr_dirty += nr_dirty;
        Pending::new(pages, nr).dirty(nr_dirty > 0 || changed.doubtful)
    }
}

/// Changes PTEs of the pages of a batch, and tells its policy.
pub(super) struct Change<'p, F: ?Sized, A, L> {
    policy: &'p mut F,
    action: A,
    done: Walk,
    leaves: &'p mut Leaves<L>,
}

impl<'p, F: ?Sized, A, L> Change<'p, F, A, L> {
    /// Changes all that `mappings` have of `entries`, which are sorted. If it cleared leaves, the
    /// policy has to be flushed before `leaves` is dropped.
    pub(super) fn walk<T, P>(
        mappings: &T,
        entries: &[Entry<P>],
        policy: &'p mut F,
        action: A,
        leaves: &'p mut Leaves<L>,
    ) -> Walk
    where
        T: Mappings<Mapping: Mapping<Announced = L>>,
        F: Record<Mm = <T::Mapping as Mapping>::Mm>,
        A: Action<T::Mapping, P>,
        P: Stale,
    {
        let mut change = Self {
            policy,
            action,
            done: Walk::default(),
            leaves,
        };
        walk(mappings, entries, &mut change);
        change.done
    }

    /// Pages without a PTE of ours to change, or around one, if someone else has cleared PTEs of this mm
    /// and has yet to flush them: other CPUs may still reach the pages, so the flush has to cover them
    /// (H2). No PTE of theirs counts as cleared by us.
    fn owed_elsewhere<M: Mapping>(
        &mut self,
        mapping: &M,
        parts: impl Iterator<Item = PageRange>,
    ) -> Option<Pending>
    where
        F: Record<Mm = M::Mm>,
    {
        if !mapping.flush_is_pending() {
            return None;
        }
        let mut all = None;
        for pages in parts {
            pages
                .pages()
                .for_each(|page| self.policy.cleared(mapping.mm(), page));
            // What they cleared may have been dirty.
            extend(&mut all, Some(Pending::new(pages, 0).dirty(true)));
        }
        all
    }

    /// Changes what one page table has of `entries`. Returns what is owed for it.
    fn change_all<M, P>(
        &mut self,
        at: &At<'_, M>,
        table: &mut M::Table<'_>,
        entries: &[Entry<P>],
    ) -> Option<Pending>
    where
        M: Mapping,
        F: Record<Mm = M::Mm>,
        A: Action<M, P>,
        P: Stale,
    {
        let flushes_each = self.policy.flushes_each();
        // A policy that flushes each is told of one before the next is cleared.
        let nr_at_once = if flushes_each { 1 } else { MAX_PARTS };
        let mut all = None;
        for entries in entries.chunks(nr_at_once) {
            let mut parts = at.parts(entries);
            while !parts.is_done() {
                self.change_some(at, table, &mut parts, flushes_each, &mut all);
            }
        }
        all
    }

    /// Changes some of `parts`, takes them out, and adds what is owed for them.
    fn change_some<M, P>(
        &mut self,
        at: &At<'_, M>,
        table: &mut M::Table<'_>,
        parts: &mut Parts<'_, P>,
        flushes_each: bool,
        all: &mut Option<Pending>,
    ) where
        M: Mapping,
        F: Record<Mm = M::Mm>,
        A: Action<M, P>,
        P: Stale,
    {
        let these = parts.clone();
        let changed = self.change(at.mapping, table, parts);
        if let Some(range) = changed.range {
            if flushes_each {
                range
                    .pages()
                    .for_each(|page| self.policy.cleared(at.mapping.mm(), page));
            }
            extend(all, Some(self.done.count(range, &changed)));
        }
        if !changed.missing.is_none() {
            let others = changed.missing.of(these);
            extend(all, self.owed_elsewhere(at.mapping, others));
        }
    }

    /// Has the action done to some of `parts`.
    fn change<M, P>(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        parts: &mut Parts<'_, P>,
    ) -> Changed
    where
        M: Mapping,
        A: Action<M, P>,
    {
        self.action.change(mapping, table, parts, &Permit(()))
    }

    /// Changes a leaf, in the place of the page table of all `entries`. It goes as a whole: the flush
    /// has to cover all of it, and comes before whoever changes mappings of that address space
    /// returns, since what it finds is neither a PTE nor a table.
    fn visit_leaf<M, P>(
        &mut self,
        at: &At<'_, M>,
        table: &mut M::Table<'_>,
        leaf: PageRange,
        entries: &[Entry<P>],
    ) where
        M: Mapping<Announced = L>,
        F: Record<Mm = M::Mm>,
        A: Action<M, P>,
        P: Stale,
    {
        // Before it is cleared. If there is nothing to clear, they flush for nothing.
        let is_announced = self.leaves.announce(at.mapping);
        let (mut all, mut is_cleared) = (None, false);
        let mut parts = at.parts(entries);
        while !parts.is_done() {
            let these = parts.clone();
            let changed = self.change(at.mapping, table, &mut parts);
            // It is one entry, and is counted once.
            if changed.range.is_some() && !is_cleared {
                is_cleared = true;
                self.policy.cleared(at.mapping.mm(), leaf);
                extend(&mut all, Some(self.done.count(leaf, &changed.as_one())));
            }
            if !changed.missing.is_none() {
                // The leaf maps another page there. That a flush is owed is so at least since above.
                let others = changed.missing.of(these);
                extend(&mut all, self.owed_elsewhere(at.mapping, others));
            }
        }
        // H1, H4: as for a table.
        if let Some(pending) = all {
            record(self.policy, at.mapping, pending, Touched::Unmapped);
        }
        if is_cleared {
            self.done.nr_leaves += 1;
            if !is_announced {
                at.mapping.flush_now(leaf);
            }
        }
    }
}

impl<M, P, F, A> Visitor<M, Entry<P>> for Change<'_, F, A, M::Announced>
where
    M: Mapping,
    F: Record<Mm = M::Mm> + ?Sized,
    A: Action<M, P>,
    P: Stale,
{
    const CHANGES: bool = true;

    fn visit(&mut self, at: &At<'_, M>, entries: &[Entry<P>]) {
        let mut locked = at.lock();
        let Some(table) = locked.as_mut() else {
            let pages = at.parts(entries).map(|part| part.pages);
            if let Some(pending) = self.owed_elsewhere(at.mapping, pages) {
                record(self.policy, at.mapping, pending, Touched::OwedElsewhere);
            }
            return;
        };
        if let Some(leaf) = M::leaf(table) {
            return self.visit_leaf(at, table, leaf, entries);
        }
        // H1, H4: after the PTEs were changed, before their lock is released, at the end of this.
        if let Some(pending) = self.change_all(at, table, entries) {
            record(self.policy, at.mapping, pending, Touched::Unmapped);
        }
    }
}

fn record<M, F>(policy: &mut F, mapping: &M, pending: Pending, why: Touched)
where
    M: Mapping,
    F: Record<Mm = M::Mm> + ?Sized,
{
    mapping.trace_owed(pending, why);
    policy.record(mapping.mm(), pending);
}

/// Adds `more` to what was changed in one page table.
fn extend(all: &mut Option<Pending>, more: Option<Pending>) {
    match (all.as_mut(), more) {
        (Some(pending), Some(more)) => pending.merge(more),
        (None, Some(_)) => *all = more,
        (_, None) => {}
    }
}

/// Flushes pages `first` to `last` from the TLBs of all processes that have them in `mappings`, and
/// leaves them mapped.
///
/// # Context
///
/// May sleep. Takes the lock of `mappings`.
pub fn invalidate<T, F>(policy: &mut F, mappings: &T, first: usize, last: usize) -> Report
where
    T: Mappings,
    F: Flush<Mm = <T::Mapping as Mapping>::Mm> + ?Sized,
{
    mappings.for_each(first, last, |mapping| {
        let window = mapping.window();
        if let Some(range) = window.and_then(|w| w.clip(first, last)) {
            range
                .pages()
                .for_each(|page| policy.cleared(mapping.mm(), page));
            let pending = Pending::new(range, range.span_pages());
            record(policy, mapping, pending, Touched::Kept);
        }
    });
    let report = policy.flush();
    policy.wait();
    report
}
