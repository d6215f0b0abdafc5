// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the guest's bench prints: lines of a word and a JSON object, a type for each word. What a
//! boot measured is `ticks`: instructions, where the clock counts them.

use serde::{Deserialize, Serialize};

use crate::names::{Layout, Mover, Placement, Shrinker, TableUser};
use crate::spread::Spread;

/// A line of the guest's.
pub trait Told {
    /// What it starts with.
    const WORD: &'static str;
}

/// What a line starts with that says how far the guest has come: so many of so many, and which.
pub const PROGRESS: &str = "PROGRESS";

/// One strategy, in one place on one axis: medians, each with the least and the greatest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub axis: String,
    pub strategy: String,
    pub layout: Layout,
    pub nr_pages: u64,
    pub nr_mms: u64,
    pub nr_cpus: u64,
    pub placement: Placement,
    pub nr_samples: u64,
    /// Of the pages, those that were taken back.
    pub nr_taken: f64,
    pub nr_flush_calls: Option<f64>,
    pub rounds: Spread,
    pub ipis_received: Spread,
    pub local_full_flushes: Spread,
    pub local_page_flushes: Spread,
    pub ns_per_page: Spread,
    pub ns_per_page_p99: f64,
    /// Of which are not the strategy's, but the device's.
    pub ns_per_page_release: Option<f64>,
    pub ticks_per_page: Spread,
    pub ticks_per_page_release: Option<f64>,
    pub victim_translations_kept: Spread,
    /// As much as is kept where nothing of the victim's is unmapped.
    pub victim_translations_kept_control: f64,
}

impl Told for Row {
    const WORD: &'static str = "ROW";
}

/// Two counters of the same thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub what: String,
    pub ours: f64,
    pub kernels: f64,
    pub agree: bool,
}

impl Told for Check {
    const WORD: &'static str = "CHECK";
}

/// What the oracle saw of one strategy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stale {
    pub strategy: String,
    /// By threads of one process, or by processes.
    pub by_processes: bool,
    pub stale_accesses: u64,
    pub nr_reads: u64,
}

impl Told for Stale {
    const WORD: &'static str = "STALE";
}

/// What interrupted threads did in one phase of a turn.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub seconds: f64,
    pub nr_unmaps: u64,
    /// Passes over its pages that each victim made.
    pub passes_per_second: f64,
    /// How long a pass took.
    pub pass_p50_ns: f64,
    pub pass_p99_ns: f64,
    pub longest_ns: f64,
}

/// One turn of one strategy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Victims {
    pub strategy: String,
    pub nr_pages: u64,
    pub nr_victims: u64,
    /// Just before: pages are used, and stay.
    pub control: Phase,
    pub unmapping: Phase,
}

impl Told for Victims {
    const WORD: &'static str = "VICTIMS";
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

/// One turn of the workload of 2015, with one way to make room.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Headline {
    pub way: String,
    pub nr_cpus: u64,
    pub memory_pages: u64,
    pub nr_pages: u64,
    pub seconds: f64,
    /// Of all CPUs, in the kernel.
    pub system_seconds: f64,
    pub interrupts: u64,
    pub rounds: u64,
}

impl Told for Headline {
    const WORD: &'static str = "HEADLINE";
}

/// What became of the page tables of a mapping of which one page per 2 MiB was used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageTables {
    pub how: TableUser,
    pub nr_pages: u64,
    pub vm_pte_before_kb: u64,
    /// When the call returns, ...
    pub vm_pte_held_kb: u64,
    /// ... and when all that it left to others is done.
    pub vm_pte_after_kb: u64,
    pub ticks_per_page: f64,
    pub rounds: u64,
    /// As the device counts them; of madvise there is no count.
    pub nr_tables_freed: u64,
}

impl Told for PageTables {
    const WORD: &'static str = "PAGE_TABLES";
}

/// Memory that is moved in one way: medians, each with the least and the greatest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moves {
    pub how: Mover,
    pub nr_pages: u64,
    pub aligned: bool,
    pub nr_cpus: u64,
    pub nr_samples: u64,
    pub rounds: Spread,
    pub ipis_received: Spread,
    pub ns_per_page: Spread,
    pub ticks_per_page: Spread,
    /// For how long a run held its locks at most; none if there was no run.
    pub locked_ns: Option<f64>,
}

impl Told for Moves {
    const WORD: &'static str = "MOVE";
}

/// Scans of Rust Binder's shrinker: medians, each with the least and the greatest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scans {
    pub how: Shrinker,
    pub nr_processes: u64,
    pub nr_pages: u64,
    pub nr_samples: u64,
    pub rounds_per_scan: Spread,
    pub ipis_per_scan: Spread,
    pub ticks_per_page: Spread,
    /// None if they were not counted.
    pub transactions_per_s: Option<Spread>,
}

impl Told for Scans {
    const WORD: &'static str = "BINDER";
}

/// What one of the kernel's own paths costs, once through it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    pub path: String,
    pub ticks: Spread,
}

impl Told for Hooks {
    const WORD: &'static str = "HOOKS";
}
