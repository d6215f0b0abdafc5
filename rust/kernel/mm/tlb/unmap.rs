// SPDX-License-Identifier: GPL-2.0

//! Batched unmap: takes the pages of a batch out of every page table that maps them.

use super::{
    batch::{
        bounds,
        extend,
        Batch,
        Entry,
        Proof,
        Staging, //
    },
    policy::{
        Flush,
        Report,
        Touched, //
    },
    range::{
        PageRange,
        Pending, //
    },
    two_phase::{
        Phases,
        Quiesced,
        Walk,
        WriteProtected, //
    },
    window::Window,
    StalePage, //
};
use crate::{
    mm::{
        mechanism::{
            self,
            Cleared, //
        },
        page_table::PageTable,
        rmap::{
            AddressSpace,
            Vma, //
        },
        Mm, //
    },
    sync::ArcBorrow, //
};

impl<'b, P: StalePage, F: Flush<Mm = Mm> + ?Sized> Staging<'b, P, F> {
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
            let done = walk(entries, policy, mapping, data, Action::Clear);
            note_unmapped(entries, mapping, data);
            done.nr_cleared
        })
    }

    /// The first of [two phases](super::two_phase): PTEs that are writable and clean are
    /// write-protected, all others cleared. See [`Staging::unmap`] otherwise.
    pub fn write_protect<T>(
        self,
        mapping: &AddressSpace,
        data: ArcBorrow<'_, T>,
    ) -> WriteProtected<'b, P, F>
    where
        T: Send + Sync + 'static,
    {
        self.write_protect_with(|entries, policy| {
            walk(entries, policy, mapping, data, Action::Protect)
        })
    }
}

impl<P: StalePage, F: Flush<Mm = Mm> + ?Sized> Quiesced<'_, P, F> {
    /// The second of [two phases](super::two_phase): clears what the first has left, in the same
    /// mappings. A PTE that is dirty now was written to between the phases.
    ///
    /// # Context
    ///
    /// As [`Staging::unmap`].
    pub fn unmap<T>(self, mapping: &AddressSpace, data: ArcBorrow<'_, T>) -> Phases
    where
        T: Send + Sync + 'static,
    {
        self.unmap_with(|entries, policy| {
            let done = walk(entries, policy, mapping, data, Action::ClearRest);
            note_unmapped(entries, mapping, data);
            done
        })
    }
}

/// What a walk does with a PTE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Clears it.
    Clear,
    /// Write-protects it if it is writable and clean, else clears it: the first of two phases.
    Protect,
    /// Clears it: the second of two phases.
    ClearRest,
}

fn note_unmapped<P: StalePage, T>(
    entries: &mut [Entry<P>],
    mapping: &AddressSpace,
    data: ArcBorrow<'_, T>,
) {
    let place = mapping.place(data);
    for entry in entries {
        entry.page.unmapped(place, entry.pgoff, Proof(()));
    }
}

fn walk<P, F, T>(
    entries: &[Entry<P>],
    policy: &mut F,
    mapping: &AddressSpace,
    data: ArcBorrow<'_, T>,
    action: Action,
) -> Walk
where
    P: StalePage,
    F: Flush<Mm = Mm> + ?Sized,
    T: Send + Sync + 'static,
{
    let mut done = Walk::default();
    if let Some((first, last)) = bounds(entries) {
        let rmap = mapping.lock();
        for vma in rmap.vmas(data, first, last) {
            walk_vma(vma, entries, policy, action, &mut done);
        }
    }
    done
}

fn walk_vma<P, F>(vma: &Vma, entries: &[Entry<P>], policy: &mut F, action: Action, done: &mut Walk)
where
    P: StalePage,
    F: Flush<Mm = Mm> + ?Sized,
{
    let Some(window) = vma.window() else {
        return;
    };
    // Sorted: those that this VMA shows are next to each other.
    let from = entries.partition_point(|e| window.is_before(e.pgoff));
    let to = entries.partition_point(|e| !window.is_behind(e.pgoff));
    let entries = entries.get(from..to).unwrap_or(&[]);
    let Some(range) = bounds(entries).and_then(|(first, last)| window.clip(first, last)) else {
        return;
    };
    vma.invalidating(range, || {
        let mut rest = entries;
        while !rest.is_empty() {
            let nr = walk_table(vma, &window, rest, policy, action, done);
            rest = rest.get(nr..).unwrap_or(&[]);
            // Between two page tables, with no spinlock held.
            mechanism::cond_resched();
        }
    })
}

/// Does the first of `entries`, and those that follow it as far as the same page table maps them.
/// Returns how many entries are done.
fn walk_table<P, F>(
    vma: &Vma,
    window: &Window,
    entries: &[Entry<P>],
    policy: &mut F,
    action: Action,
    done: &mut Walk,
) -> usize
where
    P: StalePage,
    F: Flush<Mm = Mm> + ?Sized,
{
    let Some(addr) = entries.first().and_then(|e| window.address_of(e.pgoff)) else {
        return 1;
    };
    let Some(table) = PageTable::lock(vma, addr) else {
        let run = run_in(window, window.table_of(addr), entries);
        let missed = entries.iter().take(run);
        let pending = owed_elsewhere(vma, window, missed.map(|e| e.pgoff), policy);
        if let Some(pending) = pending {
            record(policy, vma, pending, Touched::OwedElsewhere);
        }
        return run;
    };
    let run = run_in(window, Some(table.range()), entries);
    let entries = entries.get(..run).unwrap_or(&[]);
    walk_run(table, window, entries, policy, action, done);
    run
}

/// Returns how many of the first entries lie in `table`; one at least, so that a walk gets on. All
/// of them are sorted, and none lies before it.
fn run_in<P>(window: &Window, table: Option<PageRange>, entries: &[Entry<P>]) -> usize {
    let in_table = |e: &Entry<P>| {
        let addr = window.address_of(e.pgoff);
        addr.zip(table)
            .is_some_and(|(addr, table)| table.contains(addr))
    };
    entries.partition_point(in_table).max(1)
}

/// Does what `table` maps of `entries`, tells the policy, and unlocks.
fn walk_run<P, F>(
    mut table: PageTable<'_>,
    window: &Window,
    entries: &[Entry<P>],
    policy: &mut F,
    action: Action,
    done: &mut Walk,
) where
    P: StalePage,
    F: Flush<Mm = Mm> + ?Sized,
{
    let vma = table.vma();
    let flushes_each = policy.flushes_each();
    let mut all = None;
    for entry in entries {
        let Some(addr) = window.address_of(entry.pgoff) else {
            continue;
        };
        let changed = change(&mut table, addr, entry, action, done);
        if let Some((changed, page)) = changed.zip(PageRange::of_page(addr)) {
            if flushes_each {
                policy.cleared(vma.mm(), page);
            }
            let (nr_cleared, writable) = changed;
            extend(&mut all, Pending::new(page, nr_cleared).dirty(writable));
        } else if let Some(pending) =
            owed_elsewhere(vma, window, core::iter::once(entry.pgoff), policy)
        {
            extend(&mut all, pending);
        }
    }
    // H1, H4: after the PTEs were changed, before their lock is released.
    if let Some(pending) = all {
        record(policy, vma, pending, Touched::Unmapped);
    }
    drop(table);
}

fn record<F: Flush<Mm = Mm> + ?Sized>(policy: &mut F, vma: &Vma, pending: Pending, why: Touched) {
    policy.record(vma.mm(), pending);
    mechanism::trace_range_add(vma.mm(), pending.range(), pending.nr_pages(), why as i32);
}

/// Protects or clears the PTE of `addr`. Returns how many PTEs it cleared, and whether a CPU can
/// write to the page after that, until the flush; [`None`] if there is none that maps the page.
fn change<P: StalePage>(
    table: &mut PageTable<'_>,
    addr: usize,
    entry: &Entry<P>,
    action: Action,
    done: &mut Walk,
) -> Option<(usize, bool)> {
    // SAFETY:
    // - The page is in a batch, which does not let go of it before the policy has flushed.
    // - The caller tells the policy before it drops `table`.
    if action == Action::Protect && unsafe { table.protect(addr, &entry.page) } {
        done.nr_protected += 1;
        return Some((0, false));
    }
    // SAFETY: As above.
    let cleared = unsafe { table.clear(addr, &entry.page) }?;
    done.nr_cleared += 1;
    done.nr_dirty += usize::from(cleared.dirty);
    let is_trusted = action == Action::Clear;
    let writable = cleared.dirty || !is_trusted && is_doubtful(table, cleared);
    Some((1, writable))
}

/// In two phases the CPU is not trusted, and so a clean PTE is no proof that nobody writes: not if
/// mprotect made it writable again between the phases, nor if someone else made it read-only and
/// has yet to flush that.
fn is_doubtful(table: &PageTable<'_>, cleared: Cleared) -> bool {
    cleared.writable || mechanism::flush_is_pending(table.vma().mm())
}

/// Pages without a PTE of ours to clear, if someone else has cleared PTEs of this mm and has yet to
/// flush them: other CPUs may still reach the pages, so the flush has to cover them (H2). No PTE of
/// theirs counts as cleared by us.
fn owed_elsewhere<F: Flush<Mm = Mm> + ?Sized>(
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
    F: Flush<Mm = Mm> + ?Sized,
{
    let rmap = mapping.lock();
    for vma in rmap.vmas(data, first, last) {
        if let Some(range) = vma.window().and_then(|w| w.clip(first, last)) {
            range
                .pages()
                .for_each(|page| policy.cleared(vma.mm(), page));
            let pending = Pending::new(range, range.span_pages());
            record(policy, vma, pending, Touched::Kept);
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
