// SPDX-License-Identifier: GPL-2.0

//! What the orders of the ring are for, and that each is needed.

use super::{
    orders::{LeftOut, Program, Scenario, Shared},
    search::{exhaust, Report, System},
};
use crate::{
    mm::tlb::ring::{catch_up, publish, Rule, Run},
    page::PAGE_SIZE,
    sync::atomic::{Full, Relaxed},
};
use std::{fmt::Write as _, io::Write as _};

/// Two runs that tell generations apart.
fn runs_of(generation: u64) -> [Run; 2] {
    [0, 1].map(|n| {
        let start = (generation as usize * 2 + n) * PAGE_SIZE;
        Run::new(start, start + PAGE_SIZE, 12, false)
    })
}

fn publishes(shared: &Shared, generation: u64) -> bool {
    let _ = publish(&shared.ring, generation, &runs_of(generation));
    true
}

/// Catches up on one generation. [`None`] if there is doubt; else whether all it invalidated is that
/// generation's.
fn catches_up_on(shared: &Shared, generation: u64) -> Option<bool> {
    let mut seen = Vec::new();
    let invalidate = |run| seen.push(run);
    catch_up(&shared.ring, generation - 1, generation, 9, invalidate).ok()?;
    Some(seen == runs_of(generation))
}

fn publishes_1(shared: &Shared) -> bool {
    publishes(shared, 1)
}

fn publishes_3(shared: &Shared) -> bool {
    publishes(shared, 3)
}

fn publishes_both(shared: &Shared) -> bool {
    publishes(shared, 1) && publishes(shared, 3)
}

fn catches_up_on_1(shared: &Shared) -> bool {
    catches_up_on(shared, 1).unwrap_or(true)
}

fn catches_up_on_3(shared: &Shared) -> bool {
    catches_up_on(shared, 3).unwrap_or(true)
}

fn clears(shared: &Shared) {
    let _ = shared.pte.cmpxchg(1, 0, Full);
}

fn unmaps(shared: &Shared) -> bool {
    clears(shared);
    let _ = shared.generation.cmpxchg(0, 1, Full);
    publishes(shared, 1)
}

fn unmaps_late(shared: &Shared) -> bool {
    let _ = shared.generation.cmpxchg(0, 1, Full);
    publishes(shared, 1);
    clears(shared);
    true
}

/// What is read after the INVLPG must be what the generation left.
fn refills(shared: &Shared) -> bool {
    if shared.generation.load(Relaxed) != 1 {
        return true;
    }
    match catches_up_on(shared, 1) {
        Some(is_right) => is_right && shared.pte.load(Relaxed) == 0,
        None => true,
    }
}

const USED_AGAIN: &[Program] = &[publishes_both, catches_up_on_1];
const FOUGHT_FOR: &[Program] = &[publishes_1, publishes_3, catches_up_on_3];
const REFILLED: &[Program] = &[unmaps, refills];
const REFILLED_EARLY: &[Program] = &[unmaps_late, refills];

const MAX_STATES: usize = 5_000_000;

fn search(programs: &[Program], left_out: LeftOut) -> Report<(usize, usize)> {
    let scenario = Scenario::new(programs, left_out);
    let report = exhaust(&scenario, MAX_STATES);
    let mut text = format!("model: orders, {} threads, {left_out:?}: ", programs.len());
    let _ = writeln!(text, "{}", report.summary());
    if let Some(found) = &report.found {
        let mut state = scenario.start();
        for &step in &found.way {
            let mut said = String::new();
            state = scenario
                .take(&state, step, Some(&mut said))
                .expect("was taken");
            let _ = writeln!(text, "{:1$}{said}", "", step.0 * 58);
        }
    }
    let _ = write!(std::io::stderr(), "{text}");
    report
}

#[test]
fn readers_see_the_runs_of_their_generation() {
    for programs in [USED_AGAIN, FOUGHT_FOR, REFILLED] {
        let report = search(programs, LeftOut::Nothing);
        assert!(report.found.is_none() && report.is_complete);
    }
}

/// The controls: each order is needed, by whom it is for.
#[test]
fn an_order_that_is_missing_is_found() {
    for (programs, left_out) in [
        (USED_AGAIN, LeftOut::Release),
        (USED_AGAIN, LeftOut::Acquire),
        (USED_AGAIN, LeftOut::ReadBarrier),
        (USED_AGAIN, LeftOut::FullBarrier),
        (USED_AGAIN, LeftOut::Rule(Rule::TagAfter)),
        (FOUGHT_FOR, LeftOut::Rule(Rule::Claim)),
        (REFILLED_EARLY, LeftOut::Nothing),
    ] {
        let report = search(programs, left_out);
        assert!(report.found.is_some(), "{left_out:?} is not missed");
    }
}
