// SPDX-License-Identifier: GPL-2.0

//! A flush that is shared by batches of several threads: whoever needs it waits until it has been
//! made.

use super::machine::{Model, ModelMm, ModelPin, MMS};
use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        range::{PageRange, Pending},
        tlb::{
            broadcast::Broadcast,
            policy::{sealed::Sealed, Flush, Machine, Policy, Record},
            scope::{Hoisted, Scope},
        },
    },
    page::PAGE_SIZE,
    sync::Arc,
};
use std::{
    marker::PhantomData,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// What a [`Watched`] machine does when it is flushed.
trait OnFlush: Default {
    fn flushed(pages: Vec<usize>);
}

/// A machine that does nothing but to tell which pages are flushed.
#[derive(Default)]
struct Watched<T> {
    pending: Vec<usize>,
    on_flush: PhantomData<T>,
}

impl<T> Sealed for Watched<T> {}

impl<T: OnFlush> Machine for Watched<T> {
    type Mm = ModelMm;
    type Pin = ModelPin;

    fn pin(mm: &ModelMm) -> ModelPin {
        Model::pin(mm)
    }

    fn ceiling_pages(&self) -> usize {
        0
    }

    fn add_pending(&mut self, _mm: &ModelMm, range: PageRange) {
        self.pending.push(range.start() / PAGE_SIZE);
    }

    fn add_pending_table(&mut self, mm: &ModelMm, range: PageRange) {
        self.add_pending(mm, range);
    }

    fn note_batched(&mut self, _mm: &ModelMm) {}

    fn flush_pending(&mut self) {
        T::flushed(std::mem::take(&mut self.pending));
    }

    fn flush_mm(&mut self, _mm: &ModelMm, _range: Option<PageRange>) {}
}

/// The policy that a shared flush is made by.
type Shared<T> = Policy<Watched<T>, Broadcast>;

fn scope<T: OnFlush>() -> Arc<Scope<Shared<T>>> {
    let policy = || KBox::new(Policy::new(Watched::default()), GFP_KERNEL).unwrap();
    Scope::new([policy(), policy()], GFP_KERNEL).unwrap()
}

fn record(policy: &mut impl Record<Mm = ModelMm>, page: usize) {
    let page = PageRange::of_page(page * PAGE_SIZE).unwrap();
    policy.record(&MMS[0], Pending::new(page, 1));
}

const NR_THREADS: usize = 4;
const NR_TURNS: usize = 300;
/// The last turn of each thread whose page was flushed.
static LAST_TURN: [AtomicUsize; NR_THREADS] = [const { AtomicUsize::new(0) }; NR_THREADS];

/// Takes its time, so that others come in between.
#[derive(Default)]
struct Slow;

impl OnFlush for Slow {
    fn flushed(pages: Vec<usize>) {
        for page in pages {
            thread::sleep(Duration::from_micros(20));
            LAST_TURN[page % NR_THREADS].fetch_max(page / NR_THREADS, SeqCst);
        }
    }
}

#[test]
fn a_flush_covers_what_its_thread_recorded() {
    let scope = scope::<Slow>();
    thread::scope(|threads| {
        for (me, last_turn) in LAST_TURN.iter().enumerate() {
            let mut policy = Hoisted::new(scope.clone());
            threads.spawn(move || {
                for turn in 1..=NR_TURNS {
                    record(&mut policy, turn * NR_THREADS + me);
                    policy.flush();
                    assert!(last_turn.load(SeqCst) >= turn);
                }
            });
        }
    });
}

static IS_FLUSHING: AtomicBool = AtomicBool::new(false);
static OTHER_WAITS: AtomicBool = AtomicBool::new(false);
static OTHER_IS_DONE: AtomicBool = AtomicBool::new(false);

fn wait_for(flag: &AtomicBool) {
    while !flag.load(SeqCst) {
        thread::yield_now();
    }
}

/// Does not end before another thread wants the same flush, and has had time to go on without.
#[derive(Default)]
struct Held;

impl OnFlush for Held {
    fn flushed(_pages: Vec<usize>) {
        IS_FLUSHING.store(true, SeqCst);
        wait_for(&OTHER_WAITS);
        thread::sleep(Duration::from_millis(50));
        assert!(!OTHER_IS_DONE.load(SeqCst), "went on before the end");
    }
}

#[test]
fn a_flush_that_another_thread_makes_is_waited_for() {
    let scope = scope::<Held>();
    let mut first = Hoisted::new(scope.clone());
    let mut other = Hoisted::new(scope);
    record(&mut first, 1);
    record(&mut other, 2);
    let calls = thread::scope(|threads| {
        let first = threads.spawn(|| first.flush().nr_calls);
        wait_for(&IS_FLUSHING);
        OTHER_WAITS.store(true, SeqCst);
        let calls = other.flush().nr_calls;
        OTHER_IS_DONE.store(true, SeqCst);
        (first.join().unwrap(), calls)
    });
    assert_eq!(calls, (1, 0), "one flush is enough for both");
}
