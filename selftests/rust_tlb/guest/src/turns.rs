// SPDX-License-Identifier: GPL-2.0

//! Turns that somebody takes, over and over, while a driver does something else: how many there were,
//! and whether more will come.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::Result;

/// The turns of one thread.
#[derive(Default)]
pub struct Turns {
    nr: AtomicU64,
    are_over: AtomicBool,
}

impl Turns {
    /// Runs what takes the turns, and [counts](Turns::count) them. They are over when it returns.
    pub fn run(&self, body: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = body();
        self.are_over.store(true, Ordering::Relaxed);
        done
    }

    /// One was taken.
    pub fn count(&self) {
        self.nr.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were taken.
    pub fn nr(&self) -> u64 {
        self.nr.load(Ordering::Relaxed)
    }

    /// Whether no more will come.
    pub fn are_over(&self) -> bool {
        self.are_over.load(Ordering::Relaxed)
    }
}

/// Waits until each has taken another turn, or will take none.
pub fn await_one_of_each<'t>(all: impl Iterator<Item = &'t Turns>) {
    let goals: Vec<_> = all.map(|turns| (turns, turns.nr() + 1)).collect();
    for (turns, goal) in goals {
        while turns.nr() < goal && !turns.are_over() {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_turns_that_are_over() {
        let [some, none] = &[(); 2].map(|()| Turns::default());
        let failed = none.run(|| anyhow::bail!("no turn"));
        assert!(failed.is_err() && none.are_over() && none.nr() == 0);
        let taken = thread::scope(|scope| {
            let take_one = || {
                some.count();
                Ok(())
            };
            let taking = scope.spawn(move || some.run(take_one));
            await_one_of_each([none].into_iter());
            taking.join().unwrap()
        });
        taken.unwrap();
        await_one_of_each([some, none].into_iter());
        assert_eq!(some.nr(), 1);
    }
}
