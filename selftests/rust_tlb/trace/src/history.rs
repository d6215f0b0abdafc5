// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the events add up to.
//!
//! A *flush* of a batch makes *calls* of the kernel's flush functions; a call, or the core on its own
//! account, makes a *round*: it asks other CPUs, and each of them takes a *visit*. A round is matched
//! to its visits by the `csd` that the kernel queues for each CPU asked, so that two rounds at the
//! same time are kept apart.

mod reader;

use crate::event::Event;

/// A task on a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    pub cpu: u32,
    pub comm: String,
    pub pid: u32,
}

/// PTEs were cleared: `rust_tlb_range_add`, one for each page table.
#[derive(Clone, Debug)]
pub struct Clear {
    pub at: u64,
    pub who: Who,
    pub mm: u64,
    pub nr_ptes: u64,
    pub touched: String,
}

/// A batch, or a scope, is flushed: from `rust_tlb_flush_begin` to `_end`.
#[derive(Clone, Debug)]
pub struct Flush {
    pub who: Who,
    pub batch: u64,
    pub policy: String,
    pub why: String,
    pub nr_ptes: u64,
    pub nr_mms: u64,
    /// When the batch was opened, if the trace has it.
    pub opened: Option<u64>,
    pub begin: u64,
    pub end: u64,
    /// When its last page was released, if any was.
    pub released: Option<u64>,
    pub nr_released: u64,
}

/// A call of the kernel's flush functions: from `rust_tlb_call_begin` to `_end`.
#[derive(Clone, Debug)]
pub struct Call {
    pub who: Who,
    /// Zero if it is for all that the architecture's batch has collected.
    pub mm: u64,
    /// What is flushed; all of it if `stop` is the greatest address.
    pub start: u64,
    pub stop: u64,
    /// CPUs that it wants to ask. Lazy ones are not interrupted.
    pub nr_cpus: u64,
    pub begin: u64,
    pub end: u64,
    /// Index of the flush that it is a part of. A policy that flushes each page makes calls before.
    pub flush: Option<usize>,
}

/// Other CPUs are asked to flush.
#[derive(Clone, Debug)]
pub struct Round {
    pub who: Who,
    pub sent: u64,
    /// Pages, or everything if less than zero.
    pub pages: i64,
    /// CPUs that were asked.
    pub nr_asked: usize,
    pub visits: Vec<Visit>,
    /// Index of the call that it is a part of; none if the core flushes on its own account.
    pub call: Option<usize>,
}

/// A CPU does as it was asked.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The task that was interrupted.
    pub who: Who,
    /// From the interrupt's entry to its exit; that of the function, if the CPU found it by polling.
    pub from: u64,
    pub to: u64,
    /// When its TLB was flushed. If it was up to date already, there is no such event.
    pub flushed: Option<u64>,
    /// When its function was done, if the recording has it: the initiator goes on when all are.
    pub acked: Option<u64>,
}

/// Someone touched a page whose flush was owed: `rust_tlb_pending_hit`.
#[derive(Clone, Debug)]
pub struct Hit {
    pub at: u64,
    pub who: Who,
    pub pgoff: u64,
    pub owner: u64,
}

/// Everything, each list in the order of time.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub clears: Vec<Clear>,
    pub flushes: Vec<Flush>,
    pub calls: Vec<Call>,
    pub rounds: Vec<Round>,
    pub hits: Vec<Hit>,
    /// Visits whose round began before the recording.
    pub nr_strays: usize,
}

impl History {
    /// Puts sorted events together. What began before the first, or did not end, is left out; of a
    /// round, what is known is kept.
    pub fn of(events: &[Event]) -> Self {
        reader::read(events)
    }

    /// The calls of a flush.
    pub fn calls_of(&self, flush: usize) -> impl Iterator<Item = (usize, &Call)> {
        let calls = self.calls.iter().enumerate();
        calls.filter(move |(_, call)| call.flush == Some(flush))
    }

    /// The rounds of a call.
    pub fn rounds_of(&self, call: usize) -> impl Iterator<Item = &Round> {
        let rounds = self.rounds.iter();
        rounds.filter(move |round| round.call == Some(call))
    }
}

impl Round {
    /// When the last CPU had acknowledged; [`None`] if one did not, as far as the recording goes.
    pub fn done(&self) -> Option<u64> {
        if self.visits.len() < self.nr_asked {
            return None;
        }
        let acked: Option<Vec<u64>> = self.visits.iter().map(|visit| visit.acked).collect();
        acked?.into_iter().max()
    }

    /// How long the initiator waited for the others: it does its own flush in the meantime.
    pub fn waited(&self) -> Option<u64> {
        Some(self.done()?.saturating_sub(self.sent))
    }
}

impl Visit {
    /// How long the CPU was interrupted.
    pub fn took(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

impl Call {
    /// Whether it empties TLBs, rather than a range of pages.
    pub fn is_full(&self) -> bool {
        self.stop == u64::MAX
    }
}
