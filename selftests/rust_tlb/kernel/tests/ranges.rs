// SPDX-License-Identifier: GPL-2.0

//! Ranges, windows, the ledger and the ceiling against a naive set of pages.
//!
//! T5 is a rule of `Documentation/mm/tlb_batch_tables.rst`.

use kernel::{
    mm::{
        range::{PageRange, Pending},
        tlb::{
            ceiling::{Decision, Limits},
            ledger::Ledger,
        },
        window::{Window, PTRS_PER_PTE},
    },
    page::{PAGE_SHIFT, PAGE_SIZE},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn pages() -> impl Strategy<Value = BTreeSet<usize>> {
    prop::collection::btree_set(0usize..5000, 1..60)
}

fn of_page(page: usize) -> Pending {
    Pending::new(PageRange::of_page(page << PAGE_SHIFT).unwrap(), 1)
}

fn pending(pages: &BTreeSet<usize>) -> Pending {
    let mut iter = pages.iter().copied().map(of_page);
    let mut all = iter.next().unwrap();
    iter.for_each(|page| all.merge(page));
    all
}

/// The ceiling's table, row by row, as the documentation has it.
fn naive_decision(limits: &Limits, nr_mms: usize, nr_far: usize, span: usize) -> Decision {
    let is_far = span > limits.ceiling_pages;
    match (nr_mms <= limits.max_mms, nr_mms, nr_far == nr_mms) {
        (false, _, _) => Decision::Broadcast,
        (true, 2.., true) => Decision::Broadcast,
        _ if is_far => Decision::Full,
        _ => Decision::Ranged,
    }
}

/// What C's `struct mmu_gather` tracks: `__tlb_adjust_range()` and its callers.
struct MmuGather {
    start: usize,
    end: usize,
}

impl MmuGather {
    /// After `__tlb_reset_range()`: nothing.
    fn new() -> Self {
        let task_size = (1 << 47) - PAGE_SIZE;
        Self {
            start: task_size,
            end: 0,
        }
    }

    fn adjust(&mut self, address: usize, len: usize) {
        self.start = self.start.min(address);
        self.end = self.end.max(address + len);
    }

    /// `tlb_remove_tlb_entries()`.
    fn clear_run(&mut self, first: usize, nr: usize) {
        self.adjust(first << PAGE_SHIFT, nr << PAGE_SHIFT);
    }

    /// `pte_free_tlb()` of the table that maps a page.
    fn free_table_of(&mut self, page: usize) {
        self.adjust(
            (page / PTRS_PER_PTE * PTRS_PER_PTE) << PAGE_SHIFT,
            PAGE_SIZE,
        );
    }
}

/// Pages that both were told of: the same runs, ours page by page.
fn both_of(runs: &[(usize, usize)]) -> (MmuGather, Pending) {
    let mut gather = MmuGather::new();
    let pages = runs.iter().flat_map(|&(first, nr)| first..first + nr);
    let mut pages = pages.map(of_page);
    let mut ours = pages.next().unwrap();
    pages.for_each(|page| ours.merge(page));
    runs.iter()
        .for_each(|&(first, nr)| gather.clear_run(first, nr));
    (gather, ours)
}

/// What the page table of `page` maps, as the tables are taken out of the window of a VMA that shows
/// all of it.
fn table_of(page: usize) -> PageRange {
    let all = PageRange::new(0, 1 << 30).unwrap();
    Window::new(all, 0).table_of(page << PAGE_SHIFT).unwrap()
}

fn runs() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0usize..5000, 1usize..20), 1..30)
}

proptest! {
    #[test]
    fn pending_is_what_a_gather_tracks(runs in runs()) {
        let (gather, ours) = both_of(&runs);
        let range = ours.range();
        prop_assert_eq!((range.start(), range.end()), (gather.start, gather.end));
    }

    /// A gather adds a page for it, a batch all that it mapped (T5), as a policy notes it: no page
    /// more, and never the whole of an address space.
    #[test]
    fn with_a_freed_table_pending_is_as_long_as_the_table(
        runs in runs(), tables in prop::collection::vec(0usize..5000, 1..4),
    ) {
        let (mut gather, mut ours) = both_of(&runs);
        let (pages, nr_pages) = (ours.range(), ours.nr_pages());
        for &page in &tables {
            gather.free_table_of(page);
            ours.merge(Pending::new(table_of(page), 0));
        }
        let range = ours.range();
        let first = tables.iter().min().unwrap() / PTRS_PER_PTE * PTRS_PER_PTE;
        let end = (tables.iter().max().unwrap() / PTRS_PER_PTE + 1) * PTRS_PER_PTE;
        prop_assert_eq!(range.start(), pages.start().min(first << PAGE_SHIFT));
        prop_assert_eq!(range.end(), pages.end().max(end << PAGE_SHIFT));
        prop_assert_eq!(ours.nr_pages(), nr_pages);
        // The kernel's begins where ours does, and ends up to all but one page of a table earlier.
        prop_assert_eq!(range.start(), gather.start);
        let less = (range.end() - gather.end) >> PAGE_SHIFT;
        prop_assert!(less < PTRS_PER_PTE, "{} pages less", less);
        prop_assert!(PageRange::ALL.covers(range) && range != PageRange::ALL);
    }

    #[test]
    fn pending_is_the_hull_of_the_set(pages in pages()) {
        let all = pending(&pages);
        let (first, last) = (*pages.first().unwrap(), *pages.last().unwrap());
        prop_assert_eq!(all.nr_pages(), pages.len());
        prop_assert_eq!(all.range().start(), first << PAGE_SHIFT);
        prop_assert_eq!(all.range().end(), (last + 1) << PAGE_SHIFT);
        prop_assert_eq!(all.range().span_pages(), last - first + 1);
        for page in &pages {
            prop_assert!(all.range().contains(page << PAGE_SHIFT));
        }
    }

    #[test]
    fn union_is_commutative_associative_idempotent(a in pages(), b in pages(), c in pages()) {
        let (a, b, c) = (pending(&a).range(), pending(&b).range(), pending(&c).range());
        prop_assert_eq!(a.union(b), b.union(a));
        prop_assert_eq!(a.union(b).union(c), a.union(b.union(c)));
        prop_assert_eq!(a.union(a), a);
    }

    #[test]
    fn new_accepts_aligned_non_empty_ranges_only(start in 0usize..100_000, end in 0usize..100_000) {
        let good = start < end && start % PAGE_SIZE == 0 && end % PAGE_SIZE == 0;
        prop_assert_eq!(PageRange::new(start, end).is_some(), good);
        let (start, end) = (start & !(PAGE_SIZE - 1), end & !(PAGE_SIZE - 1));
        prop_assert_eq!(PageRange::new(start, end).is_some(), start < end);
    }

    #[test]
    fn a_ledger_is_a_map_of_sets(notes in prop::collection::vec((0u32..6, 0usize..500), 1..80)) {
        let mut ledger = Ledger::<u32, 4>::new();
        let mut naive: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for &(mm, page) in &notes {
            let room = naive.contains_key(&mm) || naive.len() < 4;
            let noted = ledger.note(of_page(page), |m| *m == mm, || mm);
            prop_assert_eq!(noted.is_ok(), room);
            if room {
                naive.entry(mm).or_default().push(page);
            }
        }
        prop_assert_eq!(ledger.nr_pages(), notes.len());
        prop_assert_eq!(ledger.nr_mms(), naive.len());
        for entry in ledger.iter() {
            let pages = &naive[&entry.mm];
            let hull = pending(&pages.iter().copied().collect());
            prop_assert_eq!(entry.pending.range(), hull.range());
            prop_assert_eq!(entry.pending.nr_pages(), pages.len());
        }
    }

    #[test]
    fn the_ceiling_follows_its_table(
        nr_mms in 0usize..20, nr_far in 0usize..20, span in 1usize..200,
        ceiling_pages in 0usize..100, max_mms in 0usize..20,
    ) {
        let limits = Limits { ceiling_pages, max_mms };
        let range = PageRange::new(0, span << PAGE_SHIFT).unwrap();
        prop_assert_eq!(
            limits.decide(nr_mms, nr_far, &Pending::new(range, 1)),
            naive_decision(&limits, nr_mms, nr_far, span)
        );
    }

    #[test]
    fn a_window_shows_each_page_once(
        start in 1usize..2000, nr in 1usize..1500, pgoff in 0usize..1000,
        first in 0usize..3000, len in 1usize..500,
    ) {
        let range = PageRange::new(start << PAGE_SHIFT, (start + nr) << PAGE_SHIFT).unwrap();
        let window = Window::new(range, pgoff);
        let shown: Vec<usize> = (first..first + len).filter_map(|p| window.address_of(p)).collect();
        let naive: Vec<usize> = (first..first + len)
            .filter(|p| (pgoff..pgoff + nr).contains(p))
            .map(|p| (start + p - pgoff) << PAGE_SHIFT)
            .collect();
        prop_assert_eq!(&shown, &naive);
        let clipped = window.clip(first, first + len - 1);
        prop_assert_eq!(clipped.map(|r| r.start()), naive.first().copied());
        prop_assert_eq!(clipped.map(|r| r.end()), naive.last().map(|a| a + PAGE_SIZE));
        for addr in naive {
            let table = window.table_of(addr).unwrap();
            let index = |a: usize| (a >> PAGE_SHIFT) / PTRS_PER_PTE;
            prop_assert!(table.contains(addr));
            prop_assert_eq!(index(table.start()), index(table.end() - PAGE_SIZE));
            prop_assert!(range.union(table) == range);
        }
    }
}
