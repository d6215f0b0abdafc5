// SPDX-License-Identifier: GPL-2.0

//! Pages of several address spaces, collected one by one, given back as few runs.
//!
//! The storage is taken beforehand: pages are added under a page-table lock. If there is no room for
//! all, none of them is certain. Pure.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use kernel::{
    alloc::{
        AllocError,
        Flags,
        KVVec, //
    },
    mm::{
        range::PageRange,
        run::Run, //
    },
    page::PAGE_SHIFT, //
};

/// Most runs of one address space.
pub const MAX_RUNS_MM: usize = 64;
/// Most runs of all of them.
const MAX_RUNS: usize = 8 * MAX_RUNS_MM;

/// Runs of address spaces, which are known by a number.
///
/// # Invariants
///
/// If not `is_lost`, all pages that were pushed since the list was empty are in `list`.
#[derive(Default)]
pub struct RunList {
    list: KVVec<(usize, PageRange)>,
    is_lost: bool,
}

impl RunList {
    /// Makes an empty list.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        // INVARIANT: Nothing was pushed yet.
        Ok(Self {
            list: KVVec::with_capacity(MAX_RUNS, flags)?,
            is_lost: false,
        })
    }

    /// Adds `pages` of `mm`. In ascending order is cheapest.
    pub fn push(&mut self, mm: usize, pages: PageRange) {
        if let Some((last, range)) = self.list.last_mut() {
            if *last == mm && range.end() == pages.start() {
                *range = range.union(pages);
                return;
            }
        }
        // INVARIANT: What is not in the list is said to be missing.
        self.is_lost |= self.list.push_within_capacity((mm, pages)).is_err();
    }

    /// Sorts the list, so that it can be [merged](RunList::merge).
    pub fn sort(&mut self) {
        self.list
            .sort_unstable_by_key(|(mm, range)| (*mm, range.start(), range.end()));
    }

    /// Writes the runs of `mm` to `runs`, and returns how many they are. None, if it is not certain
    /// that these are all, if they are more than fit, or if they are more than `max_pages` pages.
    /// The list is sorted.
    pub fn merge(&self, mm: usize, max_pages: usize, runs: &mut [Run; MAX_RUNS_MM]) -> usize {
        let from = self.list.partition_point(|(other, _)| *other < mm);
        let own = self.list.iter().skip(from).take_while(|(m, _)| *m == mm);
        let mut merged = Merged {
            runs,
            nr_runs: 0,
            nr_pages: 0,
        };
        let mut last: Option<PageRange> = None;
        for (_, range) in own {
            last = match last {
                Some(run) if range.start() <= run.end() => Some(run.union(*range)),
                Some(run) => {
                    merged.push(run);
                    Some(*range)
                }
                None => Some(*range),
            };
        }
        if let Some(run) = last {
            merged.push(run);
        }
        match self.is_lost || merged.nr_runs > MAX_RUNS_MM || merged.nr_pages > max_pages {
            true => 0,
            false => merged.nr_runs,
        }
    }

    /// Empties the list.
    pub fn clear(&mut self) {
        self.list.clear();
        self.is_lost = false;
    }
}

struct Merged<'a> {
    runs: &'a mut [Run; MAX_RUNS_MM],
    nr_runs: usize,
    nr_pages: usize,
}

impl Merged<'_> {
    fn push(&mut self, range: PageRange) {
        let run = Run::new(range.start(), range.end(), PAGE_SHIFT as u32, false);
        if let Some(place) = self.runs.get_mut(self.nr_runs) {
            *place = run;
        }
        self.nr_runs = self.nr_runs.saturating_add(1);
        self.nr_pages = self.nr_pages.saturating_add(range.span_pages());
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_run_list))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;
    use kernel::{
        alloc::flags::GFP_KERNEL,
        page::PAGE_SIZE, //
    };

    fn page(n: usize) -> PageRange {
        PageRange::of_page(n * PAGE_SIZE).unwrap()
    }

    /// How many runs there are of `mm`, and how many pages.
    fn merged(list: &mut RunList, mm: usize, max_pages: usize) -> (usize, usize) {
        let mut runs = [Run::FULL; MAX_RUNS_MM];
        list.sort();
        let nr_runs = list.merge(mm, max_pages, &mut runs);
        let pages = runs.iter().take(nr_runs).map(|run| run.nr_strides());
        (nr_runs, pages.sum())
    }

    #[test]
    fn neighbours_become_one_run() {
        let mut list = RunList::new(GFP_KERNEL).unwrap();
        for n in [7, 8, 9, 3, 2, 20, 8] {
            list.push(0, page(n));
        }
        list.push(1, page(4));
        assert_eq!(merged(&mut list, 0, 33), (3, 6));
        assert_eq!(merged(&mut list, 1, 33), (1, 1));
        assert_eq!(merged(&mut list, 2, 33), (0, 0));
        list.clear();
        assert_eq!(merged(&mut list, 0, 33), (0, 0));
    }

    #[test]
    fn too_much_is_not_known() {
        let mut list = RunList::new(GFP_KERNEL).unwrap();
        for n in 0..MAX_RUNS_MM {
            list.push(0, page(2 * n));
        }
        assert_eq!(merged(&mut list, 0, 64), (64, 64));
        assert_eq!(merged(&mut list, 0, 63), (0, 0));
        list.push(0, page(1000));
        assert_eq!(merged(&mut list, 0, 1000), (0, 0));
        for n in 0..MAX_RUNS {
            list.push(1, page(2 * n));
        }
        list.push(2, page(1));
        // There was no room for the last one.
        assert_eq!(merged(&mut list, 2, 33), (0, 0));
        list.clear();
        list.push(2, page(1));
        assert_eq!(merged(&mut list, 2, 33), (1, 1));
        // Where no memory was taken, there is room for none.
        let mut none = RunList::default();
        none.push(0, page(1));
        assert_eq!(merged(&mut none, 0, 33), (0, 0));
    }
}
