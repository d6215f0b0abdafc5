// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What real recordings are read as. Those in `data/` were made by `scripts/` on four busy CPUs
//! of an emulated machine, and cut to one unmap of 8 scattered pages that 4 processes map.

use rust_tlb_trace::counts::Counts;
use rust_tlb_trace::history::History;
use rust_tlb_trace::{counts, flushes, timeline, totals, Recording};

const BROADCAST: &str = include_str!("data/ftrace-broadcast.txt");
const PRECISE: &str = include_str!("data/ftrace-precise.txt");
const PERF_BROADCAST: &str = include_str!("data/perf-broadcast.txt");
const PERF_ZAP: &str = include_str!("data/perf-zap.txt");
const TRACE_CMD: &str = include_str!("data/trace-cmd-broadcast.txt");
const STAT: &str = include_str!("data/perf-stat-broadcast.txt");

fn history(text: &str) -> History {
    Recording::read("", text).history
}

/// The same, whoever printed it.
#[test]
fn a_broadcast_is_one_round() {
    for (text, nr_mms) in [(BROADCAST, 4), (PERF_BROADCAST, 4), (TRACE_CMD, 4)] {
        let history = history(text);
        let [flush] = &history.flushes[..] else {
            panic!("{:?}", history.flushes);
        };
        assert_eq!(
            (flush.policy.as_str(), flush.why.as_str()),
            ("broadcast", "end")
        );
        assert_eq!((flush.nr_ptes, flush.nr_mms), (8 * nr_mms, nr_mms));
        assert_eq!(flush.nr_released, 8);
        assert_eq!(history.clears.len() as u64, nr_mms);
        let [call] = &history.calls[..] else {
            panic!("{:?}", history.calls);
        };
        assert!(call.is_full() && call.flush == Some(0) && call.nr_cpus == 3);
        let [round] = &history.rounds[..] else {
            panic!("{:?}", history.rounds);
        };
        assert_eq!((round.call, round.pages, round.nr_asked), (Some(0), -1, 3));
        let cpus: Vec<u32> = round.visits.iter().map(|visit| visit.who.cpu).collect();
        assert_eq!(cpus, [1, 2, 3]);
        assert!(round.visits.iter().all(|visit| visit.flushed.is_some()));
        assert!(round
            .done()
            .is_some_and(|done| call.begin < done && done <= call.end));
    }
}

#[test]
fn times_are_those_of_the_recording() {
    let history = history(BROADCAST);
    let round = &history.rounds[0];
    // Sent at 26.059772, the last answer at 26.059898.
    assert_eq!(round.waited(), Some(126_000));
    let took: Vec<u64> = round.visits.iter().map(|visit| visit.took()).collect();
    assert_eq!(took, [27_000, 19_000, 15_000]);
}

#[test]
fn a_precise_flush_is_a_round_per_mm() {
    let history = history(PRECISE);
    let mut mms: Vec<u64> = history.calls.iter().map(|call| call.mm).collect();
    mms.dedup();
    assert_eq!((history.flushes.len(), mms.len()), (1, 4));
    assert_eq!(history.calls_of(0).count(), 4);
    let rounds = (0..4).map(|call| history.rounds_of(call).count());
    // The driver's own mm is on no other CPU.
    assert_eq!(rounds.sum::<usize>(), 3);
    assert!(history
        .rounds
        .iter()
        .all(|round| round.pages == 15 && round.done().is_some()));
}

#[test]
fn the_core_flushes_on_its_own_account() {
    let history = history(PERF_ZAP);
    assert!(history.flushes.is_empty() && history.calls.is_empty());
    assert_eq!(history.rounds.len(), 3);
    for round in &history.rounds {
        assert_eq!((round.call, round.pages), (None, 1));
        // A process with one thread: one CPU is asked, by the interrupt for one.
        assert_eq!((round.nr_asked, round.visits.len()), (1, 1));
    }
}

/// A buffer that overflows, or a recording that starts late, is no reason to panic or to guess.
#[test]
fn a_part_of_a_recording_is_read_as_far_as_it_goes() {
    let lines: Vec<&str> = BROADCAST.lines().collect();
    for cut in 0..=lines.len() {
        let (head, tail) = (lines[..cut].join("\n"), lines[cut..].join("\n"));
        for text in [head, tail] {
            let recording = Recording::read("part", &text);
            let rounds = &recording.history.rounds;
            assert!(rounds.len() <= 1);
            for round in rounds {
                let nr_acked = round.visits.iter().filter(|visit| visit.acked.is_some());
                let is_done = round.nr_asked > 0 && nr_acked.count() == round.nr_asked;
                assert_eq!(round.done().is_some(), is_done);
            }
            timeline::draw(&recording.history);
            totals::table(&[recording]);
        }
    }
    let asked = lines.iter().position(|line| line.contains("csd_queue_cpu"));
    let late = history(&lines[asked.unwrap() + 3..].join("\n"));
    assert_eq!((late.rounds.len(), late.nr_strays), (0, 3));
}

#[test]
fn pictures_are_as_they_were() {
    let recording = Recording::read("broadcast", BROADCAST);
    assert_eq!(
        timeline::draw(&recording.history),
        include_str!("data/ftrace-broadcast.timeline")
    );
    let recordings = [
        recording,
        Recording::read("precise", PRECISE),
        Recording::read("zap", PERF_ZAP),
    ];
    assert_eq!(
        totals::table(&recordings),
        include_str!("data/totals.table")
    );
    let zap = &recordings[2];
    let listed = flushes::list(&zap.history).join("\n") + "\n" + &flushes::histograms(zap);
    assert_eq!(listed, include_str!("data/perf-zap.flushes"));
}

#[test]
fn what_perf_counted_is_a_table() {
    let counted = Counts::read(STAT);
    assert_eq!(counted.of("rust_tlb:rust_tlb_flush_begin"), Some(8));
    assert_eq!(counted.of("rust_tlb:rust_tlb_page_release"), Some(64));
    assert_eq!(counted.of("rust_tlb:rust_tlb_pending_hit"), Some(0));
    assert_eq!(counted.of("instructions"), None);
    let table = counts::table(&[("broadcast", counted)]);
    let line = table.lines().find(|line| line.contains("instructions"));
    assert!(line.is_some_and(|line| line.ends_with('-')), "{table}");
}
