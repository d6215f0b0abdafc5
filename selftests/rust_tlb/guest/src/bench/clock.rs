// SPDX-License-Identifier: GPL-2.0

//! Time, and instructions where the emulator's clock counts them.

use core::arch::x86_64::_rdtsc;
use core::time::Duration;
use std::time::Instant;

/// What passed while something was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed {
    pub time: Duration,
    /// Of the time-stamp counter. By a clock that counts instructions it is their number, of all
    /// CPUs together.
    pub ticks: u64,
}

/// Does `what`, and says how long it took.
pub fn timed<T>(what: impl FnOnce() -> T) -> (T, Elapsed) {
    let start = Instant::now();
    let first = ticks();
    let done = what();
    let ticks = ticks() - first;
    let time = start.elapsed();
    (done, Elapsed { time, ticks })
}

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: Reads a counter, and is there on every x86-64 CPU.
    unsafe { _rdtsc() }
}
