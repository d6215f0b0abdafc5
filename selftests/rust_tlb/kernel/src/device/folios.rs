// SPDX-License-Identifier: GPL-2.0

//! Slots of folios: any page of a folio finds it, and what is handed out is where it begins.
//!
//! H3 is a rule of `Documentation/mm/tlb_batch.rst`.

use super::slots::{Found, SlotRoom, Slots, Until};
use crate::{alloc::GFP_KERNEL, mm::window::PTRS_PER_PTE};
use proptest::prelude::*;
use std::collections::BTreeSet;

const NR_PAGES: usize = 4 * PTRS_PER_PTE;

/// Its pages are known by the first one.
type Folio = usize;

fn slots_with(order: u32, pgoffs: &[usize]) -> (Slots<Folio, Folio>, BTreeSet<Folio>) {
    let mut slots = Slots::new(NR_PAGES, GFP_KERNEL).unwrap();
    // The one that counts is the last.
    slots.set_order(3);
    slots.set_order(order);
    let mut firsts = BTreeSet::new();
    for &pgoff in pgoffs {
        let first = pgoff / slots.nr_per_slot() * slots.nr_per_slot();
        if let Some(nr) = slots.room_wanted(pgoff) {
            slots.grow(pgoff, SlotRoom::new(nr, GFP_KERNEL).unwrap());
        }
        let is_new = firsts.insert(first);
        assert_eq!(slots.fill(pgoff, first).is_ok(), is_new);
    }
    (slots, firsts)
}

fn orders() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 2..=9_u32]
}

proptest! {
    #[test]
    fn any_page_of_a_folio_finds_it(
        order in orders(),
        pgoffs in prop::collection::vec(0..NR_PAGES, 0..30),
    ) {
        let (slots, firsts) = slots_with(order, &pgoffs);
        for pgoff in 0..NR_PAGES {
            let first = slots.first_of(pgoff);
            prop_assert!(first <= pgoff && pgoff < first + slots.nr_per_slot());
            let there = firsts.get(&first);
            prop_assert_eq!(slots.get(pgoff), there);
            let found = if there.is_some() { Found::Page } else { Found::Nothing };
            prop_assert_eq!(slots.find(pgoff), found);
        }
        prop_assert_eq!(slots.find(NR_PAGES), Found::Nowhere);
    }

    #[test]
    fn each_folio_is_taken_once(
        order in orders(),
        pgoffs in prop::collection::vec(0..NR_PAGES, 0..30),
        mut asked in prop::collection::vec(0..NR_PAGES, 0..60),
    ) {
        let (mut slots, firsts) = slots_with(order, &pgoffs);
        asked.sort_unstable();
        asked.dedup();
        let all: Vec<_> = slots.firsts_of(&asked).collect();
        let all_once: BTreeSet<_> = asked.iter().map(|pgoff| slots.first_of(*pgoff)).collect();
        prop_assert!(all.iter().eq(all_once.iter()));
        // There or not, page by page.
        let whole = slots.whole(&asked, GFP_KERNEL).unwrap();
        let is_asked = |pgoff: &usize| all_once.contains(&slots.first_of(*pgoff));
        prop_assert!(whole.iter().copied().eq((0..NR_PAGES).filter(is_asked)));
        for first in all {
            let there = firsts.get(&first).copied();
            prop_assert_eq!(slots.take(first, Until::Settled), there);
            // H3: also by another of its pages.
            let last = first + (slots.nr_per_slot() - 1);
            let expected = if there.is_some() { Found::Pending } else { Found::Nothing };
            prop_assert_eq!(slots.find(last), expected);
        }
    }

    #[test]
    fn chunks_are_those_of_page_tables(
        order in orders(),
        pgoffs in prop::collection::vec(0..NR_PAGES, 0..4),
    ) {
        let (mut slots, firsts) = slots_with(order, &pgoffs);
        for first in (0..NR_PAGES).step_by(PTRS_PER_PTE) {
            let last = first + PTRS_PER_PTE - 1;
            let is_used = firsts.range(first..=last).next().is_some();
            prop_assert_eq!(slots.is_used(first, last), is_used);
        }
        // The offsets that come out are those that went in.
        let mut from = 0;
        let mut out = BTreeSet::new();
        while let Some((pgoff, folio)) = slots.take_any(from) {
            prop_assert_eq!(pgoff, folio);
            out.insert(pgoff);
            from = pgoff + slots.nr_per_slot();
        }
        prop_assert_eq!(out, firsts);
    }
}
