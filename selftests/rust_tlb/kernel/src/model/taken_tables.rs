// SPDX-License-Identifier: GPL-2.0

//! Which page tables are looked at when a batch takes them out, and which of them the policy is told
//! of: the real visitor, over mappings that hold no PTEs and only remember what they were asked.

use crate::{
    mm::{
        place::Place,
        range::{PageRange, Pending},
        tlb::{
            policy::{sealed::Sealed, Record, Touched},
            taker::{self, Counts, Fate, Permit, TakeTable},
            walk::{FileLocked, Mapping, Mappings},
        },
        window::{Window, PTRS_PER_PTE},
    },
    page::{PAGE_SHIFT, PAGE_SIZE},
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet};

/// What happened to a table, by its mapping and the first of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    LookedAt(usize, usize),
    Told(usize, usize),
}
use Step::{LookedAt, Told};

type Log = RefCell<Vec<Step>>;

/// An address space, by the number of its mapping.
struct Mm(usize);

/// A mapping of the file.
struct Shown<'l> {
    mm: Mm,
    window: Window,
    log: &'l Log,
}

struct File<'l>(Vec<Shown<'l>>);

impl Sealed for File<'_> {}

impl<'l> Mappings for File<'l> {
    type Mapping = Shown<'l>;

    fn for_each(&self, first: usize, last: usize, visit: impl FnMut(&Shown<'l>)) {
        let shows = |shown: &&Shown<'l>| shown.window.clip(first, last).is_some();
        self.0.iter().filter(shows).for_each(visit);
    }

    fn place(&self) -> Option<Place> {
        None
    }
}

impl FileLocked for File<'_> {}

impl Sealed for Shown<'_> {}

impl Mapping for Shown<'_> {
    type Mm = Mm;
    type Table<'m>
        = ()
    where
        Self: 'm;
    type Announced = ();

    fn mm(&self) -> &Mm {
        &self.mm
    }

    fn window(&self) -> Option<Window> {
        Some(self.window)
    }

    fn lock(&self, _addr: usize) -> Option<()> {
        unreachable!("whoever takes a table out locks it")
    }

    fn leaf(_table: &()) -> Option<PageRange> {
        None
    }

    fn announce(&self) {}

    fn is_announced(&self, _by: &()) -> bool {
        false
    }

    fn flush_now(&self, _range: PageRange) {}

    fn invalidating<R>(&self, _range: PageRange, _f: impl FnOnce() -> R) -> R {
        unreachable!("each table that goes has a bracket of its own")
    }

    fn flush_is_pending(&self) -> bool {
        false
    }

    fn cond_resched(&self) {}

    fn trace_owed(&self, _pending: Pending, _why: Touched) {}
}

/// What the table of `addr` is said to be, if it is looked at: some of each.
fn fate(addr: usize) -> Fate {
    let fates = [
        Fate::Taken,
        Fate::Used,
        Fate::Taken,
        Fate::Busy,
        Fate::Absent,
    ];
    fates[addr / (PTRS_PER_PTE * PAGE_SIZE) % fates.len()]
}

impl TakeTable for Shown<'_> {
    type Dead = Vec<(usize, usize)>;

    fn take_table(&self, table: PageRange, dead: &mut Self::Dead, _permit: &Permit) -> Fate {
        let start = table.start();
        self.log.borrow_mut().push(LookedAt(self.mm.0, start));
        if fate(start) == Fate::Taken {
            dead.push((self.mm.0, start));
        }
        fate(start)
    }
}

struct Policy<'l>(&'l Log);

impl Sealed for Policy<'_> {}

impl Record for Policy<'_> {
    type Mm = Mm;

    fn record(&mut self, _mm: &Mm, _pending: Pending) {
        unreachable!("no PTE is changed");
    }

    fn record_table(&mut self, mm: &Mm, range: PageRange) {
        assert_eq!(range.span_pages(), PTRS_PER_PTE);
        self.0.borrow_mut().push(Told(mm.0, range.start()));
    }
}

/// Where a mapping begins, how many pages it has, and which page of the file is its first.
type Where = (usize, usize, usize);

fn window((first_page, nr_pages, pgoff): Where) -> Window {
    let (start, end) = (first_page, first_page + nr_pages);
    let range = PageRange::new(start << PAGE_SHIFT, end << PAGE_SHIFT).unwrap();
    Window::new(range, pgoff)
}

/// Takes tables out of mappings that lie as `wheres` say, for pages `pgoffs` of the file, where the
/// driver knows those of `in_use` to be in use.
fn take(wheres: &[Where], pgoffs: &[usize], in_use: &BTreeSet<usize>) -> (Vec<Step>, Counts) {
    let log = Log::default();
    let shown = |(nr, &lies): (usize, &Where)| Shown {
        mm: Mm(nr),
        window: window(lies),
        log: &log,
    };
    let file = File(wheres.iter().enumerate().map(shown).collect());
    let may_be_empty = |first, last| in_use.range(first..=last).next().is_none();
    let mut dead = Vec::new();
    let counts = taker::take(&file, pgoffs, &mut Policy(&log), may_be_empty, &mut dead);
    let told = |step: &Step| match *step {
        Told(nr, start) => Some((nr, start)),
        LookedAt(..) => None,
    };
    assert!(log.borrow().iter().filter_map(told).eq(dead));
    (log.into_inner(), counts)
}

/// The same, page for page: of each mapping and each table's worth of addresses.
fn expected(wheres: &[Where], pgoffs: &[usize], in_use: &BTreeSet<usize>) -> (Vec<Step>, Counts) {
    let (mut steps, mut counts) = (Vec::new(), Counts::default());
    for (nr, &(first_page, nr_pages, pgoff)) in wheres.iter().enumerate() {
        let end = first_page + nr_pages;
        for first in (0..end).step_by(PTRS_PER_PTE) {
            let table = first..first + PTRS_PER_PTE;
            let is_covered = first_page <= table.start && table.end <= end;
            let mut shows = table.map(|page| (page + pgoff).wrapping_sub(first_page));
            let is_in = shows.clone().any(|shown| pgoffs.contains(&shown));
            if !is_covered || !is_in || shows.any(|shown| in_use.contains(&shown)) {
                continue;
            }
            let start = first << PAGE_SHIFT;
            steps.push(LookedAt(nr, start));
            match fate(start) {
                Fate::Taken => {
                    counts.nr_taken += 1;
                    steps.push(Told(nr, start));
                }
                Fate::Used => counts.nr_used += 1,
                Fate::Busy => counts.nr_busy += 1,
                Fate::Absent => {}
            }
        }
    }
    (steps, counts)
}

/// Pages of the file that can be shown.
const NR_PAGES: usize = 4 * PTRS_PER_PTE;

/// Aligned or not, shorter than a table or longer.
fn lies() -> impl Strategy<Value = Where> {
    let edge = || prop_oneof![(0..5_usize).prop_map(|n| n * PTRS_PER_PTE), 0..NR_PAGES];
    (edge(), edge(), edge()).prop_map(|(first, nr, pgoff)| (first, nr.max(1), pgoff))
}

proptest! {
    /// Those that a page of the batch was in, that the mapping covers, and that the driver does not
    /// know to be in use: each once. The policy is told of each that goes, and of no other.
    #[test]
    fn only_tables_that_are_covered_are_looked_at(
        wheres in prop::collection::vec(lies(), 1..4),
        pgoffs in prop::collection::btree_set(0..2 * NR_PAGES, 1..20),
        in_use in prop::collection::btree_set(0..2 * NR_PAGES, 0..4),
    ) {
        let pgoffs: Vec<usize> = pgoffs.into_iter().collect();
        prop_assert_eq!(take(&wheres, &pgoffs, &in_use), expected(&wheres, &pgoffs, &in_use));
    }
}

/// The same table's worth of the file: one mapping has it in a table, one in parts of two, and one has
/// not all of it.
#[test]
fn a_table_that_others_use_is_not_looked_at() {
    let nr = PTRS_PER_PTE;
    let wheres = [(nr, nr, 0), (nr + 1, nr, 0), (nr, nr - 1, 0)];
    let (steps, counts) = take(&wheres, &[3, 4, nr - 2], &BTreeSet::new());
    assert_eq!(steps, [LookedAt(0, nr << PAGE_SHIFT)]);
    assert_eq!((counts.nr_taken, counts.nr_used), (0, 1));
}

/// Tables that the batch had no page in stay, whatever the driver says.
#[test]
fn a_table_without_a_page_of_the_batch_is_not_looked_at() {
    let nr = PTRS_PER_PTE;
    let (steps, _) = take(&[(0, 4 * nr, 0)], &[0, 2 * nr + 7], &BTreeSet::new());
    let third = (2 * nr) << PAGE_SHIFT;
    assert_eq!(
        steps,
        [
            LookedAt(0, 0),
            Told(0, 0),
            LookedAt(0, third),
            Told(0, third)
        ]
    );
    let (steps, _) = take(
        &[(0, 4 * nr, 0)],
        &[0, 2 * nr + 7],
        &BTreeSet::from([nr - 1]),
    );
    assert_eq!(steps, [LookedAt(0, third), Told(0, third)]);
}
