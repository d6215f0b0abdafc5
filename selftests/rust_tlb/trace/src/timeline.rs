// SPDX-License-Identifier: GPL-2.0 OR MIT

//! One batch, from the first clear to the last acknowledgment: a column for each CPU.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::history::{Call, History, Round, Visit};
use crate::{few, us};

/// Lines of a timeline, if that is all; else so many from its start, and a few from its end.
const MOST: usize = 40;
const AT_THE_END: usize = 4;
/// Rounds that are shown of a recording without a batch.
const ROUNDS: usize = 3;

const PAGE: u64 = 4096;

/// Something that a CPU did.
struct Step {
    at: u64,
    cpu: u32,
    text: String,
}

/// Draws the batch in the middle of the recording, the first being slower than others. Where there
/// is none, the first rounds of the core, which flushes on its own account.
pub fn draw(history: &History) -> String {
    let whole: Vec<usize> = (0..history.flushes.len())
        .filter(|&flush| is_whole(history, flush))
        .collect();
    let mut steps = match whole.get(whole.len() / 2) {
        Some(&flush) => steps_of_flush(history, flush),
        None => steps_of_rounds(history.rounds.iter().take(ROUNDS)),
    };
    steps.sort_by_key(|step| step.at);
    render(&steps)
}

/// Whether it was recorded from its first clear, and did something.
fn is_whole(history: &History, flush: usize) -> bool {
    let found = &history.flushes[flush];
    found.opened.is_some() && found.end > found.begin && found.nr_ptes > 0
}

fn steps_of_flush(history: &History, index: usize) -> Vec<Step> {
    let flush = &history.flushes[index];
    let (from, pid) = (flush.opened.unwrap_or(flush.begin), flush.who.pid);
    let is_part = |at: u64, who: u32| who == pid && (from..=flush.end).contains(&at);
    let mut names = Names::default();
    let mut steps = Vec::new();
    for clear in &history.clears {
        if is_part(clear.at, clear.who.pid) {
            let (ptes, mm) = (few(clear.nr_ptes, "PTE"), names.of(clear.mm));
            steps.push(step(
                clear.at,
                clear.who.cpu,
                format!("{ptes} {}, mm {mm}", clear.touched),
            ));
        }
    }
    for (number, call) in history.calls.iter().enumerate() {
        if is_part(call.begin, call.who.pid) {
            let what = describe(call, &mut names);
            steps.push(step(call.begin, call.who.cpu, format!("call: {what}")));
            steps.extend(steps_of_rounds(history.rounds_of(number)));
            steps.push(step(call.end, call.who.cpu, "call ends"));
        }
    }
    let cpu = flush.who.cpu;
    steps.push(step(
        flush.begin,
        cpu,
        format!("{} flush: {}", flush.policy, flush.why),
    ));
    steps.push(step(flush.end, cpu, "flush ends"));
    if let Some(released) = flush.released {
        steps.push(step(
            released,
            cpu,
            format!("{} released", few(flush.nr_released, "page")),
        ));
    }
    steps
}

fn describe(call: &Call, names: &mut Names) -> String {
    let what = match (call.mm, call.is_full()) {
        (0, _) => "everything".into(),
        (mm, true) => format!("all of mm {}", names.of(mm)),
        (mm, false) => {
            let pages = few(call.stop.saturating_sub(call.start) / PAGE, "page");
            format!("{pages} of mm {}", names.of(mm))
        }
    };
    format!("{what}, {}", few(call.nr_cpus, "CPU"))
}

fn steps_of_rounds<'a>(rounds: impl Iterator<Item = &'a Round>) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in rounds {
        let text = format!("asks {}", few(round.nr_asked as u64, "CPU"));
        steps.push(step(round.sent, round.who.cpu, text));
        round
            .visits
            .iter()
            .for_each(|visit| show(visit, &mut steps));
    }
    steps
}

fn show(visit: &Visit, steps: &mut Vec<Step>) {
    let cpu = visit.who.cpu;
    steps.push(step(visit.from, cpu, "interrupted"));
    if let Some(at) = visit.flushed {
        steps.push(step(at, cpu, "flushes"));
    }
    if let Some(at) = visit.acked {
        steps.push(step(at, cpu, "acknowledges"));
    }
    steps.push(step(visit.to, cpu, "goes on"));
}

fn step(at: u64, cpu: u32, text: impl Into<String>) -> Step {
    let text = text.into();
    Step { at, cpu, text }
}

/// Address spaces, by letters.
#[derive(Default)]
struct Names(Vec<u64>);

impl Names {
    fn of(&mut self, mm: u64) -> char {
        let index = self.0.iter().position(|known| *known == mm);
        let index = index.unwrap_or_else(|| {
            self.0.push(mm);
            self.0.len() - 1
        });
        char::from(b'A' + (index % 26) as u8)
    }
}

fn render(steps: &[Step]) -> String {
    let Some(first) = steps.first() else {
        return "    no flush was recorded\n".into();
    };
    let mut widths = BTreeMap::new();
    for step in steps {
        let width: &mut usize = widths.entry(step.cpu).or_insert(4);
        *width = (*width).max(step.text.len());
    }
    let mut text = String::new();
    let head: Vec<String> = widths
        .iter()
        .map(|(cpu, width)| format!("{:width$}", format!("CPU{cpu}")))
        .collect();
    let _ = writeln!(text, "    {:>9}  {}", "us", head.join("  ").trim_end());
    for (number, step) in steps.iter().enumerate() {
        if !is_shown(number, steps.len()) {
            if number == MOST {
                let nr = steps.len() - MOST - AT_THE_END;
                let _ = writeln!(text, "    {:>9}  … {nr} more", "");
            }
            continue;
        }
        let columns = widths.iter().map(|(cpu, width)| {
            let text = if *cpu == step.cpu { &step.text } else { "" };
            format!("{text:width$}")
        });
        let line = columns.collect::<Vec<_>>().join("  ");
        let at = us(step.at - first.at);
        let _ = writeln!(text, "    {at:>9}  {}", line.trim_end());
    }
    text
}

fn is_shown(number: usize, all: usize) -> bool {
    all <= MOST + AT_THE_END || number < MOST || number + AT_THE_END >= all
}
