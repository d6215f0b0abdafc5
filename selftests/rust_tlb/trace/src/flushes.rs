// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Every round: who asked, how long it waited, and how long each CPU was interrupted.

use crate::history::{Flush, History, Round};
use crate::totals::{interrupted, waited};
use crate::{few, us, Recording};

/// A line per round.
pub fn list(history: &History) -> Vec<String> {
    let start = history.rounds.first().map_or(0, |round| round.sent);
    history
        .rounds
        .iter()
        .map(|round| line(history, round, start))
        .collect()
}

/// How long initiators waited and how long CPUs were interrupted, as histograms.
pub fn histograms(recording: &Recording) -> String {
    let (name, history) = (&recording.name, &recording.history);
    format!(
        "  {name}: the initiator waited\n    {}  {name}: a CPU was interrupted\n    {}",
        waited(history),
        interrupted(history)
    )
}

fn line(history: &History, round: &Round, start: u64) -> String {
    let (at, who) = (us(round.sent - start), &round.who);
    let waited = round.waited().map_or("?".into(), us);
    let mut cpus: Vec<String> = round
        .visits
        .iter()
        .map(|visit| format!("CPU{} {}", visit.who.cpu, us(visit.took())))
        .collect();
    cpus.sort();
    format!(
        "{at:>10} us  CPU{} {}-{}  {}, {}: waited {waited}, interrupted {}",
        who.cpu,
        who.comm,
        who.pid,
        asker(history, round),
        pages(round.pages),
        cpus.join(", ")
    )
}

/// For what the initiator asked.
fn asker(history: &History, round: &Round) -> String {
    match round.call.map(|call| history.calls[call].flush) {
        Some(Some(flush)) => {
            let Flush { policy, why, .. } = &history.flushes[flush];
            format!("{policy} ({why})")
        }
        Some(None) => "by page".into(),
        None => "the core".into(),
    }
}

fn pages(pages: i64) -> String {
    match pages {
        i64::MIN..=0 => "everything".into(),
        nr => few(nr.unsigned_abs(), "page"),
    }
}
