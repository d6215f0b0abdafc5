// SPDX-License-Identifier: GPL-2.0

//! Our events among the kernel's own: a call asks the CPUs that the kernel says it asked, and they
//! answer before it ends.

use anyhow::{bail, ensure, Context, Result};
use rust_tlb_trace::event::Event;
use rust_tlb_trace::history::{Call, History, Round};

use super::tracing;
use crate::abi::strategy;
use crate::counted::{CountedDevice, MappedBy};
use crate::cpu;
use crate::ftrace::Tracing;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;

const NR: u64 = 4;
/// A CPU can be lazy for a moment, and then is not asked; or the kernel flushes for something of its
/// own. The kernel's counters tell: such an attempt does not count, and is repeated.
const NR_TRIES: usize = 10;

/// One recorded unmap among busy CPUs: what was recorded of the driver, and what the kernel counted.
struct Recorded {
    history: History,
    /// What the driver sent: `ipi:*`.
    ipis: Vec<Event>,
    events: TlbEvents,
}

/// How many rounds, and how many CPUs asked in all of them, if each CPU but one is busy.
type Expected = fn(usize) -> (usize, usize);

/// Unmaps. If the kernel counted what is `expected`, all that `check` says must be so.
fn unmap_and_check(
    mapped_by: MappedBy,
    strategy: u32,
    expected: Expected,
    check: impl Fn(&Recorded, usize) -> Result<()>,
) -> Result<()> {
    let tracing = tracing()?;
    let counted = CountedDevice::new(mapped_by, NR)?;
    let nr_others = cpu::nr_cpus() - 1;
    let expected = expected(nr_others);
    let mut spoilt = Vec::new();
    for _ in 0..NR_TRIES {
        let recorded = record(&tracing, &counted, strategy)?;
        if recorded.is_counted(expected) {
            recorded.expect_traced(expected)?;
            return check(&recorded, nr_others);
        }
        spoilt.push(recorded.events);
    }
    bail!("{expected:?} is expected, and never counted: {spoilt:?}")
}

fn record(tracing: &Tracing, counted: &CountedDevice, strategy: u32) -> Result<Recorded> {
    let unmap = |device: &crate::device::Device| {
        tracing.record(|| Ok(device.unmap(&Selection::run(0, NR), strategy, 0)?))
    };
    let ((_, events), counted) = counted.counted(unmap)?;
    let pid = std::process::id();
    let mut history = History::of(&events);
    let is_ipi = |event: &Event| event.pid == pid && event.name.starts_with("ipi_send_cpu");
    // An index into the list stays good: nobody else uses the device.
    ensure!(
        history.calls.iter().all(|call| call.who.pid == pid),
        "others use the device"
    );
    history.rounds.retain(|round| round.who.pid == pid);
    Ok(Recorded {
        history,
        ipis: events.into_iter().filter(is_ipi).collect(),
        events: counted,
    })
}

/// The round of a call: made and answered within it, each of its visits by another CPU.
fn expect_round(call: &Call, round: &Round) -> Result<()> {
    let Some(done) = round.done() else {
        bail!("{} answers to {round:?}", round.visits.len());
    };
    ensure!(
        call.begin <= round.sent && done <= call.end,
        "{call:?} {round:?}"
    );
    let mut cpus: Vec<u32> = round.visits.iter().map(|visit| visit.who.cpu).collect();
    cpus.sort_unstable();
    cpus.dedup();
    ensure!(cpus.len() == round.nr_asked, "{round:?}");
    ensure!(!cpus.contains(&call.who.cpu), "{round:?}");
    for visit in &round.visits {
        let acked = visit.acked.context("no answer")?;
        let in_order = visit.from <= acked && acked <= visit.to;
        ensure!(in_order && round.sent <= acked, "{visit:?}");
    }
    Ok(())
}

/// The interrupt of a round goes out within its call.
fn expect_ipi(recorded: &Recorded, call: &Call) -> Result<()> {
    let ipis = &recorded.ipis;
    let within =
        |ipi: &&Event| ipi.cpu == call.who.cpu && (call.begin..=call.end).contains(&ipi.at);
    ensure!(ipis.iter().any(|ipi| within(&ipi)), "{call:?} {ipis:?}");
    Ok(())
}

impl Recorded {
    /// Whether that is what `/proc/vmstat` and `/proc/interrupts` have counted.
    fn is_counted(&self, (nr_rounds, nr_asked): (usize, usize)) -> bool {
        let TlbEvents {
            remote_flush,
            remote_flush_received,
            interrupts,
            ..
        } = self.events;
        let counted = [remote_flush, remote_flush_received, interrupts];
        counted == [nr_rounds, nr_asked, nr_asked].map(|nr| nr as u64)
    }

    /// The trace has what was counted meanwhile.
    fn expect_traced(&self, (nr_rounds, nr_asked): (usize, usize)) -> Result<()> {
        let rounds = &self.history.rounds;
        let asked: usize = rounds.iter().map(|round| round.nr_asked).sum();
        ensure!(
            (rounds.len(), asked) == (nr_rounds, nr_asked),
            "{} rounds asked {asked} CPUs, not {nr_rounds} and {nr_asked}",
            rounds.len()
        );
        Ok(())
    }
}

pub fn a_broadcast_asks_every_cpu_once(_: &Options) -> Result<()> {
    for mapped_by in [
        MappedBy::Threads(cpu::nr_cpus()),
        MappedBy::Processes(cpu::nr_cpus()),
    ] {
        let expected: Expected = |nr_others| (1, nr_others);
        unmap_and_check(
            mapped_by,
            strategy::BROADCAST,
            expected,
            |recorded, nr_others| {
                let History {
                    flushes,
                    calls,
                    rounds,
                    clears,
                    ..
                } = &recorded.history;
                let ([flush], [call]) = (&flushes[..], &calls[..]) else {
                    bail!("{flushes:?} {calls:?}");
                };
                expect_round(call, &rounds[0])?;
                expect_ipi(recorded, call)?;
                ensure!(
                    call.flush == Some(0) && call.is_full() && call.mm == 0,
                    "{call:?}"
                );
                ensure!(call.nr_cpus == nr_others as u64, "{call:?}");
                ensure!(rounds[0].pages < 0, "{rounds:?}");
                ensure!(flush.nr_mms == mapped_by.nr_mms() as u64, "{flush:?}");
                let mut mms: Vec<u64> = clears.iter().map(|clear| clear.mm).collect();
                mms.sort_unstable();
                mms.dedup();
                ensure!(mms.len() == mapped_by.nr_mms(), "{clears:?}");
                Ok(())
            },
        )?;
    }
    Ok(())
}

pub fn a_precise_flush_asks_those_of_each_mm(_: &Options) -> Result<()> {
    let mapped_by = MappedBy::Processes(cpu::nr_cpus());
    // The driver's own mm is nowhere else: its call is no round.
    let expected: Expected = |nr_others| (nr_others, nr_others);
    unmap_and_check(mapped_by, strategy::PRECISE, expected, |recorded, _| {
        let History { calls, .. } = &recorded.history;
        ensure!(calls.len() == mapped_by.nr_mms(), "{calls:?}");
        for (number, call) in calls.iter().enumerate() {
            let len = call.stop - call.start;
            ensure!(call.mm != 0 && len == NR * PAGE_SIZE as u64, "{call:?}");
            let rounds: Vec<&Round> = recorded.history.rounds_of(number).collect();
            ensure!(
                rounds.len() as u64 == call.nr_cpus.min(1),
                "{call:?} {rounds:?}"
            );
            rounds
                .iter()
                .try_for_each(|round| expect_round(call, round))?;
            ensure!(
                rounds.iter().all(|round| round.pages == NR as i64),
                "{rounds:?}"
            );
        }
        Ok(())
    })
}

/// A round per page.
fn one_each(nr_others: usize) -> (usize, usize) {
    (NR as usize, NR as usize * nr_others)
}

pub fn each_page_is_a_round_where_it_is_flushed_by_itself(_: &Options) -> Result<()> {
    let mapped_by = MappedBy::Threads(cpu::nr_cpus());
    unmap_and_check(mapped_by, strategy::PAGE, one_each, |recorded, _| {
        let History { calls, rounds, .. } = &recorded.history;
        ensure!(calls.len() == NR as usize, "{calls:?}");
        for (number, round) in rounds.iter().enumerate() {
            ensure!(round.call == Some(number) && round.pages == 1, "{round:?}");
            expect_round(&calls[number], round)?;
        }
        Ok(())
    })
}

pub fn rounds_of_the_core_are_nobodys_calls(_: &Options) -> Result<()> {
    let mapped_by = MappedBy::Threads(cpu::nr_cpus());
    unmap_and_check(mapped_by, strategy::ZAP, one_each, |recorded, _| {
        let History {
            flushes, rounds, ..
        } = &recorded.history;
        ensure!(
            rounds.iter().all(|round| round.call.is_none()),
            "{rounds:?}"
        );
        ensure!(flushes.is_empty(), "{flushes:?}");
        Ok(())
    })
}
