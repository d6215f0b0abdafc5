// SPDX-License-Identifier: GPL-2.0

//! What takes memory, and what is counted, against a map that forgets nothing.

use super::sparse::{Item, Room, Sparse};
use crate::{alloc::GFP_KERNEL, mm::window::PTRS_PER_PTE};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

const LEN: usize = 3 * PTRS_PER_PTE - 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Nothing,
    Kept(u32),
    Used(u32),
}

impl Item for Thing {
    fn is_nothing(&self) -> bool {
        *self == Self::Nothing
    }

    fn is_used(&self) -> bool {
        matches!(self, Self::Used(_))
    }
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![
        2 => Just(Thing::Nothing),
        1 => any::<u32>().prop_map(Thing::Kept),
        2 => any::<u32>().prop_map(Thing::Used),
    ]
}

/// Few numbers, at the ends of the chunks and behind the last one.
fn number() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..4_usize,
        PTRS_PER_PTE - 2..PTRS_PER_PTE + 3,
        LEN - 2..LEN + 9,
    ]
}

fn insert(items: &mut Sparse<Thing>, number: usize, thing: Thing) -> Result<(), Thing> {
    if let Some(nr) = items.room_wanted(number) {
        assert_eq!(items.insert(number, thing), Err(thing), "there is no room");
        items.grow(number, Room::new(nr, GFP_KERNEL).unwrap());
    }
    assert_eq!(items.room_wanted(number), None);
    items.insert(number, thing)
}

fn at(map: &BTreeMap<usize, Thing>, number: usize) -> Thing {
    map.get(&number).copied().unwrap_or(Thing::Nothing)
}

proptest! {
    #[test]
    fn items_are_where_they_were_put(
        steps in prop::collection::vec((number(), thing(), any::<bool>()), 1..100),
        many in prop::collection::vec((number(), thing()), 0..20),
        (from, until) in (number(), number()),
    ) {
        let mut items = Sparse::new(LEN, GFP_KERNEL).unwrap();
        let mut map = BTreeMap::new();
        for (number, thing, is_new) in steps {
            let old = at(&map, number);
            if is_new {
                let free = number < LEN && old.is_nothing();
                let inserted = insert(&mut items, number, thing);
                prop_assert_eq!(inserted, if free { Ok(()) } else { Err(thing) });
                if free {
                    map.insert(number, thing);
                }
            } else if let Some(changed) = items.change(number, |item| mem::replace(item, thing)) {
                prop_assert_eq!(changed, old);
                map.insert(number, thing);
            } else {
                prop_assert!(old.is_nothing(), "it has memory");
            }
        }
        let numbers = many.iter().map(|(number, _)| *number);
        let mut there: BTreeSet<_> = numbers.filter(|number| !at(&map, *number).is_nothing()).collect();
        let many = many.into_iter().map(|(number, thing)| (number, (number, thing)));
        items.change_each(many, |item, (number, thing)| {
            assert_eq!(mem::replace(item, thing), at(&map, number));
            map.insert(number, thing);
            there.remove(&number);
        });
        prop_assert!(there.is_empty(), "all that is something has memory");
        for number in 0..LEN + PTRS_PER_PTE {
            let found = items.get(number).copied().unwrap_or(Thing::Nothing);
            prop_assert_eq!(found, at(&map, number));
        }
        let used = |number: &usize| at(&map, *number).is_used();
        prop_assert_eq!(items.first_from(from, Item::is_used), (from..LEN).find(used));
        let chunk = |number: usize| number / PTRS_PER_PTE;
        let (first, last) = (from.min(until), from.max(until));
        let mut shown = chunk(first) * PTRS_PER_PTE..(chunk(last) + 1) * PTRS_PER_PTE;
        prop_assert_eq!(items.is_used(first, last), shown.any(|number| used(&number)));
    }
}

/// One item of each chunk takes the memory of one; none takes none.
#[test]
fn memory_is_for_what_is_there() {
    let mut items = Sparse::new(LEN, GFP_KERNEL).unwrap();
    for number in (5..LEN).step_by(PTRS_PER_PTE) {
        assert_eq!(items.room_wanted(number), Some(1));
        assert_eq!(insert(&mut items, number, Thing::Used(1)), Ok(()));
        assert_eq!(items.room_wanted(number + 1), Some(2), "there is no more");
        assert_eq!(
            items.change(number, |item| mem::replace(item, Thing::Nothing)),
            Some(Thing::Used(1))
        );
        assert_eq!(items.room_wanted(number), Some(1), "it is not gone");
    }
    assert_eq!(items.room_wanted(LEN + PTRS_PER_PTE), None);
}
