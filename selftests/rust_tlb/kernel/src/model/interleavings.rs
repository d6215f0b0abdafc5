// SPDX-License-Identifier: GPL-2.0

//! Threads that share a flush, in all interleavings: the scope's own source, at its own locks.

use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        range::{PageRange, Pending},
        tlb::{
            policy::{sealed::Sealed, Flush, Kind, Record, Report},
            scope::{Hoisted, Scope},
        },
    },
    page::{PAGE_SHIFT, PAGE_SIZE},
    sync::{interleavings, Arc},
};
use loom::{
    sync::atomic::{
        AtomicUsize,
        Ordering::{AcqRel, Acquire},
    },
    thread,
};
use std::{collections::BTreeSet, sync};

/// The pages whose flush was made, a bit for each. To look at it is a step, as to take a lock is.
type Made = sync::Arc<AtomicUsize>;

/// Flushes exactly what it was told of, if any of it was recorded.
struct Exact {
    told: usize,
    is_owed: bool,
    made: Made,
}

impl Sealed for Exact {}

impl Record for Exact {
    type Mm = ();

    fn flushes_each(&self) -> bool {
        true
    }

    fn cleared(&mut self, _mm: &(), page: PageRange) {
        self.told |= 1 << (page.start() >> PAGE_SHIFT);
    }

    fn record(&mut self, _mm: &(), _pending: Pending) {
        self.is_owed = true;
    }

    fn record_table(&mut self, _mm: &(), _range: PageRange) {
        self.is_owed = true;
    }
}

impl Flush for Exact {
    fn kind(&self) -> Kind {
        Kind::Ringed
    }

    fn owed(&self) -> Report {
        Report {
            nr_mms: usize::from(self.is_owed),
            ..Report::default()
        }
    }

    fn flush(&mut self) -> Report {
        let nr_calls = usize::from(self.is_owed);
        if self.is_owed {
            // It takes its time: others come in between.
            self.made.load(Acquire);
            self.made.fetch_or(self.told, AcqRel);
        }
        (self.told, self.is_owed) = (0, false);
        Report {
            nr_calls,
            ..Report::default()
        }
    }
}

/// A scope, and what it has flushed.
fn scope() -> (Arc<Scope<Exact>>, Made) {
    let made = Made::default();
    let policy = || {
        let policy = Exact {
            told: 0,
            is_owed: false,
            made: made.clone(),
        };
        KBox::new(policy, GFP_KERNEL).unwrap()
    };
    let scope = Scope::new([policy(), policy()], GFP_KERNEL).unwrap();
    (scope, made)
}

/// Unmaps a page, and flushes: then it is flushed. Returns how many flushes were made for that.
fn unmap(scope: Arc<Scope<Exact>>, made: &Made, page: usize) -> usize {
    let mut policy = Hoisted::new(scope);
    let range = PageRange::of_page(page * PAGE_SIZE).unwrap();
    policy.cleared(&(), range);
    policy.record(&(), Pending::new(range, 1));
    let report = policy.flush();
    policy.wait();
    assert!(made.load(Acquire) & (1 << page) != 0, "page {page}");
    report.nr_calls
}

/// Starts a thread that unmaps a page.
fn start(scope: &Arc<Scope<Exact>>, made: &Made, page: usize) -> thread::JoinHandle<usize> {
    let (scope, made) = (scope.clone(), made.clone());
    thread::spawn(move || unmap(scope, &made, page))
}

/// Collects what came out, over all interleavings.
fn all_that_come_out(model: impl Fn() -> usize + Send + Sync + 'static) -> BTreeSet<usize> {
    let found = sync::Arc::new(sync::Mutex::new(BTreeSet::new()));
    let all = found.clone();
    interleavings::all(move || {
        let one = model();
        all.lock().unwrap().insert(one);
    });
    let found = found.lock().unwrap();
    found.clone()
}

#[test]
fn each_of_two_threads_has_its_flush() {
    let calls = all_that_come_out(|| {
        let (scope, made) = scope();
        let other = start(&scope, &made, 0);
        unmap(scope, &made, 1) + other.join().unwrap()
    });
    // One for both, or one each.
    assert_eq!(calls, BTreeSet::from([1, 2]));
}

#[test]
fn who_ends_a_scope_takes_no_flush_away() {
    let calls = all_that_come_out(|| {
        let (scope, made) = scope();
        let other = start(&scope, &made, 0);
        scope.flush().nr_calls + other.join().unwrap()
    });
    assert_eq!(calls, BTreeSet::from([1]));
}

#[test]
fn of_two_threads_and_who_ends_the_scope_each_has_its_flush() {
    let calls = all_that_come_out(|| {
        let (scope, made) = scope();
        let others = [0, 1].map(|page| start(&scope, &made, page));
        let own = scope.flush().nr_calls;
        let others = others.map(|other| other.join().unwrap());
        own + others.iter().sum::<usize>()
    });
    assert_eq!(calls, BTreeSet::from([1, 2]));
}
