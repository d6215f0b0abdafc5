// SPDX-License-Identifier: GPL-2.0

//! H3: where a flush is owed, no other page is mapped, whatever is done to the slots.
//!
//! H3 is a rule of `Documentation/mm/tlb_batch.rst`.

use super::slots::{Found, SlotRoom, Slots, Until};
use crate::alloc::GFP_KERNEL;
use proptest::prelude::*;
use std::collections::BTreeMap;

const NR_PAGES: usize = 4;

/// Which page it is.
type Page = u32;

#[derive(Clone, Copy, Debug)]
enum Step {
    Fault(usize),
    Unmap(usize),
    /// Saves the contents of a page that is pending.
    Store(usize),
    Flush {
        keep: bool,
    },
    MarkIdle(usize),
    UnmarkIdle(usize),
    /// Memory pressure takes an idle page, and flushes.
    Evict,
}

fn step() -> impl Strategy<Value = Step> {
    let pgoff = 0..=NR_PAGES;
    prop_oneof![
        6 => pgoff.clone().prop_map(Step::Fault),
        4 => pgoff.clone().prop_map(Step::Unmap),
        1 => pgoff.clone().prop_map(Step::Store),
        1 => any::<bool>().prop_map(|keep| Step::Flush { keep }),
        2 => pgoff.clone().prop_map(Step::MarkIdle),
        1 => pgoff.prop_map(Step::UnmarkIdle),
        1 => Just(Step::Evict),
    ]
}

/// Fills a slot as the device does: makes room first.
fn fill(slots: &mut Slots<Page, Page>, pgoff: usize, page: Page) -> Result<(), Page> {
    if let Some(nr) = slots.room_wanted(pgoff) {
        slots.grow(pgoff, SlotRoom::new(nr, GFP_KERNEL).unwrap());
    }
    slots.fill(pgoff, page)
}

/// What of the rule is left to the slots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// As the device is.
    Right,
    /// It forgets to flush in a fault.
    DoesNotFlush,
    /// The control: it forgets that a flush is owed.
    Forgets,
}

/// The flush of what was at `pgoff` was made. Returns whether the page goes back.
fn stays(slots: &mut Slots<Page, Page>, pgoff: usize, keep: bool) -> bool {
    slots.settle(std::iter::once((pgoff, keep)));
    slots.find(pgoff) == Found::Pending
}

struct World {
    driver: Driver,
    slots: Slots<Page, Page>,
    /// Pages in the batch, and where they were.
    batch: Vec<(usize, Page)>,
    /// What other CPUs may still have in their TLBs.
    stale: BTreeMap<usize, Page>,
    last: Page,
    nr_two_at_once: usize,
}

impl World {
    fn new(driver: Driver) -> Self {
        Self {
            driver,
            slots: Slots::new(NR_PAGES, GFP_KERNEL).unwrap(),
            batch: Vec::new(),
            stale: BTreeMap::new(),
            last: 0,
            nr_two_at_once: 0,
        }
    }

    fn flush(&mut self, keep: bool) {
        self.stale.clear();
        for (pgoff, page) in std::mem::take(&mut self.batch) {
            let stays = stays(&mut self.slots, pgoff, keep);
            assert!(keep || !stays, "a page stays only to be kept");
            if stays {
                self.slots.put_back(pgoff, page);
            }
        }
    }

    fn fault(&mut self, pgoff: usize) {
        if self.slots.find(pgoff) == Found::Pending && self.driver != Driver::DoesNotFlush {
            self.flush(false);
        }
        self.last += 1;
        match self.slots.find(pgoff) {
            Found::Copy => self.slots.restore(pgoff, |copy| copy),
            _ => _ = fill(&mut self.slots, pgoff, self.last),
        }
        if let (Some(page), Some(stale)) = (self.slots.get(pgoff), self.stale.get(&pgoff)) {
            self.nr_two_at_once += usize::from(page != stale);
        }
    }

    fn unmap(&mut self, pgoff: usize) {
        let until = match self.driver {
            Driver::Forgets => Until::Flushed,
            _ => Until::Settled,
        };
        if let Some(page) = self.slots.take(pgoff, until) {
            self.stale.insert(pgoff, page);
            self.batch.push((pgoff, page));
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Fault(pgoff) => self.fault(pgoff),
            Step::Unmap(pgoff) => self.unmap(pgoff),
            Step::Store(pgoff) => {
                self.last += 1;
                self.slots.store(pgoff, self.last);
            }
            Step::Flush { keep } => self.flush(keep),
            Step::MarkIdle(pgoff) => _ = self.slots.mark_idle(pgoff),
            Step::UnmarkIdle(pgoff) => _ = self.slots.unmark_idle(pgoff),
            Step::Evict => _ = self.slots.take_idle(0),
        }
        let there = (0..NR_PAGES).filter(|&pgoff| self.slots.get(pgoff).is_some());
        let nr_there = there.count();
        assert!(self.slots.nr_idle() <= nr_there);
        assert_eq!(self.slots.is_used(0, NR_PAGES - 1), nr_there > 0);
    }
}

/// Returns how often two CPUs saw two pages at one address.
fn two_at_once(driver: Driver, steps: &[Step]) -> usize {
    let mut world = World::new(driver);
    steps.iter().for_each(|step| world.step(*step));
    world.nr_two_at_once
}

proptest! {
    #[test]
    fn no_page_is_mapped_where_a_flush_is_owed(steps in prop::collection::vec(step(), 1..80)) {
        prop_assert_eq!(two_at_once(Driver::Right, &steps), 0);
        prop_assert_eq!(two_at_once(Driver::DoesNotFlush, &steps), 0);
    }

    /// All that are taken out are idle, and none is left.
    #[test]
    fn idle_pages_are_counted(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(Driver::Right);
        steps.iter().for_each(|step| world.step(*step));
        let nr_idle = world.slots.nr_idle();
        let taken = std::iter::from_fn(|| world.slots.take_idle(0)).count();
        prop_assert_eq!((taken, world.slots.nr_idle()), (nr_idle, 0));
    }
}

/// The control.
#[test]
fn two_pages_at_one_address_are_found() {
    let steps = [Step::Fault(1), Step::Unmap(1), Step::Fault(1)];
    assert_ne!(two_at_once(Driver::Forgets, &steps), 0);
    assert_eq!(two_at_once(Driver::Right, &steps), 0);
}

/// What comes back, and where: the page itself, its copy, or another one.
#[test]
fn a_page_is_restored_from_its_copy() {
    let mut slots = Slots::<Page, Page>::new(1, GFP_KERNEL).unwrap();
    assert_eq!(slots.find(1), Found::Nowhere);
    assert_eq!(fill(&mut slots, 1, 7), Err(7));
    assert_eq!(fill(&mut slots, 0, 7), Ok(()));
    assert_eq!(fill(&mut slots, 0, 8), Err(8), "there is one");
    assert_eq!(slots.take(0, Until::Settled), Some(7));
    assert_eq!(
        (slots.find(0), fill(&mut slots, 0, 8)),
        (Found::Pending, Err(8))
    );
    slots.store(0, 9);
    assert_eq!(
        (slots.find(0), fill(&mut slots, 0, 8)),
        (Found::Pending, Err(8))
    );
    assert!(!stays(&mut slots, 0, true), "there is a copy to keep");
    assert_eq!(
        (slots.find(0), fill(&mut slots, 0, 8)),
        (Found::Copy, Err(8))
    );
    slots.restore(0, |copy| copy + 100);
    assert_eq!(slots.get(0), Some(&109));
    assert_eq!(slots.take(0, Until::Settled), Some(109));
    assert!(stays(&mut slots, 0, true), "there is no copy");
    slots.put_back(0, 109);
    assert_eq!(slots.get(0), Some(&109));
    assert_eq!(slots.take(0, Until::Settled), Some(109));
    slots.put_back(0, 109);
    assert_eq!(slots.take_any(0), Some((0, 109)));
    assert_eq!(slots.find(0), Found::Nothing);
}

/// A page that memory pressure took comes back as idle, and who asks is told.
#[test]
fn a_page_that_was_taken_is_remembered() {
    let mut slots = Slots::<Page, Page>::new(2, GFP_KERNEL).unwrap();
    assert_eq!(fill(&mut slots, 1, 7), Ok(()));
    assert!(!slots.mark_idle(0) && slots.mark_idle(1) && !slots.mark_idle(1));
    assert_eq!(slots.take_idle(0), Some((1, 7)));
    assert_eq!((slots.nr_idle(), slots.find(1)), (0, Found::Nothing));
    assert_eq!(fill(&mut slots, 1, 8), Ok(()));
    assert_eq!(slots.nr_idle(), 1);
    assert_eq!(slots.unmark_idle(1), (true, true));
    assert_eq!(slots.unmark_idle(1), (false, false));
    assert_eq!(slots.nr_idle(), 0);
}

/// A page is there, or a flush is owed: no block of pages goes in.
#[test]
fn a_block_wants_all_its_places_free() {
    let mut slots = Slots::<Page, Page>::new(NR_PAGES, GFP_KERNEL).unwrap();
    assert!(slots.are_free(0..NR_PAGES));
    assert!(!slots.are_free(0..NR_PAGES + 1), "behind the end");
    fill(&mut slots, 2, 7).unwrap();
    assert!(slots.are_free(0..2) && !slots.are_free(0..NR_PAGES));
    assert_eq!(slots.take(2, Until::Settled), Some(7));
    assert!(!slots.are_free(0..NR_PAGES), "pending");
    assert!(!stays(&mut slots, 2, false));
    assert!(slots.are_free(0..NR_PAGES));
}
