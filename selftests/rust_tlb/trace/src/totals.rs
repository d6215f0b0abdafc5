// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What each recording comes to, in a table.

use rust_tlb_results::text;

use crate::histogram::Histogram;
use crate::history::{History, Round};
use crate::{us, Recording};

const HEAD: [&str; 11] = [
    "strategy",
    "PTEs",
    "flushes",
    "calls",
    "rounds",
    "core's",
    "asked",
    "waited us",
    "most",
    "interrupted us",
    "sum",
];

/// A line for each recording. `rounds` are those of the device's calls, `core's` all others; `asked`
/// is how many CPUs all of them asked. Of the times, the median and the most.
pub fn table(recordings: &[Recording]) -> String {
    let heads = HEAD.map(String::from).to_vec();
    text::table(heads, recordings.iter().map(row)) + "\n"
}

fn row(recording: &Recording) -> Vec<String> {
    let history = &recording.history;
    let (waited, interrupted) = (waited(history), interrupted(history));
    let of_the_core = history.rounds.iter().filter(|round| round.call.is_none());
    let nr_core = of_the_core.count();
    let count = |nr: usize| nr.to_string();
    vec![
        recording.name.clone(),
        history
            .clears
            .iter()
            .map(|clear| clear.nr_ptes)
            .sum::<u64>()
            .to_string(),
        count(history.flushes.len()),
        count(history.calls.len()),
        count(history.rounds.len() - nr_core),
        count(nr_core),
        count(history.rounds.iter().map(|round| round.nr_asked).sum()),
        us(waited.median()),
        us(waited.max()),
        us(interrupted.median()),
        us(interrupted.sum()),
    ]
}

/// How long initiators waited, a round each.
pub fn waited(history: &History) -> Histogram {
    Histogram::of(history.rounds.iter().filter_map(Round::waited))
}

/// How long CPUs were interrupted, a visit each.
pub fn interrupted(history: &History) -> Histogram {
    let visits = history.rounds.iter().flat_map(|round| &round.visits);
    Histogram::of(visits.map(|visit| visit.took()))
}
