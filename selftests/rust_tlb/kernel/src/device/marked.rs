// SPDX-License-Identifier: GPL-2.0

//! Marks, against a set.

use super::marks::Marks;
use crate::{alloc::GFP_KERNEL, mm::window::PTRS_PER_PTE};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// More than a word has bits, and not a whole number of words.
const NR_PAGES: usize = 70 * PTRS_PER_PTE + 3;

proptest! {
    #[test]
    fn marks_are_a_set(
        pages in prop::collection::vec(0..NR_PAGES + 300 * PTRS_PER_PTE, 0..200),
        from in 0..NR_PAGES,
    ) {
        let mut marks = Marks::new(NR_PAGES, GFP_KERNEL).unwrap();
        let mut set = BTreeSet::new();
        for page in pages {
            // Where there is no page, there may be a mark all the same: in the last word.
            let is_new = marks.set(page);
            let inside = page / PTRS_PER_PTE < 128;
            prop_assert_eq!(is_new, inside && set.insert(page / PTRS_PER_PTE));
        }
        prop_assert_eq!(marks.nr(), set.len());
        let first = from.div_ceil(PTRS_PER_PTE);
        let mut from = from;
        for chunk in set.range(first..) {
            prop_assert_eq!(marks.take(from), Some(chunk * PTRS_PER_PTE));
            from = (chunk + 1) * PTRS_PER_PTE;
        }
        prop_assert_eq!(marks.take(from), None);
        // Those that were taken are gone.
        prop_assert_eq!(marks.take(first * PTRS_PER_PTE), None);
        prop_assert_eq!(marks.nr(), set.range(..first).count());
    }
}
