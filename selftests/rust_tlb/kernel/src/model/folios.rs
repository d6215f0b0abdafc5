// SPDX-License-Identifier: GPL-2.0

//! Entries of a batch that are several pages: mappings show a part of them, page tables cut them in two,
//! not all of it is mapped, and what is mapped there is not always theirs. However that is, all that is
//! mapped of them goes, and nothing else, and the policy is told of it under its lock.
//!
//! H2 is a rule of `Documentation/mm/tlb_batch.rst`.

use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        parts::{Cleared, Part},
        place::Place,
        range::{PageRange, Pending},
        stale::{Proof, Stale},
        tlb::{
            batch::Batch,
            policy::{sealed::Sealed, Flush, Kind, Record, Report, Touched},
            walk::{Mapping, Mappings, Permit, Unmap},
        },
        window::{Window, PTRS_PER_PTE},
    },
    page::{PAGE_SHIFT, PAGE_SIZE},
};
use proptest::prelude::*;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

/// Pages of the file, which is its own memory: page `n` is frame `n`.
const NR_PAGES: usize = 3 * PTRS_PER_PTE;
/// A frame that is not of the file.
const STRANGER: usize = usize::MAX;

struct Folio {
    first: usize,
    nr_pages: usize,
    /// The batch says so.
    is_unmapped: bool,
}

impl Folio {
    fn new(first: usize, nr_pages: usize) -> Self {
        Self {
            first,
            nr_pages,
            is_unmapped: false,
        }
    }
}

impl Stale for Folio {
    fn nr_pages(&self) -> usize {
        self.nr_pages
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {
        self.is_unmapped = true;
    }

    fn flushed(&mut self, _proof: Proof) {}
}

/// Pages of an address space.
type Vpns = BTreeSet<usize>;

/// What happens to an address space, by its number in a list.
#[derive(Default)]
struct Space {
    ptes: BTreeMap<usize, usize>,
    /// Cleared under the lock that is held, and not recorded yet.
    unrecorded: Vpns,
    /// The policy was told of them in ranges, and one by one.
    recorded: Vpns,
    each: Vpns,
    nr_recorded: usize,
    nr_locked: usize,
    is_locked: bool,
}

struct Mm {
    shown: Window,
    /// Someone else has cleared PTEs, and owes the flush.
    is_owed: bool,
    /// Of the page tables that it has.
    space: RefCell<Space>,
}

impl Mm {
    fn has_table(&self, vpn: usize) -> bool {
        let first = vpn / PTRS_PER_PTE * PTRS_PER_PTE;
        let ptes = &self.space.borrow().ptes;
        ptes.range(first..first + PTRS_PER_PTE).next().is_some()
    }

    /// Where the pages of `folios` are shown.
    fn shows<'f>(&self, folios: impl IntoIterator<Item = &'f (usize, usize)>) -> Vpns {
        let pgoffs = folios
            .into_iter()
            .flat_map(|(first, nr)| *first..first + nr);
        let addrs = pgoffs.filter_map(|pgoff| self.shown.address_of(pgoff));
        addrs.map(|addr| addr >> PAGE_SHIFT).collect()
    }

    /// In each page table, of each folio, from the first to the last of what is one of `ours`.
    fn spans(&self, folios: &[(usize, usize)], ours: &Vpns) -> Vpns {
        let mut all = Vpns::new();
        for folio in folios {
            let there: Vec<usize> = self.shows([folio]).intersection(ours).copied().collect();
            for part in there.chunk_by(in_one_table) {
                all.extend(part[0]..=part[part.len() - 1]);
            }
        }
        all
    }
}

fn in_one_table(a: &usize, b: &usize) -> bool {
    a / PTRS_PER_PTE == b / PTRS_PER_PTE
}

struct All<'a>(&'a [Mm]);

struct Locked<'a>(&'a Mm);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let mut space = self.0.space.borrow_mut();
        // Twice at once would abort all tests.
        let is_recorded = space.unrecorded.is_empty() || std::thread::panicking();
        assert!(is_recorded, "unlocked, and not recorded");
        space.is_locked = false;
    }
}

impl Sealed for All<'_> {}

impl Mappings for All<'_> {
    type Mapping = Mm;

    fn for_each(&self, first: usize, last: usize, visit: impl FnMut(&Mm)) {
        let shows = |mm: &&Mm| mm.shown.clip(first, last).is_some();
        self.0.iter().filter(shows).for_each(visit);
    }

    fn place(&self) -> Option<Place> {
        Some(Place {
            mapping: 1,
            data: 2,
        })
    }
}

impl Sealed for Mm {}

impl Mapping for Mm {
    type Mm = Mm;
    type Table<'m> = Locked<'m>;
    type Announced = ();

    fn mm(&self) -> &Mm {
        self
    }

    fn window(&self) -> Option<Window> {
        Some(self.shown)
    }

    fn lock(&self, addr: usize) -> Option<Locked<'_>> {
        assert!(self.shown.range().contains(addr));
        if !self.has_table(addr >> PAGE_SHIFT) {
            return None;
        }
        let mut space = self.space.borrow_mut();
        assert!(!space.is_locked);
        space.is_locked = true;
        space.nr_locked += 1;
        Some(Locked(self))
    }

    fn leaf(_table: &Locked<'_>) -> Option<PageRange> {
        None
    }

    fn announce(&self) {}

    fn is_announced(&self, _by: &()) -> bool {
        false
    }

    fn flush_now(&self, _range: PageRange) {}

    fn invalidating<R>(&self, _range: PageRange, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn flush_is_pending(&self) -> bool {
        self.is_owed
    }

    fn cond_resched(&self) {}

    fn trace_owed(&self, _pending: Pending, _why: Touched) {}
}

impl Unmap<Folio> for Mm {
    fn clear(table: &mut Locked<'_>, part: Part<'_, Folio>, _permit: &Permit) -> Cleared {
        let Part { pages, entry, nth } = part;
        let in_one = |vpn: usize| vpn / PTRS_PER_PTE;
        let (first, last) = (pages.start() >> PAGE_SHIFT, (pages.end() - 1) >> PAGE_SHIFT);
        assert_eq!(in_one(first), in_one(last), "behind the page table");
        assert!(
            nth + pages.span_pages() <= entry.nr_pages,
            "behind the folio"
        );
        let mut space = table.0.space.borrow_mut();
        let mut nr = 0;
        for (vpn, frame) in (first..=last).zip(entry.first + nth..) {
            if space.ptes.get(&vpn) == Some(&frame) {
                space.ptes.remove(&vpn);
                space.unrecorded.insert(vpn);
                nr += 1;
            }
        }
        Cleared {
            nr,
            ..Cleared::default()
        }
    }

    fn protect(_: &mut Locked<'_>, _: Part<'_, Folio>, _: &Permit) -> bool {
        false
    }
}

/// A policy that notes what it is told.
struct Told {
    flushes_each: bool,
}

fn vpns(range: PageRange) -> impl Iterator<Item = usize> {
    range.start() >> PAGE_SHIFT..range.end() >> PAGE_SHIFT
}

impl Sealed for Told {}

impl Record for Told {
    type Mm = Mm;

    fn flushes_each(&self) -> bool {
        self.flushes_each
    }

    fn cleared(&mut self, mm: &Mm, page: PageRange) {
        mm.space.borrow_mut().each.extend(vpns(page));
    }

    fn record(&mut self, mm: &Mm, pending: Pending) {
        let mut space = mm.space.borrow_mut();
        let all: Vpns = vpns(pending.range()).collect();
        assert!(space.unrecorded.is_subset(&all));
        space.unrecorded.clear();
        space.recorded.extend(all);
        space.nr_recorded += pending.nr_pages();
    }

    fn record_table(&mut self, _mm: &Mm, _range: PageRange) {}
}

impl Flush for Told {
    fn kind(&self) -> Kind {
        Kind::Broadcast
    }

    fn owed(&self) -> Report {
        Report::default()
    }

    fn flush(&mut self) -> Report {
        Report::default()
    }
}

/// What one address space shows of the file, where, and what is not as it should be there.
#[derive(Debug)]
struct Scenario {
    vpn: usize,
    pgoff: usize,
    nr_pages: usize,
    is_owed: bool,
    /// Which are not mapped, and where a stranger is: by their number.
    holes: Vec<usize>,
    strangers: Vec<usize>,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let some = || prop::collection::vec(0..NR_PAGES, 0..20);
    let place = (0..2 * PTRS_PER_PTE, 0..NR_PAGES, 1..NR_PAGES);
    (place, any::<bool>(), some(), some()).prop_map(
        |((vpn, pgoff, nr_pages), is_owed, holes, strangers)| Scenario {
            vpn,
            pgoff,
            nr_pages: nr_pages.min(NR_PAGES - pgoff),
            is_owed,
            holes,
            strangers,
        },
    )
}

impl Scenario {
    fn mm(&self) -> Mm {
        let range = PageRange::new(self.vpn * PAGE_SIZE, (self.vpn + self.nr_pages) * PAGE_SIZE);
        let pages = (0..self.nr_pages).filter(|nr| !self.holes.contains(nr));
        let pte = |nr: usize| match self.strangers.contains(&nr) {
            true => (self.vpn + nr, STRANGER),
            false => (self.vpn + nr, self.pgoff + nr),
        };
        Mm {
            shown: Window::new(range.unwrap(), self.pgoff),
            is_owed: self.is_owed,
            space: RefCell::new(Space {
                ptes: pages.map(pte).collect(),
                ..Space::default()
            }),
        }
    }
}

/// Folios of different orders, each aligned to its size, some of which are taken.
fn folios() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let folio = (0..=9_u32, any::<bool>());
    prop::collection::vec(folio, 1..60).prop_map(|all| {
        let (mut next, mut taken) = (0_usize, Vec::new());
        for (order, is_taken) in all {
            let nr_pages = 1 << order;
            let first = next.next_multiple_of(nr_pages);
            next = first + nr_pages;
            if is_taken && next <= NR_PAGES {
                taken.push((first, nr_pages));
            }
        }
        taken
    })
}

proptest! {
    #[test]
    fn all_that_is_mapped_of_a_folio_goes(
        scenarios in prop::collection::vec(scenario(), 1..4),
        folios in folios(),
        flushes_each: bool,
    ) {
        let mms: Vec<Mm> = scenarios.iter().map(Scenario::mm).collect();
        let before: Vec<_> = mms.iter().map(|mm| mm.space.borrow().ptes.clone()).collect();
        let policy = KBox::new(Told { flushes_each }, GFP_KERNEL).unwrap();
        let mut batch = Batch::with_policy(policy, folios.len(), GFP_KERNEL).unwrap();
        let mut staging = batch.stage();
        // In any order.
        for &(first, nr_pages) in folios.iter().rev() {
            let pushed = staging.push(first, Folio::new(first, nr_pages));
            prop_assert!(pushed.is_ok());
        }
        let nr_cleared = staging.unmap(&All(&mms));

        let mut nr_expected = 0;
        for (mm, before) in mms.iter().zip(&before) {
            let shown = mm.shows(&folios);
            let space = mm.space.borrow();
            let is_ours = |vpn: &usize, frame: &usize| shown.contains(vpn) && *frame != STRANGER;
            let ours: Vpns = before.iter().filter(|(v, f)| is_ours(v, f)).map(|(v, _)| *v).collect();
            nr_expected += ours.len();
            let mut left = before.clone();
            left.retain(|vpn, _| !ours.contains(vpn));
            prop_assert_eq!(&space.ptes, &left);
            prop_assert_eq!(space.nr_recorded, ours.len());
            prop_assert!(ours.is_subset(&space.recorded));
            // H2: what is not there may be owed by someone else. Nothing else is told of: in each table
            // a flush begins and ends with a page that was ours.
            let must = if mm.is_owed { &shown } else { &ours };
            prop_assert!(must.is_subset(&space.recorded));
            let recorded: Vec<usize> = space.recorded.iter().copied().collect();
            for table in recorded.chunk_by(in_one_table) {
                prop_assert!(must.contains(&table[0]));
                prop_assert!(must.contains(&table[table.len() - 1]));
            }
            let spans = mm.spans(&folios, &ours);
            prop_assert!(!flushes_each || spans.is_subset(&space.each));
            prop_assert!(must.union(&spans).copied().collect::<Vpns>().is_superset(&space.each));
            let tables: BTreeSet<usize> = shown.iter().map(|vpn| vpn / PTRS_PER_PTE).collect();
            prop_assert!(space.nr_locked <= tables.len(), "locked twice");
        }
        prop_assert_eq!(nr_cleared, nr_expected);
    }
}

/// Where a page table or a mapping ends, a walk could not tell which of them goes on: it takes none.
#[test]
fn folios_that_share_a_page_stay() {
    for (a, b, are_apart) in [
        ((4, 4), (3, 1), true),
        ((4, 4), (8, 1), true),
        ((4, 4), (0, 4), true),
        ((4, 1), (4, 1), true),
        ((4, 4), (4, 1), false),
        ((4, 4), (7, 1), false),
        ((4, 4), (4, 4), false),
        ((4, 4), (2, 3), false),
        ((4, 4), (0, 16), false),
    ] {
        let scenario = Scenario {
            vpn: 0,
            pgoff: 0,
            nr_pages: 32,
            is_owed: false,
            holes: vec![],
            strangers: vec![],
        };
        let mms = [scenario.mm()];
        let policy = KBox::new(
            Told {
                flushes_each: false,
            },
            GFP_KERNEL,
        )
        .unwrap();
        let mut batch = Batch::with_policy(policy, 3, GFP_KERNEL).unwrap();
        let mut staging = batch.stage();
        for (first, nr_pages) in [a, b, (20, 4)] {
            let pushed = staging.push(first, Folio::new(first, nr_pages));
            assert!(pushed.is_ok());
        }
        let nr_cleared = staging.unmap(&All(&mms));
        let nr_left = mms[0].space.borrow().ptes.len();
        assert_eq!(nr_cleared > 0, are_apart, "{a:?}, {b:?}");
        assert_eq!(nr_left, 32 - nr_cleared);
        let mut flushed = batch.flush();
        assert_eq!(flushed.nr_entries(), 3);
        assert!(flushed
            .drain()
            .all(|(_, folio)| folio.is_unmapped == are_apart));
    }
}
