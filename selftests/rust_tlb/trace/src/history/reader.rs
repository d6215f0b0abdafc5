// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One pass over the events, with what is open at the time.

use std::collections::HashMap;

use super::{Call, Clear, Flush, History, Hit, Round, Visit, Who};
use crate::event::Event;

/// The function that CPUs are asked to run.
const FUNCTION: &str = "flush_tlb_func";
/// Reasons of `tlb_flush`, as in `enum tlb_flush_reason`.
const REMOTE_SHOOTDOWN: u64 = 1;
const REMOTE_SEND_IPI: u64 = 4;

/// Flushes and calls that have not ended have this end.
const OPEN: u64 = u64::MAX;

pub(super) fn read(events: &[Event]) -> History {
    let mut reader = Reader::default();
    events.iter().for_each(|event| reader.take(event));
    reader.finish()
}

#[derive(Default)]
struct Reader {
    history: History,
    /// When each batch was opened.
    opened: HashMap<u64, u64>,
    /// The flush that a task makes.
    flush: HashMap<u32, usize>,
    /// The flush that a batch had last.
    flushed: HashMap<u64, usize>,
    /// The call that a task makes.
    call: HashMap<u32, usize>,
    /// The round that a CPU asks for. It cannot be preempted until all have answered.
    round: HashMap<u32, usize>,
    /// The round that a CPU was asked for by.
    queued: HashMap<u64, usize>,
    cpus: HashMap<u32, Target>,
}

/// A CPU that is asked.
#[derive(Default)]
struct Target {
    interrupted: Option<u64>,
    /// Round and number of the visit that runs.
    visit: Option<(usize, usize)>,
    /// Visits within this interrupt, which end with it.
    within: Vec<(usize, usize)>,
}

impl Reader {
    fn take(&mut self, event: &Event) {
        // An event that lacks a field is of another kernel, and passed over.
        let _ = match event.name.as_str() {
            "rust_tlb_batch_open" => self.open(event),
            "rust_tlb_range_add" => self.clear(event),
            "rust_tlb_flush_begin" => self.flush_begins(event),
            "rust_tlb_flush_end" => self.flush_ends(event),
            "rust_tlb_page_release" => self.release(event),
            "rust_tlb_call_begin" => self.call_begins(event),
            "rust_tlb_call_end" => self.call_ends(event),
            "rust_tlb_pending_hit" => self.hit(event),
            "tlb_flush" => self.tlb_flush(event),
            "csd_queue_cpu" => self.asked(event),
            "csd_function_entry" => self.visit_begins(event),
            "csd_function_exit" => self.visit_ends(event),
            "call_function_entry" | "call_function_single_entry" => self.interrupted(event),
            "call_function_exit" | "call_function_single_exit" => self.resumed(event),
            _ => None,
        };
    }

    fn open(&mut self, event: &Event) -> Option<()> {
        let batch = event.address("batch")?;
        self.opened.insert(batch, event.at);
        self.flushed.remove(&batch);
        Some(())
    }

    fn clear(&mut self, event: &Event) -> Option<()> {
        self.history.clears.push(Clear {
            at: event.at,
            who: who(event),
            mm: event.address("mm")?,
            nr_ptes: event.number("ptes")?,
            touched: event.detail.split_once("why=")?.1.into(),
        });
        Some(())
    }

    fn flush_begins(&mut self, event: &Event) -> Option<()> {
        let batch = event.address("batch")?;
        let flush = Flush {
            who: who(event),
            batch,
            policy: event.text("policy")?.into(),
            why: event.text("why")?.into(),
            nr_ptes: event.number("ptes")?,
            nr_mms: event.number("mms")?,
            opened: self.opened.get(&batch).copied(),
            begin: event.at,
            end: OPEN,
            released: None,
            nr_released: 0,
        };
        let index = self.history.flushes.len();
        self.history.flushes.push(flush);
        self.flush.insert(event.pid, index);
        self.flushed.insert(batch, index);
        Some(())
    }

    fn flush_ends(&mut self, event: &Event) -> Option<()> {
        let index = self.flush.remove(&event.pid)?;
        self.history.flushes[index].end = event.at;
        Some(())
    }

    fn release(&mut self, event: &Event) -> Option<()> {
        let index = *self.flushed.get(&event.address("batch")?)?;
        let flush = &mut self.history.flushes[index];
        flush.released = Some(event.at);
        flush.nr_released += 1;
        Some(())
    }

    fn call_begins(&mut self, event: &Event) -> Option<()> {
        let call = Call {
            who: who(event),
            mm: event.address("mm")?,
            start: event.address("start")?,
            stop: event.address("end")?,
            nr_cpus: event.number("cpus")?,
            begin: event.at,
            end: OPEN,
            flush: self.flush.get(&event.pid).copied(),
        };
        self.call.insert(event.pid, self.history.calls.len());
        self.history.calls.push(call);
        Some(())
    }

    fn call_ends(&mut self, event: &Event) -> Option<()> {
        let index = self.call.remove(&event.pid)?;
        self.history.calls[index].end = event.at;
        Some(())
    }

    fn hit(&mut self, event: &Event) -> Option<()> {
        self.history.hits.push(Hit {
            at: event.at,
            who: who(event),
            pgoff: event.number("pgoff")?,
            owner: event.number("owner")?,
        });
        Some(())
    }

    fn tlb_flush(&mut self, event: &Event) -> Option<()> {
        match event.code()? {
            REMOTE_SEND_IPI => self.round(event),
            REMOTE_SHOOTDOWN => {
                let (round, visit) = self.cpus.get(&event.cpu)?.visit?;
                self.history.rounds[round].visits[visit].flushed = Some(event.at);
                Some(())
            }
            _ => None,
        }
    }

    fn round(&mut self, event: &Event) -> Option<()> {
        self.round.insert(event.cpu, self.history.rounds.len());
        self.history.rounds.push(Round {
            who: who(event),
            sent: event.at,
            pages: event.text("pages")?.parse().ok()?,
            nr_asked: 0,
            visits: Vec::new(),
            call: self.call.get(&event.pid).copied(),
        });
        Some(())
    }

    fn asked(&mut self, event: &Event) -> Option<()> {
        if event.text("func")? != FUNCTION {
            return None;
        }
        let round = *self.round.get(&event.cpu)?;
        self.queued.insert(event.address("csd")?, round);
        self.history.rounds[round].nr_asked += 1;
        Some(())
    }

    fn visit_begins(&mut self, event: &Event) -> Option<()> {
        let csd = event.address("csd")?;
        // Without a csd it is the initiator's own part.
        if event.text("func")? != FUNCTION || csd == 0 {
            return None;
        }
        let Some(round) = self.queued.remove(&csd) else {
            self.history.nr_strays += 1;
            return None;
        };
        let target = self.cpus.entry(event.cpu).or_default();
        let visits = &mut self.history.rounds[round].visits;
        target.visit = Some((round, visits.len()));
        visits.push(Visit {
            who: who(event),
            from: target.interrupted.unwrap_or(event.at),
            to: event.at,
            flushed: None,
            acked: None,
        });
        Some(())
    }

    fn visit_ends(&mut self, event: &Event) -> Option<()> {
        if event.text("func")? != FUNCTION || event.address("csd")? == 0 {
            return None;
        }
        let target = self.cpus.get_mut(&event.cpu)?;
        let (round, number) = target.visit.take()?;
        let visit = &mut self.history.rounds[round].visits[number];
        (visit.acked, visit.to) = (Some(event.at), event.at);
        if target.interrupted.is_some() {
            target.within.push((round, number));
        }
        Some(())
    }

    fn interrupted(&mut self, event: &Event) -> Option<()> {
        let target = self.cpus.entry(event.cpu).or_default();
        target.interrupted = Some(event.at);
        Some(())
    }

    fn resumed(&mut self, event: &Event) -> Option<()> {
        let target = self.cpus.get_mut(&event.cpu)?;
        target.interrupted = None;
        for (round, number) in target.within.drain(..) {
            self.history.rounds[round].visits[number].to = event.at;
        }
        Some(())
    }

    /// What has not ended did so with the recording; when, is not known.
    fn finish(mut self) -> History {
        let History { flushes, calls, .. } = &mut self.history;
        for flush in flushes.iter_mut().filter(|flush| flush.end == OPEN) {
            flush.end = flush.begin;
        }
        for call in calls.iter_mut().filter(|call| call.end == OPEN) {
            call.end = call.begin;
        }
        self.history
    }
}

fn who(event: &Event) -> Who {
    Who {
        cpu: event.cpu,
        comm: event.comm.clone(),
        pid: event.pid,
    }
}
