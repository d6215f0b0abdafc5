// SPDX-License-Identifier: GPL-2.0

//! Holds the bench's numbers against each other: what the device says it did, what the kernel
//! counted, and what its interrupt controller did.

use anyhow::Result;
use rust_tlb_results::said;

use super::fixture::Fixture;
use super::topology::{Placement, Topology};
use super::way::{Round, Way};

/// The part of all rounds by which counters of different places may differ: they are not read at the
/// same instant, and CPUs do other things, too.
const TOLERANCE: f64 = 0.02;
/// At least so many, where there are few.
const SLACK: f64 = 24.0;

/// Sums over all rounds.
#[derive(Default)]
pub struct Check {
    /// Calls to flush, as the device's answers say; and since its file was opened.
    answered: u64,
    counted: u64,
    /// Calls that have to ask other CPUs, and rounds in which the kernel did.
    expected_rounds: u64,
    rounds: u64,
    received: u64,
    interrupts: u64,
}

impl Check {
    /// Adds what was measured.
    pub fn add(&mut self, topology: Topology, way: Way, round: &Round) {
        self.received += round.cost.events.remote_flush_received;
        self.interrupts += round.cost.events.interrupts;
        if way.of_device().is_some() {
            self.answered += round.nr_calls;
        }
        // A call of a batch is one round if one process is busy elsewhere, too. The core's own
        // gathers flush more often than they are called.
        let is_batch = matches!(way.name, "page" | "broadcast" | "precise");
        if is_batch && topology.nr_mms == 1 && topology.placement == Placement::All {
            self.expected_rounds += round.nr_calls;
            self.rounds += round.cost.events.remote_flush;
        }
    }

    /// Adds what the device of a fixture has counted; the fixture is done with.
    pub fn close(&mut self, fixture: &Fixture) -> Result<()> {
        self.counted += fixture.nr_flush_calls()?;
        Ok(())
    }

    /// What agrees, and what does not.
    pub fn verdicts(&self) -> Vec<said::Check> {
        vec![
            exactly(
                "flush calls: the answers to unmap, the counters of the module",
                self.answered,
                self.counted,
            ),
            nearly(
                "flush rounds: calls of the module, nr_tlb_remote_flush",
                self.expected_rounds,
                self.rounds,
            ),
            nearly(
                "IPIs received: nr_tlb_remote_flush_received, TLB in /proc/interrupts",
                self.received,
                self.interrupts,
            ),
        ]
    }
}

fn exactly(what: &str, ours: u64, kernels: u64) -> said::Check {
    said::Check {
        what: what.into(),
        ours: ours as f64,
        kernels: kernels as f64,
        agree: ours == kernels && ours > 0,
    }
}

fn nearly(what: &str, ours: u64, kernels: u64) -> said::Check {
    let (ours, kernels) = (ours as f64, kernels as f64);
    let most = SLACK.max(TOLERANCE * ours);
    said::Check {
        what: what.into(),
        ours,
        kernels,
        agree: ours > 0.0 && (ours - kernels).abs() <= most,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_counted_does_not_agree() {
        assert!(!exactly("", 0, 0).agree);
        assert!(!nearly("", 0, 0).agree);
    }

    #[test]
    fn near_is_near() {
        assert!(exactly("", 7, 7).agree);
        assert!(!exactly("", 7, 8).agree);
        assert!(nearly("", 10_000, 10_150).agree);
        assert!(!nearly("", 10_000, 10_300).agree);
        assert!(!nearly("", 10_000, 0).agree);
        assert!(nearly("", 10, 30).agree);
        assert!(!nearly("", 10, 50).agree);
    }
}
