// SPDX-License-Identifier: GPL-2.0

//! Says what happened: two columns, one for the CPU that is looked at, and one for all others.

use super::{
    machine::{bits, Machine, Step},
    ring::BUSY_NUMBER,
    search::{Found, System},
    state::{Place, State, INIT, NONE, SWITCHING},
};
use crate::mm::tlb::ring::Run;
use std::fmt::Write as _;

/// CPUs are X, which is looked at, and A, B, … which change page tables.
pub(super) fn name(cpu: u8) -> char {
    match cpu {
        0 => 'X',
        NONE => '-',
        _ => char::from(b'A' + cpu - 1),
    }
}

pub(super) fn page(page: u8) -> char {
    char::from(b'a' + page)
}

pub(super) fn mm(mm: u8) -> String {
    match mm {
        INIT => "init_mm".into(),
        SWITCHING => "SWITCHING".into(),
        _ => format!("mm{mm}"),
    }
}

pub(super) fn frame_name(state: &State, frame: usize) -> String {
    let of = &state.frames[frame];
    format!("{}{} of mm{}", page(of.page), frame, of.mm)
}

pub(super) fn tag(tag: u8) -> String {
    match tag {
        BUSY_NUMBER => "busy".into(),
        0 => "empty".into(),
        _ => tag.to_string(),
    }
}

pub(super) fn run(run: Run) -> String {
    if run.is_none() {
        return "none".into();
    }
    if run.is_full() {
        return "everything".into();
    }
    let first = run.start() >> crate::page::PAGE_SHIFT;
    let pages = (first..first + run.nr_strides()).take(3);
    let mut text: String = pages.map(|number| page(number as u8)).collect();
    if run.frees_tables() {
        text.push_str(", tables freed");
    }
    text
}

pub(super) fn place(place: Place, value: u8) -> String {
    match place {
        Place::LoadedMm => format!("loaded_mm = {}", mm(value)),
        Place::IsLazy => format!("is_lazy = {}", value != 0),
        Place::Tag(_, slot) => format!("tag[{slot}] = {}", tag(value)),
        Place::Run(_, slot, index) => {
            format!("run[{slot}][{index}] = {}", run(super::ring::run_of(value)))
        }
    }
}

pub(super) fn mask(mask: u8) -> String {
    bits(mask.into()).map(|cpu| name(cpu as u8)).collect()
}

/// Width of the first column.
const WIDTH: usize = 58;

/// The way to what was found.
pub(super) fn columns(machine: &Machine, found: &Found<Step>) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:WIDTH$}| others", "X");
    let _ = writeln!(text, "{:-<WIDTH$}+{:-<WIDTH$}", "", "");
    let mut state = machine.start();
    for &step in &found.way {
        let mut said = String::new();
        let after = machine
            .take(&state, step, Some(&mut said))
            .expect("was taken before");
        let _ = match step.cpu {
            _ if said.is_empty() => Ok(()),
            0 => writeln!(text, "{said:WIDTH$}|"),
            NONE => writeln!(text, "{:WIDTH$}| {said}", ""),
            _ => writeln!(text, "{:WIDTH$}| {}: {said}", "", name(step.cpu)),
        };
        for cached in newly_cached(&state, &after) {
            let _ = writeln!(text, "{cached:WIDTH$}|");
        }
        state = after;
    }
    let _ = writeln!(text, "{}", found.what);
    text
}

/// What X may have cached in a step.
fn newly_cached(before: &State, after: &State) -> Vec<String> {
    let contexts = before.cpus[0].cached.iter().zip(&after.cpus[0].cached);
    contexts
        .flat_map(|(before, after)| before.frames.iter().zip(&after.frames))
        .flat_map(|(before, now)| bits(now & !before))
        .map(|frame| format!("  (may hold {})", frame_name(after, frame)))
        .collect()
}
