// SPDX-License-Identifier: GPL-2.0

//! The kernel's ring, one access to shared memory a step.
//!
//! A function of the ring does the same whenever its accesses are answered the same. So what a CPU
//! is at in the middle of one is the list of answers that it has had, and the next step is found by
//! running the function again: it gets these answers, and its first access beyond them is the next.

use super::state::{NR_RUNS, NR_SLOTS};
use crate::mm::tlb::ring::{self, Doubt, GaveUp, Rule, Run, Words, BUSY};
use std::cell::{Cell, RefCell};

/// An access to shared memory, or what else is a step. Tags and runs are numbers that stand for
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    LoadTag { slot: u8, again: bool },
    Claim { slot: u8, seen: u8 },
    Release { slot: u8, tag: u8 },
    LoadRun { slot: u8, index: u8 },
    StoreRun { slot: u8, index: u8, run: u8 },
    Invalidate(Run),
}

/// The number of the tag [`BUSY`]; any other tag is its own.
pub(super) const BUSY_NUMBER: u8 = u8::MAX;

fn tag_of(number: u8) -> u64 {
    match number {
        BUSY_NUMBER => BUSY,
        _ => u64::from(number),
    }
}

fn number_of_tag(tag: u64) -> u8 {
    match tag {
        BUSY => BUSY_NUMBER,
        _ => u8::try_from(tag).expect("generations of the model are small"),
    }
}

thread_local! {
    /// All runs that this thread has seen: their places are their numbers.
    static RUNS: RefCell<Vec<Run>> = const { RefCell::new(Vec::new()) };
}

fn number_of_run(run: Run) -> u8 {
    if run.is_none() {
        return 0;
    }
    RUNS.with_borrow_mut(|runs| {
        let known = runs.iter().position(|known| *known == run);
        let at = known.unwrap_or_else(|| {
            runs.push(run);
            runs.len() - 1
        });
        u8::try_from(at + 1).expect("few runs")
    })
}

pub(super) fn run_of(number: u8) -> Run {
    match number.checked_sub(1) {
        None => Run::NONE,
        Some(at) => RUNS.with_borrow(|runs| runs[usize::from(at)]),
    }
}

/// How far a function has come.
pub(super) enum Ran<R, A = Access> {
    Next(A),
    Done(R),
}

/// Some answers. The first access that there is none for is the next step. What is said to later
/// ones is of no account.
pub(super) struct Answers<'a, A> {
    known: &'a [u8],
    nr_asked: Cell<usize>,
    next: Cell<Option<A>>,
}

impl<'a, A: Copy> Answers<'a, A> {
    pub(super) fn new(known: &'a [u8]) -> Self {
        Self {
            known,
            nr_asked: Cell::new(0),
            next: Cell::new(None),
        }
    }

    pub(super) fn ask(&self, access: A) -> u8 {
        let nr = self.nr_asked.replace(self.nr_asked.get() + 1);
        self.known.get(nr).copied().unwrap_or_else(|| {
            self.next.set(self.next.get().or(Some(access)));
            0
        })
    }

    /// `result` is what the function returned.
    pub(super) fn end<R>(&self, result: R) -> Ran<R, A> {
        match self.next.get() {
            Some(access) => Ran::Next(access),
            None => Ran::Done(result),
        }
    }
}

/// The memory of a ring, as somebody answers for it.
struct Replay<'a, const NR_SLOTS: usize> {
    ask: &'a dyn Fn(Access) -> u8,
    broken: Option<Rule>,
}

impl<const SLOTS: usize> Replay<'_, SLOTS> {
    fn ask(&self, access: Access) -> u8 {
        (self.ask)(access)
    }
}

impl<const SLOTS: usize> Words for Replay<'_, SLOTS> {
    const NR_SLOTS: usize = SLOTS;
    const NR_RUNS: usize = NR_RUNS;

    fn load_tag(&self, slot: usize) -> u64 {
        let (slot, again) = (slot as u8, false);
        tag_of(self.ask(Access::LoadTag { slot, again }))
    }

    fn reload_tag(&self, slot: usize) -> u64 {
        let (slot, again) = (slot as u8, true);
        tag_of(self.ask(Access::LoadTag { slot, again }))
    }

    fn claim(&self, slot: usize, seen: u64) -> bool {
        let (slot, seen) = (slot as u8, number_of_tag(seen));
        self.ask(Access::Claim { slot, seen }) != 0
    }

    fn release(&self, slot: usize, tag: u64) {
        let (slot, tag) = (slot as u8, number_of_tag(tag));
        self.ask(Access::Release { slot, tag });
    }

    fn load_run(&self, slot: usize, index: usize) -> Run {
        let (slot, index) = (slot as u8, index as u8);
        run_of(self.ask(Access::LoadRun { slot, index }))
    }

    fn store_run(&self, slot: usize, index: usize, run: Run) {
        let (slot, index, run) = (slot as u8, index as u8, number_of_run(run));
        self.ask(Access::StoreRun { slot, index, run });
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}

/// A ring of the model: how many slots it has, and which rule its functions break.
#[derive(Clone, Copy)]
pub(super) struct Ring {
    pub(super) nr_slots: usize,
    pub(super) broken: Option<Rule>,
}

impl Ring {
    fn run<R, const SLOTS: usize>(
        self,
        answers: &[u8],
        f: impl FnOnce(&Replay<'_, SLOTS>) -> R,
    ) -> Ran<R> {
        let answers = Answers::new(answers);
        let result = f(&Replay {
            ask: &|access| answers.ask(access),
            broken: self.broken,
        });
        answers.end(result)
    }

    /// `publish()`, after these answers.
    pub(super) fn publish(
        self,
        answers: &[u8],
        generation: u8,
        runs: &[Run],
    ) -> Ran<Result<(), GaveUp>> {
        let answers = Answers::new(answers);
        let result = self.publish_asking(&|access| answers.ask(access), generation, runs);
        answers.end(result)
    }

    /// `publish()`, as part of something else that is run again.
    pub(super) fn publish_asking(
        self,
        ask: &dyn Fn(Access) -> u8,
        generation: u8,
        runs: &[Run],
    ) -> Result<(), GaveUp> {
        let (broken, generation) = (self.broken, u64::from(generation));
        match self.nr_slots {
            NR_SLOTS => ring::publish(&Replay::<NR_SLOTS> { ask, broken }, generation, runs),
            _ => ring::publish(&Replay::<2> { ask, broken }, generation, runs),
        }
    }

    /// `extend()`, which is a fault.
    pub(super) fn extend(self, answers: &[u8], generation: u8, run: Run) -> Ran<bool> {
        let generation = u64::from(generation);
        match self.nr_slots {
            NR_SLOTS => self.run(answers, |w: &Replay<'_, NR_SLOTS>| {
                ring::extend(w, generation, run)
            }),
            _ => self.run(answers, |w: &Replay<'_, 2>| {
                ring::extend(w, generation, run)
            }),
        }
    }

    /// `catch_up()`, after these answers.
    pub(super) fn catch_up(
        self,
        answers: &[u8],
        local: u8,
        target: u8,
        limit: usize,
    ) -> Ran<Result<usize, Doubt>> {
        match self.nr_slots {
            NR_SLOTS => self.run(answers, |w: &Replay<'_, NR_SLOTS>| {
                catch_up(w, local, target, limit)
            }),
            _ => self.run(answers, |w: &Replay<'_, 2>| {
                catch_up(w, local, target, limit)
            }),
        }
    }
}

fn catch_up<const SLOTS: usize>(
    words: &Replay<'_, SLOTS>,
    local: u8,
    target: u8,
    limit: usize,
) -> Result<usize, Doubt> {
    ring::catch_up(words, local.into(), target.into(), limit, |run| {
        words.ask(Access::Invalidate(run));
    })
}
