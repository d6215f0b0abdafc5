// SPDX-License-Identifier: GPL-2.0

//! Runs and the ring against naive models: a set of pages, and a list of flushes.

use kernel::{
    mm::{
        run::MAX_STRIDES,
        tlb::ring::{catch_up, publish, Doubt, Run, Words, BUSY, EMPTY, MAX_RUNS},
    },
    page::{PAGE_SHIFT, PAGE_SIZE},
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet};

const SHIFTS: [u32; 3] = [12, 21, 30];

/// The 4 KiB pages that a run invalidates, if one INVLPG takes all of a larger page.
fn covered(run: Run) -> BTreeSet<usize> {
    let per_stride = 1 << (run.stride_shift() as usize - PAGE_SHIFT);
    let first = run.start() >> PAGE_SHIFT;
    (first..first + run.nr_strides() * per_stride).collect()
}

/// A ring of any size, in plain memory.
struct Small<const SLOTS: usize, const RUNS: usize>(RefCell<[(u64, [Run; RUNS]); SLOTS]>);

impl<const SLOTS: usize, const RUNS: usize> Small<SLOTS, RUNS> {
    fn new() -> Self {
        Self(RefCell::new([(EMPTY, [Run::NONE; RUNS]); SLOTS]))
    }
}

impl<const SLOTS: usize, const RUNS: usize> Words for Small<SLOTS, RUNS> {
    const NR_SLOTS: usize = SLOTS;
    const NR_RUNS: usize = RUNS;

    fn load_tag(&self, slot: usize) -> u64 {
        self.0.borrow()[slot].0
    }

    fn reload_tag(&self, slot: usize) -> u64 {
        self.load_tag(slot)
    }

    fn claim(&self, slot: usize, seen: u64) -> bool {
        let is_seen = self.load_tag(slot) == seen;
        if is_seen {
            self.0.borrow_mut()[slot].0 = BUSY;
        }
        is_seen
    }

    fn release(&self, slot: usize, tag: u64) {
        self.0.borrow_mut()[slot].0 = tag;
    }

    fn load_run(&self, slot: usize, index: usize) -> Run {
        self.0.borrow()[slot].1[index]
    }

    fn store_run(&self, slot: usize, index: usize, run: Run) {
        self.0.borrow_mut()[slot].1[index] = run;
    }
}

/// A flush of up to three runs; one in eight is not published, one in eight is for everything.
fn a_flush() -> impl Strategy<Value = (u8, Vec<Run>)> {
    let run = (0usize..200, 1usize..5).prop_map(|(first, nr)| {
        let start = first * PAGE_SIZE;
        Run::new(start, start + nr * PAGE_SIZE, PAGE_SHIFT as u32, false)
    });
    (0u8..8, prop::collection::vec(run, 1..=3))
}

proptest! {
    #[test]
    fn a_run_covers_its_range_and_no_stride_more(
        start in 0usize..1 << 46,
        len in 1usize..1 << 28,
        which in 0usize..3,
    ) {
        let (shift, end) = (SHIFTS[which], start + len);
        let run = Run::new(start, end, shift, false);
        if run.is_full() {
            prop_assert!(len >> shift >= MAX_STRIDES - 1);
        } else {
            let run_end = run.start() + (run.nr_strides() << shift);
            prop_assert!(run.start() <= start && end <= run_end);
            prop_assert!(start - run.start() < 1 << shift && run_end - end < 1 << shift);
        }
    }

    #[test]
    fn a_range_that_is_not_the_users_is_everything(
        start in any::<usize>(),
        end in any::<usize>(),
        shift in 0u32..64,
    ) {
        let run = Run::new(start, end, shift, false);
        let is_odd = start >= end || end > 1 << 56 || !SHIFTS.contains(&shift);
        prop_assert!(!run.is_none());
        prop_assert!(run.is_full() || !is_odd);
    }

    /// Whatever was published, a CPU that catches up holds nothing that it missed.
    #[test]
    fn nothing_that_was_revoked_is_left(
        flushes in prop::collection::vec(a_flush(), 1..40),
        first in prop_oneof![Just(1u64), Just(u64::MAX - 20), Just((1 << 63) - 20)],
        behind in 1usize..12,
        limit in 1usize..40,
    ) {
        let ring = Small::<8, 2>::new();
        let behind = behind.min(flushes.len());
        let target = first.wrapping_add(flushes.len() as u64 - 1);
        for (n, (luck, runs)) in flushes.iter().enumerate() {
            let runs = if *luck == 1 { &[Run::FULL][..] } else { &runs[..] };
            if *luck != 0 {
                let _ = publish(&ring, first.wrapping_add(n as u64), runs);
            }
        }
        let missed = &flushes[flushes.len() - behind..];
        let revoked: BTreeSet<usize> = missed
            .iter()
            .flat_map(|(_, runs)| runs.iter().flat_map(|run| covered(*run)))
            .collect();
        let nr_pages: usize = missed.iter().flat_map(|(_, r)| r).map(|r| r.nr_strides()).sum();
        let mut gone = BTreeSet::new();
        let local = target.wrapping_sub(behind as u64);
        let result = catch_up(&ring, local, target, limit, |run| gone.extend(covered(run)));
        // As many as a slot holds, all published, none for everything: then it is exact.
        let is_plain = missed.iter().all(|(luck, runs)| *luck > 1 && runs.len() <= 2);
        // Past its last number the generation starts again, and no slot is for it.
        let is_past_the_end = target < first || target == u64::MAX;
        match result {
            Ok(nr) => {
                prop_assert!(is_plain);
                prop_assert_eq!(nr, nr_pages);
                prop_assert_eq!(gone, revoked);
            }
            Err(Doubt::Far) => prop_assert!(behind > limit.min(8)),
            Err(Doubt::Many) => prop_assert!(nr_pages > limit),
            Err(_) => prop_assert!(!is_plain || is_past_the_end),
        }
    }
}

#[test]
fn a_slot_holds_as_many_runs_as_it_says() {
    let run = |page: usize| Run::new(page << PAGE_SHIFT, (page + 1) << PAGE_SHIFT, 12, false);
    let runs: Vec<Run> = (1..=MAX_RUNS).map(run).collect();
    let ring = Small::<2, MAX_RUNS>::new();
    let mut seen = Vec::new();
    publish(&ring, 1, &runs).unwrap();
    assert_eq!(catch_up(&ring, 0, 1, 7, |run| seen.push(run)), Ok(7));
    assert_eq!(seen, runs);
    let small = Small::<2, 2>::new();
    publish(&small, 1, &runs).unwrap();
    assert_eq!(catch_up(&small, 0, 1, 7, |_| ()), Err(Doubt::Everything));
}
