// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Makes sense of recorded events: those of `include/trace/events/rust_tlb.h`, and the kernel's own
//! about TLB flushes and the interrupts that they are made of.
//!
//! - [`event`] reads a line, as ftrace, `trace-cmd report` and `perf script` print it.
//! - [`history`] puts the lines together: which flush made which calls, which call asked which CPUs,
//!   and how long each of them was interrupted.
//! - [`timeline`] draws one batch, a column for each CPU; [`totals`] is the table by strategy;
//!   [`flushes`] lists every round, and [`histogram`] counts how long they took.
//! - [`counts`] is what `perf stat` printed.

pub mod counts;
pub mod event;
pub mod flushes;
pub mod histogram;
pub mod history;
pub mod timeline;
pub mod totals;

/// What was recorded under one name, usually while one strategy ran.
pub struct Recording {
    pub name: String,
    pub history: history::History,
}

impl Recording {
    /// Reads what ftrace, `trace-cmd report` or `perf script` printed.
    pub fn read(name: impl Into<String>, text: &str) -> Self {
        Self {
            name: name.into(),
            history: history::History::of(&event::parse(text)),
        }
    }
}

/// Nanoseconds as microseconds with one digit after the point.
pub(crate) fn us(ns: u64) -> String {
    format!("{}.{}", ns / 1000, ns % 1000 / 100)
}

/// So many of something.
pub(crate) fn few(nr: u64, what: &str) -> String {
    match nr {
        1 => format!("1 {what}"),
        _ => format!("{nr} {what}s"),
    }
}
