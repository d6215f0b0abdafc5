// SPDX-License-Identifier: GPL-2.0

//! Searches the states of a system: all of them, breadth first, so that what it finds is found by
//! the shortest way; or at random, and then it shortens what it has found.

use super::hash::fingerprint;
use std::{
    collections::{HashSet, VecDeque},
    fmt::Write as _,
    hash::{BuildHasherDefault, Hash},
    time::{Duration, Instant},
};

/// Something that goes from state to state in steps.
pub(super) trait System {
    type State: Clone + Eq + Hash;
    /// What can be tried in a state, named by a small number and by who does it.
    type Step: Copy + Eq;

    fn start(&self) -> Self::State;

    /// All steps there are. Few of them can be taken in any one state.
    fn steps(&self) -> &[Self::Step];

    /// Takes a step. [`None`] if it can't be taken. Says in `said` what happened, if that is wanted.
    fn take(
        &self,
        state: &Self::State,
        step: Self::Step,
        said: Option<&mut String>,
    ) -> Option<Self::State>;

    /// What must hold in every state: returns what does not.
    fn broken(&self, state: &Self::State) -> Option<String>;

    /// What must hold where no step is left.
    fn broken_at_end(&self, state: &Self::State) -> Option<String>;
}

/// What a search saw.
#[derive(Clone, Debug)]
pub(super) struct Report<Step> {
    pub(super) nr_states: usize,
    pub(super) nr_steps: usize,
    pub(super) nr_ends: usize,
    /// The length of the longest way, in steps.
    pub(super) depth: usize,
    pub(super) took: Duration,
    /// Whether all states were seen.
    pub(super) is_complete: bool,
    pub(super) found: Option<Found<Step>>,
}

/// A way to a state in which something does not hold.
#[derive(Clone, Debug)]
pub(super) struct Found<Step> {
    pub(super) what: String,
    pub(super) way: Vec<Step>,
}

impl<Step> Report<Step> {
    fn new() -> Self {
        Self {
            nr_states: 0,
            nr_steps: 0,
            nr_ends: 0,
            depth: 0,
            took: Duration::ZERO,
            is_complete: false,
            found: None,
        }
    }

    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        let all = if self.is_complete { "all " } else { "" };
        let _ = write!(
            text,
            "{all}{} states, {} steps, {} ends, {} deep, in {:.2} s",
            self.nr_states,
            self.nr_steps,
            self.nr_ends,
            self.depth,
            self.took.as_secs_f64()
        );
        text
    }
}

/// A state that was reached, and from where: enough to find the way again.
struct Reached<Step> {
    from: u32,
    by: Step,
}

struct Exhaustive<'a, S: System> {
    system: &'a S,
    /// Fingerprints, which are hashes already.
    seen: HashSet<u64, BuildHasherDefault<super::hash::Already>>,
    reached: Vec<Reached<S::Step>>,
    next: VecDeque<(u32, u32, S::State)>,
    report: Report<S::Step>,
}

/// No state has this number.
const START: u32 = u32::MAX;

/// Goes through all states, or as many as `max_states`, until something does not hold.
pub(super) fn exhaust<S: System>(system: &S, max_states: usize) -> Report<S::Step> {
    let began = Instant::now();
    let mut search = Exhaustive {
        system,
        seen: HashSet::default(),
        reached: Vec::new(),
        next: VecDeque::new(),
        report: Report::new(),
    };
    search.run(max_states);
    search.report.took = began.elapsed();
    search.report
}

impl<S: System> Exhaustive<'_, S> {
    fn run(&mut self, max_states: usize) {
        let start = self.system.start();
        self.seen.insert(fingerprint(&start));
        self.report.nr_states = 1;
        self.judge(self.system.broken(&start), START);
        self.next.push_back((START, 0, start));
        while let Some((id, depth, state)) = self.next.pop_front() {
            self.report.depth = depth as usize;
            if self.report.found.is_some() || self.report.nr_states >= max_states {
                return;
            }
            self.expand(id, depth, &state);
        }
        self.report.is_complete = self.report.found.is_none();
    }

    fn expand(&mut self, id: u32, depth: u32, state: &S::State) {
        let mut is_end = true;
        for &step in self.system.steps() {
            let Some(after) = self.system.take(state, step, None) else {
                continue;
            };
            is_end = false;
            self.report.nr_steps += 1;
            if !self.seen.insert(fingerprint(&after)) {
                continue;
            }
            self.report.nr_states += 1;
            let new = u32::try_from(self.reached.len()).expect("too many states");
            self.reached.push(Reached { from: id, by: step });
            if self.judge(self.system.broken(&after), new) {
                return;
            }
            self.next.push_back((new, depth + 1, after));
        }
        if is_end {
            self.report.nr_ends += 1;
            self.judge(self.system.broken_at_end(state), id);
        }
    }

    fn judge(&mut self, broken: Option<String>, at: u32) -> bool {
        let Some(what) = broken else {
            return false;
        };
        let way = self.way_to(at);
        self.report.found = Some(Found { what, way });
        true
    }

    fn way_to(&self, mut id: u32) -> Vec<S::Step> {
        let mut way = Vec::new();
        while id != START {
            let reached = &self.reached[id as usize];
            way.push(reached.by);
            id = reached.from;
        }
        way.reverse();
        way
    }
}

/// Chance that can be had again.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// Walks at random, `nr_walks` times from the start to an end, until something does not hold.
pub(super) fn wander<S: System>(system: &S, nr_walks: usize, seed: u64) -> Report<S::Step> {
    let began = Instant::now();
    let mut report = Report::new();
    let mut chance = Chance::new(seed);
    for _ in 0..nr_walks {
        let walked = walk(system, &mut chance, &mut report);
        if let Some(found) = walked {
            report.found = Some(shrink(system, found));
            break;
        }
    }
    report.took = began.elapsed();
    report
}

fn walk<S: System>(
    system: &S,
    chance: &mut Chance,
    report: &mut Report<S::Step>,
) -> Option<Found<S::Step>> {
    let mut state = system.start();
    let mut way = Vec::new();
    loop {
        let can: Vec<(S::Step, S::State)> = system
            .steps()
            .iter()
            .filter_map(|&step| Some((step, system.take(&state, step, None)?)))
            .collect();
        if can.is_empty() {
            report.nr_ends += 1;
            return system.broken_at_end(&state).map(|what| Found { what, way });
        }
        let chosen = chance.below(can.len());
        let (step, after) = can.into_iter().nth(chosen).expect("there are as many");
        way.push(step);
        state = after;
        report.nr_states += 1;
        report.nr_steps += 1;
        report.depth = report.depth.max(way.len());
        if let Some(what) = system.broken(&state) {
            return Some(Found { what, way });
        }
    }
}

/// Leaves steps out, first many at once, then one at a time, as long as something still does not hold.
fn shrink<S: System>(system: &S, mut found: Found<S::Step>) -> Found<S::Step> {
    let mut nr_left_out = found.way.len().div_ceil(2);
    while nr_left_out > 0 {
        let mut at = 0;
        let mut got_shorter = false;
        while at < found.way.len() {
            let end = (at + nr_left_out).min(found.way.len());
            let rest = [&found.way[..at], &found.way[end..]].concat();
            match replay(system, &rest) {
                Some(shorter) if shorter.way.len() < found.way.len() => {
                    found = shorter;
                    got_shorter = true;
                }
                _ => at += nr_left_out,
            }
        }
        if !got_shorter {
            nr_left_out /= 2;
        }
    }
    found
}

/// Takes those of `steps` that can be taken, until something does not hold.
fn replay<S: System>(system: &S, steps: &[S::Step]) -> Option<Found<S::Step>> {
    let mut state = system.start();
    let mut way = Vec::new();
    for &step in steps {
        let Some(after) = system.take(&state, step, None) else {
            continue;
        };
        state = after;
        way.push(step);
        if let Some(what) = system.broken(&state) {
            return Some(Found { what, way });
        }
    }
    None
}
