// SPDX-License-Identifier: GPL-2.0

//! Whether translations that a thread had in its TLB are still there, as far as the test itself has
//! done nothing about it.
//!
//! They are gone if the thread was switched away (the emulator has no PCID, and a CPU that was lazy
//! meanwhile may flush when it comes back), and if somebody had all CPUs flush, for example for
//! kernel memory that was unmapped. Both are the kernel's own counts.

use std::fs;

use anyhow::{Context, Result};

use crate::tlb_events::{counter, TlbEvents};

/// How things were at one moment.
pub struct Stillness {
    threads: Vec<u64>,
    switches: Vec<Switches>,
    nr_flushed: u64,
}

impl Stillness {
    /// From now on, for these threads.
    pub fn of(threads: Vec<u64>) -> Result<Self> {
        Ok(Self {
            switches: switches(&threads)?,
            nr_flushed: nr_flushed()?,
            threads,
        })
    }

    /// Whether one of the threads at least has kept its TLB up to now.
    pub fn lasted(&self) -> Result<bool> {
        Ok(!self.all_switched()? && self.nr_flushed()? == 0)
    }

    /// Whether each of the threads was switched away since then.
    pub fn all_switched(&self) -> Result<bool> {
        let now = switches(&self.threads)?;
        let mut pairs = now.iter().zip(&self.switches);
        Ok(pairs.all(|(now, then)| now != then))
    }

    /// Whether each of the threads was switched away against its will: not asleep, in a fault or so.
    pub fn all_preempted(&self) -> Result<bool> {
        let now = switches(&self.threads)?;
        let mut pairs = now.iter().zip(&self.switches);
        Ok(pairs.all(|(now, then)| now.involuntary != then.involuntary))
    }

    /// Whether none of them was.
    pub fn none_switched(&self) -> Result<bool> {
        Ok(switches(&self.threads)? == self.switches)
    }

    /// Flushes that CPUs were asked for since then, also all of them at once.
    pub fn nr_flushed(&self) -> Result<u64> {
        Ok(nr_flushed()? - self.nr_flushed)
    }
}

/// How often a thread of any process was switched away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Switches {
    voluntary: u64,
    involuntary: u64,
}

fn switches(threads: &[u64]) -> Result<Vec<Switches>> {
    threads.iter().map(|&thread| nr_switches(thread)).collect()
}

fn nr_switches(thread: u64) -> Result<Switches> {
    let path = format!("/proc/{thread}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let status = status.replace('\t', " ");
    let count = |name| counter(&status, name).context("a thread without counts of switches");
    Ok(Switches {
        voluntary: count("voluntary_ctxt_switches:")?,
        involuntary: count("nonvoluntary_ctxt_switches:")?,
    })
}

fn nr_flushed() -> Result<u64> {
    let events = TlbEvents::read()?.context("the kernel has no CONFIG_DEBUG_TLBFLUSH")?;
    Ok(events.remote_flush_received)
}

/// What a task, known by its folder in `/proc`, does: `R`uns, `S`leeps, or cannot be woken (`D`).
pub fn state(task: &str) -> Result<char> {
    let path = format!("/proc/{task}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    let fields = stat.rsplit(')').next().unwrap_or("");
    fields.trim_start().chars().next().context(path)
}

/// The calling thread, as [`Stillness::of`] wants it.
pub fn this_thread() -> u64 {
    rustix::thread::gettid().as_raw_nonzero().get() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sleeps_is_switched_away() {
        let before = nr_switches(this_thread()).unwrap();
        std::thread::sleep(core::time::Duration::from_millis(5));
        assert!(nr_switches(this_thread()).unwrap().voluntary > before.voluntary);
    }
}
