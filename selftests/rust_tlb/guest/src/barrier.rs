// SPDX-License-Identifier: GPL-2.0

//! A barrier for threads and forked processes, which can be given up.

use core::fmt;
use core::hint;
use core::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::progress;
use crate::shared::Shared;

/// What a thread does until the others arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Sleep: for more threads than CPUs, and where nothing is counted.
    Sleep,
    /// Spin on ordinary memory: the CPU stays busy with this mm, so that it is not lazy and takes
    /// its IPIs.
    Spin,
}

/// The error of those that wait for somebody who does not come any more.
#[derive(Debug)]
pub struct GaveUp;

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another worker gave up")
    }
}

impl core::error::Error for GaveUp {}

const ARRIVED: usize = 0;
const PHASE: usize = 1;
const GIVEN_UP: usize = 2;
const NR_WORDS: usize = 3;

/// Spins between two looks at whether the others are still there.
const SPINS_PER_CHECK: u32 = 1 << 20;

/// Lets `nr_parties` threads, of any processes, go on only together.
pub struct Barrier {
    words: Shared<AtomicU32>,
    nr_parties: u32,
    wait: Wait,
}

impl Barrier {
    /// Creates a barrier; forked processes inherit it.
    pub fn new(nr_parties: usize, wait: Wait) -> Result<Self> {
        Ok(Self {
            words: Shared::new(NR_WORDS)?,
            nr_parties: nr_parties.try_into()?,
            wait,
        })
    }

    /// Waits for all others. Fails if one of them gave up.
    pub fn wait(&self) -> Result<()> {
        self.wait_checking(|| Ok(()))
    }

    /// Like [`Barrier::wait`], and calls `check` once in a while: its failure ends the wait.
    pub fn wait_checking(&self, mut check: impl FnMut() -> Result<()>) -> Result<()> {
        let phase = self.words[PHASE].load(Ordering::Acquire);
        if self.words[ARRIVED].fetch_add(1, Ordering::AcqRel) + 1 == self.nr_parties {
            self.words[ARRIVED].store(0, Ordering::Relaxed);
            self.words[PHASE].fetch_add(1, Ordering::Release);
            return self.wake();
        }
        while self.words[PHASE].load(Ordering::Acquire) == phase {
            if self.given_up() {
                return Err(GaveUp.into());
            }
            check()?;
            self.pause(phase)?;
        }
        progress::step();
        Ok(())
    }

    /// Ends the waits of all others, now and later.
    pub fn give_up(&self) {
        self.words[GIVEN_UP].store(1, Ordering::Release);
    }

    /// Whether somebody gave up.
    pub fn given_up(&self) -> bool {
        self.words[GIVEN_UP].load(Ordering::Acquire) != 0
    }

    fn wake(&self) -> Result<()> {
        if self.wait == Wait::Sleep {
            futex::wake(&self.words[PHASE], futex::Flags::empty(), i32::MAX as u32)?;
        }
        Ok(())
    }

    /// Waits for the phase to end, but not for long.
    fn pause(&self, phase: u32) -> Result<()> {
        match self.wait {
            Wait::Spin => self.spin(phase),
            Wait::Sleep => self.sleep(phase)?,
        }
        Ok(())
    }

    fn spin(&self, phase: u32) {
        for _ in 0..SPINS_PER_CHECK {
            if self.words[PHASE].load(Ordering::Acquire) != phase || self.given_up() {
                return;
            }
            hint::spin_loop();
        }
    }

    fn sleep(&self, phase: u32) -> Result<()> {
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        };
        let flags = futex::Flags::empty();
        match futex::wait(&self.words[PHASE], flags, phase, Some(&limit)) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meets(wait: Wait) {
        let barrier = Barrier::new(3, wait).unwrap();
        let steps = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        steps.fetch_add(1, Ordering::Relaxed);
                        barrier.wait().unwrap();
                        barrier.wait().unwrap();
                    }
                });
            }
            for round in 1..=50 {
                barrier.wait().unwrap();
                assert_eq!(steps.load(Ordering::Relaxed), 2 * round);
                barrier.wait().unwrap();
            }
        });
    }

    #[test]
    fn nobody_passes_alone() {
        meets(Wait::Sleep);
        meets(Wait::Spin);
    }

    #[test]
    fn giving_up_ends_the_wait() {
        let barrier = Barrier::new(2, Wait::Sleep).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| barrier.wait());
            barrier.give_up();
            assert!(waiter.join().unwrap().is_err());
        });
    }
}
