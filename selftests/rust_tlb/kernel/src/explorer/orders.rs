// SPDX-License-Identifier: GPL-2.0

//! The ring's own atomics, with the orders that they have, under a weak memory model.
//!
//! Memory is what was ever written to each word, in order, and a thread has a view of it: which
//! write of each word is the oldest that it may still read. A write takes along a view: the
//! writer's, if it is a release, and else that of the writer's last release fence. A read may be of
//! any write that is not older than the view, and takes that write's view over if it is an acquire,
//! or with the next acquire fence. This is C11 without loads that come before their time, and
//! without writes that are ordered before earlier ones.
//!
//! The kernel's memory model is another one: the litmus tests have the last word. This here runs the
//! source itself, so that an order which is missing there is missing here.

use super::search::System;
use crate::{
    mm::tlb::ring::{Ring, Rule, Run, Words},
    sync::{
        atomic::{Atomic, Relaxed},
        memory::{stand_in, StandIn},
    },
};
use std::{cell::RefCell, sync::atomic::Ordering};

/// Of each word, the number of a write.
type View = Vec<u8>;

fn join(view: &mut View, other: &View) {
    for (mine, other) in view.iter_mut().zip(other) {
        *mine = (*mine).max(*other);
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Write {
    value: u64,
    view: View,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Thread {
    view: View,
    /// What an acquire fence would take over, and what the last release fence has left.
    read: View,
    fenced: View,
    answers: Vec<u64>,
    is_done: bool,
}

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    words: Vec<Vec<Write>>,
    threads: Vec<Thread>,
    /// The view of the last sequentially consistent fence.
    fences: View,
    is_wrong: bool,
}

/// An access that a thread makes next. A word is known by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Load(usize, Ordering),
    Store(usize, u64, Ordering),
    CompareExchange(usize, [u64; 2], [Ordering; 2]),
    Fence(Ordering),
}

/// What of the orders, or of the rules, is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeftOut {
    Nothing,
    /// Of the store of a tag.
    Release,
    /// Of the first load of a tag.
    Acquire,
    /// Between the runs and the second load of the tag.
    ReadBarrier,
    /// Of the claim.
    FullBarrier,
    Rule(Rule),
}

/// Which order an access has, if one is left out.
fn weaker(order: Ordering, left_out: LeftOut) -> Ordering {
    match (order, left_out) {
        (Ordering::Release, LeftOut::Release)
        | (Ordering::Acquire, LeftOut::Acquire)
        | (Ordering::SeqCst, LeftOut::FullBarrier) => Ordering::Relaxed,
        _ => order,
    }
}

fn acquires(order: Ordering) -> bool {
    matches!(order, Ordering::Acquire | Ordering::SeqCst)
}

fn releases(order: Ordering) -> bool {
    matches!(order, Ordering::Release | Ordering::SeqCst)
}

/// What one thread of a scenario does. Returns whether all it saw was right.
pub(super) type Program = fn(&Shared) -> bool;

/// What the threads of a scenario share: the kernel's ring, and two words beside it.
pub(super) struct Shared {
    pub(super) ring: Narrow,
    pub(super) pte: Atomic<u64>,
    pub(super) generation: Atomic<u64>,
}

/// The kernel's ring, of which fewer slots and runs are used.
pub(super) struct Narrow {
    ring: Ring,
    left_out: LeftOut,
}

impl Words for Narrow {
    const NR_SLOTS: usize = 2;
    const NR_RUNS: usize = 2;

    fn load_tag(&self, slot: usize) -> u64 {
        self.ring.load_tag(slot)
    }

    fn reload_tag(&self, slot: usize) -> u64 {
        self.ring.reload_tag(slot)
    }

    fn claim(&self, slot: usize, seen: u64) -> bool {
        self.ring.claim(slot, seen)
    }

    fn release(&self, slot: usize, tag: u64) {
        self.ring.release(slot, tag);
    }

    fn load_run(&self, slot: usize, index: usize) -> Run {
        self.ring.load_run(slot, index)
    }

    fn store_run(&self, slot: usize, index: usize, run: Run) {
        self.ring.store_run(slot, index, run);
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.left_out != LeftOut::Rule(rule)
    }
}

/// What the running program is answered, and its first access beyond that.
#[derive(Default)]
struct Replay {
    answers: Vec<u64>,
    nr_asked: usize,
    next: Option<Access>,
    /// Addresses of the words, by their number.
    words: Vec<usize>,
}

impl Replay {
    fn ask(&mut self, access: Access) -> u64 {
        let answer = self.answers.get(self.nr_asked).copied();
        self.nr_asked += 1;
        answer.unwrap_or_else(|| {
            self.next = self.next.or(Some(access));
            0
        })
    }

    /// Words are numbered as they are met.
    fn number_of(&mut self, address: usize) -> usize {
        let known = self.words.iter().position(|word| *word == address);
        known.unwrap_or_else(|| {
            self.words.push(address);
            self.words.len() - 1
        })
    }
}

thread_local! {
    static REPLAY: RefCell<Replay> = RefCell::default();
}

fn ask(access: impl FnOnce(&mut Replay) -> Access) -> u64 {
    REPLAY.with_borrow_mut(|replay| {
        let access = access(replay);
        replay.ask(access)
    })
}

const STAND_IN: StandIn = StandIn {
    load: |at, order| ask(|replay| Access::Load(replay.number_of(at), order)),
    store: |at, value, order| {
        ask(|replay| Access::Store(replay.number_of(at), value, order));
    },
    compare_exchange: |at, old, new, orders| {
        let values = [old, new];
        match ask(|replay| Access::CompareExchange(replay.number_of(at), values, orders)) {
            was if was == old => Ok(was),
            was => Err(was),
        }
    },
    fence: |order| {
        ask(|_| Access::Fence(order));
    },
};

/// Threads over a ring.
pub(super) struct Scenario {
    /// Words are known by their addresses: it must not move.
    shared: Box<Shared>,
    programs: Vec<Program>,
    left_out: LeftOut,
    nr_words: usize,
    steps: Vec<(usize, usize)>,
}

/// No word is written more often.
const MAX_WRITES: usize = 8;

impl Scenario {
    pub(super) fn new(programs: &[Program], left_out: LeftOut) -> Self {
        let new = || Atomic::new(0);
        let steps = (0..programs.len())
            .flat_map(|thread| (0..MAX_WRITES).map(move |choice| (thread, choice)));
        let mut scenario = Self {
            shared: Box::new(Shared {
                ring: Narrow {
                    ring: Ring::empty(),
                    left_out,
                },
                pte: new(),
                generation: new(),
            }),
            programs: programs.to_vec(),
            left_out,
            nr_words: 0,
            steps: steps.collect(),
        };
        scenario.number_words();
        scenario
    }

    /// The two words beside the ring, and the slot of odd generations, which is all that is used.
    fn number_words(&mut self) {
        REPLAY.set(Replay::default());
        stand_in(Some(STAND_IN));
        self.shared.pte.load(Relaxed);
        self.shared.generation.load(Relaxed);
        self.shared.ring.load_tag(1);
        (0..Narrow::NR_RUNS).for_each(|index| _ = self.shared.ring.load_run(1, index));
        stand_in(None);
        self.nr_words = REPLAY.with_borrow(|replay| replay.words.len());
    }

    /// Runs a thread's program with the answers that it has had. Returns what it does next; or, at
    /// its end, whether all it saw was right.
    fn run(&self, thread: usize, answers: &[u64]) -> Result<Access, bool> {
        REPLAY.with_borrow_mut(|replay| {
            replay.answers.clear();
            replay.answers.extend_from_slice(answers);
            replay.nr_asked = 0;
            replay.next = None;
        });
        stand_in(Some(STAND_IN));
        let is_right = self.programs[thread](&self.shared);
        stand_in(None);
        REPLAY.with_borrow(|replay| replay.next.ok_or(is_right))
    }

    /// Makes an access. Returns the answer, if there is such a choice.
    fn access(
        &self,
        state: &mut Memory,
        thread: usize,
        access: Access,
        choice: usize,
    ) -> Option<u64> {
        match access {
            Access::Load(word, order) => {
                read(state, thread, word, weaker(order, self.left_out), choice)
            }
            Access::Store(word, value, order) if choice == 0 => {
                write(state, thread, word, value, weaker(order, self.left_out));
                Some(0)
            }
            Access::CompareExchange(word, values, orders) => {
                self.compare_exchange(state, thread, (word, values, orders), choice)
            }
            Access::Fence(order) if choice == 0 => {
                let is_gone = order == Ordering::Acquire && self.left_out == LeftOut::ReadBarrier;
                if !is_gone {
                    fence(state, thread, weaker(order, self.left_out));
                }
                Some(0)
            }
            Access::Store(..) | Access::Fence(_) => None,
        }
    }

    /// The first choice is the last write, which alone can be replaced. Any other must be a failure.
    fn compare_exchange(
        &self,
        state: &mut Memory,
        thread: usize,
        (word, [old, new], [success, failure]): (usize, [u64; 2], [Ordering; 2]),
        choice: usize,
    ) -> Option<u64> {
        let order = weaker(success, self.left_out);
        let last = state.words[word].last().expect("is written at the start");
        let is_success = choice == 0 && last.value == old;
        if !is_success {
            let value = read(state, thread, word, failure, choice)?;
            return (value != old).then_some(value);
        }
        let taken = last.view.clone();
        read(state, thread, word, order, choice);
        write(state, thread, word, new, order);
        // Who reads what replaced a write reads that, too.
        let replaced = state.words[word].last_mut().expect("was written");
        join(&mut replaced.view, &taken);
        Some(old)
    }
}

/// The choice 0 is the last write, 1 the one before, and so on.
fn read(
    state: &mut Memory,
    thread: usize,
    word: usize,
    order: Ordering,
    choice: usize,
) -> Option<u64> {
    let writes = &state.words[word];
    let number = (writes.len() - 1).checked_sub(choice)?;
    let reader = &mut state.threads[thread];
    if number < usize::from(reader.view[word]) {
        return None;
    }
    reader.view[word] = number as u8;
    join(&mut reader.read, &writes[number].view);
    if acquires(order) {
        join(&mut reader.view, &writes[number].view);
    }
    Some(writes[number].value)
}

fn write(state: &mut Memory, thread: usize, word: usize, value: u64, order: Ordering) {
    let number = state.words[word].len() as u8;
    let writer = &mut state.threads[thread];
    writer.view[word] = number;
    let mut view = if releases(order) {
        writer.view.clone()
    } else {
        writer.fenced.clone()
    };
    view[word] = number;
    state.words[word].push(Write { value, view });
}

fn fence(state: &mut Memory, thread: usize, order: Ordering) {
    let thread = &mut state.threads[thread];
    if acquires(order) {
        let read = thread.read.clone();
        join(&mut thread.view, &read);
    }
    if order == Ordering::SeqCst {
        join(&mut thread.view, &state.fences);
        state.fences.clone_from(&thread.view);
    }
    if releases(order) {
        thread.fenced = thread.view.clone();
    }
}

impl System for Scenario {
    type State = Memory;
    /// A thread, and which of the writes that it could read.
    type Step = (usize, usize);

    fn start(&self) -> Memory {
        let view = vec![0; self.nr_words];
        let first = |value| {
            let view = view.clone();
            vec![Write { value, view }]
        };
        let mut words = vec![first(0); self.nr_words];
        // A page is mapped.
        words[0] = first(1);
        let thread = Thread {
            view: view.clone(),
            read: view.clone(),
            fenced: view.clone(),
            answers: Vec::new(),
            is_done: false,
        };
        Memory {
            words,
            threads: vec![thread; self.programs.len()],
            fences: view,
            is_wrong: false,
        }
    }

    fn steps(&self) -> &[(usize, usize)] {
        &self.steps
    }

    fn take(
        &self,
        state: &Memory,
        (thread, choice): (usize, usize),
        said: Option<&mut String>,
    ) -> Option<Memory> {
        if state.threads[thread].is_done {
            return None;
        }
        let mut after = state.clone();
        let mut ran = self.run(thread, &state.threads[thread].answers);
        if let Ok(access) = ran {
            let answer = self.access(&mut after, thread, access, choice)?;
            if let Some(said) = said {
                *said = format!("{access:?}: {answer:x}");
            }
            after.threads[thread].answers.push(answer);
            ran = self.run(thread, &after.threads[thread].answers);
        }
        if let Err(is_right) = ran {
            after.threads[thread].is_done = true;
            after.is_wrong |= !is_right;
        }
        Some(after)
    }

    fn broken(&self, state: &Memory) -> Option<String> {
        state
            .is_wrong
            .then(|| "a thread saw what it must not".into())
    }

    fn broken_at_end(&self, state: &Memory) -> Option<String> {
        let is_done = state.threads.iter().all(|thread| thread.is_done);
        (!is_done).then(|| "a thread has no next step".into())
    }
}
