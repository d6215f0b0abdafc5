// SPDX-License-Identifier: GPL-2.0

//! Row 6: what has gone bad is never handed out again; and a write to a page of the pool is noticed,
//! once.

use super::pool::{Findings, Pool, Pooled};
use crate::alloc::GFP_KERNEL;
use proptest::prelude::*;

const ROOM: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    Zero,
    Poison,
    /// What a stale translation wrote, or the page's user.
    Data,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    contents: Contents,
    is_bad: bool,
}

impl Page {
    const USED: Self = Self {
        contents: Contents::Data,
        is_bad: false,
    };
}

impl Pooled for Page {
    fn is_bad(&self) -> bool {
        self.is_bad
    }

    fn poison(&mut self) {
        assert!(!self.is_bad, "bad memory is touched");
        self.contents = Contents::Poison;
    }

    fn is_poisoned(&self) -> bool {
        assert!(!self.is_bad, "bad memory is touched");
        self.contents == Contents::Poison
    }

    fn zero(&mut self) {
        assert!(!self.is_bad, "bad memory is touched");
        self.contents = Contents::Zero;
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Keep,
    Take,
    Check,
    Shrink(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Keep),
        2 => Just(Step::Take),
        1 => Just(Step::Check),
        1 => (0..ROOM + 2).prop_map(Step::Shrink),
    ]
}

proptest! {
    #[test]
    fn a_pool_keeps_as_many_as_it_has_room_for(steps in prop::collection::vec(step(), 0..60)) {
        let mut pool = Pool::new(ROOM, GFP_KERNEL).unwrap();
        let mut nr = 0;
        for step in steps {
            match step {
                Step::Keep => {
                    let kept = pool.keep(Page::USED);
                    prop_assert_eq!(kept.is_ok(), nr < ROOM);
                    // Also who frees it wants to know of late writes.
                    prop_assert!(kept.err().is_none_or(|page| page.is_poisoned()));
                    nr = ROOM.min(nr + 1);
                }
                Step::Take => {
                    let mut found = Findings::default();
                    let zeroed = Page { contents: Contents::Zero, is_bad: false };
                    prop_assert_eq!(pool.take(&mut found), (nr > 0).then_some(zeroed));
                    prop_assert_eq!(found, Findings::default());
                    nr = nr.saturating_sub(1);
                }
                Step::Check => prop_assert_eq!(pool.check(), Findings::default()),
                Step::Shrink(by) => {
                    prop_assert_eq!(pool.shrink(by), by.min(nr));
                    nr = nr.saturating_sub(by);
                }
            }
            prop_assert_eq!(pool.len(), nr);
        }
        prop_assert_eq!(pool.drain().count(), nr);
    }
}

/// A pool of `pages` as they become while they are in it.
fn pool_of(pages: &[Page]) -> Pool<Turning> {
    let mut pool = Pool::new(pages.len(), GFP_KERNEL).unwrap();
    for &page in pages {
        assert!(pool.keep(Turning { page, is_in: false }).is_ok());
    }
    pool
}

/// A page that becomes what it is to be after it was poisoned.
struct Turning {
    page: Page,
    is_in: bool,
}

impl Pooled for Turning {
    fn is_bad(&self) -> bool {
        self.page.is_bad()
    }

    fn poison(&mut self) {
        if self.is_in {
            self.page.poison();
        }
        self.is_in = true;
    }

    fn is_poisoned(&self) -> bool {
        self.page.is_poisoned()
    }

    fn zero(&mut self) {
        self.page.zero();
    }
}

const BAD: Page = Page {
    contents: Contents::Data,
    is_bad: true,
};
const GOOD: Page = Page {
    contents: Contents::Poison,
    is_bad: false,
};
/// Someone wrote to it.
const WRITTEN: Page = Page::USED;

#[test]
fn a_page_that_has_gone_bad_is_not_handed_out() {
    let mut pool = pool_of(&[GOOD, BAD, WRITTEN, BAD]);
    let mut found = Findings::default();
    for (nr_bad, nr_written) in [(1, 1), (2, 1)] {
        let page = pool.take(&mut found).unwrap().page;
        assert_eq!((page.is_bad, page.contents), (false, Contents::Zero));
        assert_eq!(found, Findings { nr_bad, nr_written });
    }
    assert!(pool.take(&mut found).is_none());
    assert!(pool_of(&[BAD, BAD]).take(&mut found).is_none());
    assert_eq!(found.nr_bad, 4);
}

#[test]
fn a_write_to_a_page_of_the_pool_is_noticed_once() {
    let mut pool = pool_of(&[GOOD, WRITTEN, BAD, WRITTEN]);
    assert_eq!(pool.check().nr_written, 2);
    assert_eq!(pool.check().nr_written, 0);
    let mut found = Findings::default();
    while pool.take(&mut found).is_some() {}
    let expected = Findings {
        nr_bad: 1,
        nr_written: 0,
    };
    assert_eq!(found, expected);
}
