// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the guest's bench says: lines of a word and a JSON object.

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{binder, moves};

/// A median, the least and the greatest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// One strategy, in one place on one axis.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub axis: String,
    pub strategy: String,
    pub layout: String,
    pub nr_pages: u64,
    pub nr_mms: u64,
    pub nr_cpus: u64,
    pub placement: String,
    pub nr_samples: u64,
    pub nr_taken: f64,
    pub nr_flush_calls: Option<f64>,
    pub rounds: Spread,
    pub ipis_received: Spread,
    pub local_full_flushes: Spread,
    pub local_page_flushes: Spread,
    pub ns_per_page: Spread,
    pub ns_per_page_p99: f64,
    pub ns_per_page_release: Option<f64>,
    pub ticks_per_page: Spread,
    pub ticks_per_page_release: Option<f64>,
    pub victim_translations_kept: Spread,
    pub victim_translations_kept_control: f64,
}

/// Two counters of the same thing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// In which part of the bench.
    #[serde(default)]
    pub part: String,
    pub what: String,
    pub ours: f64,
    pub kernels: f64,
    pub agree: bool,
}

/// What the oracle saw.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stale {
    pub strategy: String,
    pub by_processes: bool,
    pub stale_accesses: u64,
    pub nr_reads: u64,
}

/// What interrupted threads did in one phase of a turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub seconds: f64,
    pub nr_unmaps: u64,
    pub passes_per_second: f64,
    pub pass_p50_ns: f64,
    pub pass_p99_ns: f64,
    pub longest_ns: f64,
}

/// One turn of one strategy, with its own control.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Victims {
    pub strategy: String,
    pub nr_pages: u64,
    pub nr_victims: u64,
    pub control: Phase,
    pub unmapping: Phase,
}

impl Victims {
    /// Of what the victims do when nothing is unmapped.
    pub fn throughput(&self) -> f64 {
        self.unmapping.passes_per_second / self.control.passes_per_second
    }

    /// What each of them lost, for each page.
    pub fn lost_ns_per_page(&self) -> f64 {
        let nr_pages = (self.unmapping.nr_unmaps * self.nr_pages).max(1);
        (1.0 - self.throughput()) * self.unmapping.seconds * 1e9 / nr_pages as f64
    }
}

/// One turn of the workload of 2015.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headline {
    pub way: String,
    pub nr_cpus: u64,
    pub memory_pages: u64,
    pub nr_pages: u64,
    pub seconds: f64,
    pub system_seconds: f64,
    pub interrupts: u64,
    pub rounds: u64,
}

/// What became of the page tables of a mapping of which one page per 2 MiB was used.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageTables {
    pub how: String,
    pub nr_pages: u64,
    pub vm_pte_before_kb: u64,
    pub vm_pte_held_kb: u64,
    pub vm_pte_after_kb: u64,
    pub ticks_per_page: f64,
    pub rounds: u64,
    pub nr_tables_freed: u64,
}

/// What one of the kernel's own paths costs, once through it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    pub path: String,
    pub ticks: Spread,
}

/// All that was said.
#[derive(Default)]
pub struct Said {
    /// Which part of the bench speaks.
    pub part: &'static str,
    /// Where time passes.
    pub timed: Vec<Row>,
    /// Where instructions are counted.
    pub counted: Vec<Row>,
    pub checks: Vec<Check>,
    pub stale: Vec<Stale>,
    pub victims: Vec<Victims>,
    pub headline: Vec<Headline>,
    /// Moves where time passes, and where instructions are counted.
    pub moves: [Vec<moves::Measured>; 2],
    pub page_tables: Vec<PageTables>,
    pub hooks: Vec<Hooks>,
    /// Scans of Rust Binder's shrinker, likewise.
    pub binder: [Vec<binder::Measured>; 2],
}

/// What a line is.
#[derive(Debug, PartialEq)]
pub enum Heard<'a> {
    /// A result, which was kept.
    Result,
    /// So many of so many are done, and which was the last.
    Progress(u64, u64, &'a str),
    /// Something for people.
    Text(&'a str),
}

impl Said {
    /// Takes a line in. `counted` is how the clock runs.
    pub fn hear<'a>(&mut self, line: &'a str, counted: bool) -> Result<Heard<'a>> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ROW" if counted => keep(&mut self.counted, rest),
            "ROW" => keep(&mut self.timed, rest),
            "CHECK" => keep(&mut self.checks, rest).inspect(|_| self.name_check()),
            "STALE" => keep(&mut self.stale, rest),
            "MOVE" => keep(&mut self.moves[usize::from(counted)], rest),
            "BINDER" => keep(&mut self.binder[usize::from(counted)], rest),
            "VICTIMS" => keep(&mut self.victims, rest),
            "HEADLINE" => keep(&mut self.headline, rest),
            "PAGE_TABLES" => keep(&mut self.page_tables, rest),
            "HOOKS" => keep(&mut self.hooks, rest),
            "PROGRESS" => return progress(rest),
            _ => return Ok(Heard::Text(line)),
        }
        .with_context(|| format!("in the line {line}"))
    }
}

impl Said {
    fn name_check(&mut self) {
        let last = self.checks.last_mut();
        last.into_iter()
            .for_each(|check| check.part = self.part.into());
    }
}

fn keep<T: DeserializeOwned>(all: &mut Vec<T>, text: &str) -> Result<Heard<'static>> {
    all.push(serde_json::from_str(text)?);
    Ok(Heard::Result)
}

fn progress(text: &str) -> Result<Heard<'_>> {
    let mut words = text.splitn(3, ' ');
    let mut number = || words.next().unwrap_or_default().parse();
    let (done, all) = (number()?, number()?);
    Ok(Heard::Progress(done, all, words.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_has_its_place() {
        let mut said = Said::default();
        let check = r#"CHECK {"what":"x","ours":1,"kernels":1,"agree":true}"#;
        assert_eq!(said.hear(check, false).unwrap(), Heard::Result);
        assert_eq!(said.checks.len(), 1);
        let progress = said.hear("PROGRESS 3 7 pages: 8", false).unwrap();
        assert_eq!(progress, Heard::Progress(3, 7, "pages: 8"));
        assert_eq!(said.hear("hello", false).unwrap(), Heard::Text("hello"));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let mut said = Said::default();
        for line in [
            "ROW {}",
            "CHECK {",
            r#"CHECK {"what":"x","ours":1,"kernels":1,"agree":true,"more":1}"#,
            "PROGRESS 1",
        ] {
            assert!(said.hear(line, false).is_err(), "{line}");
        }
    }
}
