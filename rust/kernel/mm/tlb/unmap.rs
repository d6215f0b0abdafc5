// SPDX-License-Identifier: GPL-2.0

//! Batched unmap: takes the pages of a batch out of every page table that maps them.

use super::{
    batch::{
        bounds,
        extend,
        Batch,
        Entry,
        Staging, //
    },
    policy::{
        Flush,
        Report, //
    },
    range::{
        PageRange,
        Pending, //
    },
    window::Window,
    StalePage, //
};
use crate::{
    mm::{
        mechanism,
        page_table::PageTable,
        rmap::{
            AddressSpace,
            Vma, //
        },
        Mm, //
    },
    sync::ArcBorrow, //
};

impl<P: StalePage, F: Flush<Mm = Mm>> Staging<'_, P, F> {
    /// Unmaps the staged pages from all mappings over `data`, in all processes, and returns how
    /// many PTEs it cleared. The flush is owed: other CPUs may use the pages until then. If another
    /// CPU has cleared PTEs of such a mapping and has yet to flush them, that flush is owed too.
    ///
    /// A page of the file that someone else than `data` put there is left alone: a PTE is cleared
    /// only if it maps the very page that was staged for its offset.
    ///
    /// The caller has to keep the pages from being mapped again meanwhile, for example by the lock
    /// under which its fault handler looks them up. If it does not, a page that was faulted in
    /// again has another reference, and is not [exclusive](super::ExclusivePage) after the flush.
    ///
    /// # Context
    ///
    /// May sleep. Takes `i_mmap_rwsem`, then page-table locks.
    pub fn unmap<T>(self, mapping: &AddressSpace, data: ArcBorrow<'_, T>) -> usize
    where
        T: Send + Sync + 'static,
    {
        self.commit_with(|entries, policy| {
            let Some((first, last)) = bounds(entries) else {
                return 0;
            };
            let rmap = mapping.lock();
            rmap.vmas(data, first, last)
                .map(|vma| unmap_from_vma(vma, entries, policy))
                .sum()
        })
    }
}

fn unmap_from_vma<P, F>(vma: &Vma, entries: &[Entry<P>], policy: &mut F) -> usize
where
    P: StalePage,
    F: Flush<Mm = Mm>,
{
    let Some(window) = vma.window() else {
        return 0;
    };
    // Sorted: those that this VMA shows are next to each other.
    let from = entries.partition_point(|e| window.is_before(e.pgoff));
    let to = entries.partition_point(|e| !window.is_behind(e.pgoff));
    let entries = entries.get(from..to).unwrap_or(&[]);
    let Some(range) = bounds(entries).and_then(|(first, last)| window.clip(first, last)) else {
        return 0;
    };
    vma.invalidating(range, || {
        let mut nr_ptes = 0;
        let mut rest = entries;
        while !rest.is_empty() {
            let (done, cleared) = unmap_from_table(vma, &window, rest, policy);
            rest = rest.get(done..).unwrap_or(&[]);
            nr_ptes += cleared;
            // Between two page tables, with no spinlock held.
            mechanism::cond_resched();
        }
        nr_ptes
    })
}

/// Unmaps the first of `entries`, and those that follow it as far as the same page table maps them.
/// Returns how many entries are done, and how many PTEs were cleared.
fn unmap_from_table<P, F>(
    vma: &Vma,
    window: &Window,
    entries: &[Entry<P>],
    policy: &mut F,
) -> (usize, usize)
where
    P: StalePage,
    F: Flush<Mm = Mm>,
{
    let Some(addr) = entries.first().and_then(|e| window.address_of(e.pgoff)) else {
        return (1, 0);
    };
    let Some(table) = PageTable::lock(vma, addr) else {
        let run = run_in(window, window.table_of(addr), entries);
        let missed = entries.iter().take(run);
        let pending = owed_elsewhere(vma, window, missed.map(|e| e.pgoff), policy);
        if let Some(pending) = pending {
            policy.record(vma.mm(), pending);
        }
        return (run, 0);
    };
    let run = run_in(window, Some(table.range()), entries);
    let entries = entries.get(..run).unwrap_or(&[]);
    (run, clear_run(table, vma, window, entries, policy))
}

/// Returns how many of the first entries lie in `table`; one at least, so that a walk gets on.
fn run_in<P>(window: &Window, table: Option<PageRange>, entries: &[Entry<P>]) -> usize {
    let in_table = |e: &&Entry<P>| {
        let addr = window.address_of(e.pgoff);
        addr.zip(table)
            .is_some_and(|(addr, table)| table.contains(addr))
    };
    entries.iter().take_while(in_table).count().max(1)
}

/// Clears what `table` maps of `entries`, tells the policy, and unlocks.
fn clear_run<P, F>(
    mut table: PageTable<'_>,
    vma: &Vma,
    window: &Window,
    entries: &[Entry<P>],
    policy: &mut F,
) -> usize
where
    P: StalePage,
    F: Flush<Mm = Mm>,
{
    let mut all = None;
    for entry in entries {
        let Some(addr) = window.address_of(entry.pgoff) else {
            continue;
        };
        // SAFETY:
        // - The page is in a batch, which does not let go of it before the policy has flushed.
        // - The policy is told below, before `table` is dropped.
        let cleared = unsafe { table.clear(addr, &entry.page) };
        if let Some((cleared, page)) = cleared.zip(PageRange::of_page(addr)) {
            policy.cleared(vma.mm(), page);
            extend(&mut all, Pending::new(page, 1).dirty(cleared.dirty));
        } else if let Some(pending) =
            owed_elsewhere(vma, window, core::iter::once(entry.pgoff), policy)
        {
            extend(&mut all, pending);
        }
    }
    // H1, H4: after the PTEs were cleared, before their lock is released.
    if let Some(pending) = all {
        policy.record(vma.mm(), pending);
    }
    drop(table);
    all.map_or(0, |pending| pending.nr_pages())
}

/// Pages without a PTE of ours to clear, if someone else has cleared PTEs of this mm and has yet to
/// flush them: other CPUs may still reach the pages, so the flush has to cover them (H2). No PTE of
/// theirs counts as cleared by us.
fn owed_elsewhere<F: Flush<Mm = Mm>>(
    vma: &Vma,
    window: &Window,
    pgoffs: impl Iterator<Item = usize>,
    policy: &mut F,
) -> Option<Pending> {
    if !mechanism::flush_is_pending(vma.mm()) {
        return None;
    }
    let mut all = None;
    for page in pgoffs.filter_map(|p| PageRange::of_page(window.address_of(p)?)) {
        policy.cleared(vma.mm(), page);
        // What they cleared may have been dirty.
        extend(&mut all, Pending::new(page, 0).dirty(true));
    }
    all
}

/// Flushes pages `first` to `last` from the TLBs of all processes that map them over `data`, and
/// leaves them mapped.
///
/// # Context
///
/// May sleep. Takes `i_mmap_rwsem`.
pub fn invalidate<T, F>(
    policy: &mut F,
    mapping: &AddressSpace,
    data: ArcBorrow<'_, T>,
    first: usize,
    last: usize,
) -> Report
where
    T: Send + Sync + 'static,
    F: Flush<Mm = Mm>,
{
    let rmap = mapping.lock();
    for vma in rmap.vmas(data, first, last) {
        if let Some(range) = vma.window().and_then(|w| w.clip(first, last)) {
            range
                .pages()
                .for_each(|page| policy.cleared(vma.mm(), page));
            policy.record(vma.mm(), Pending::new(range, range.span_pages()));
        }
    }
    drop(rmap);
    policy.flush()
}

/// Compile-time proof that a batch can move to another thread: no state of it is bound to a task.
#[expect(dead_code, reason = "is checked by being compiled")]
fn batch_is_send(batch: Batch<crate::page::Page, super::Broadcast>) -> impl Send {
    batch
}
