// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is written to `results.json`. The names and their meaning stay: others read them.
//! `bench.schema.json` is made of these types, and of what is said of each field here.

use serde::{Deserialize, Serialize};

use crate::names::{Accel, CpuThreads, Layout, Mover, Placement, Shrinker, TableUser};
#[cfg(test)]
use crate::schema::{any_axis, any_strategy};

/// Of the schema. A field that is added leaves it as it is.
pub const VERSION: u32 = 1;

/// What `make bench` measured: build/bench/results.json of rust-tlb
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(title = "rust-tlb bench results"))]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// Changes when a name or a meaning does
    #[cfg_attr(test, schemars(extend("const" = VERSION)))]
    pub schema_version: u32,
    pub environment: Environment,
    /// How each part was run, the first as in environment
    pub boots: Vec<Boot>,
    /// Whether it was the quick part only
    pub quick: bool,
    /// How long everything took
    pub seconds: f64,
    /// Side by side
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub rows: Vec<Row>,
    /// Who is interrupted
    pub victims: Vec<Victims>,
    /// More mapped pages than memory
    pub headline: Vec<Headline>,
    /// What a move of memory costs
    pub moves: Vec<Moves>,
    /// What is left of page tables
    pub page_tables: Vec<PageTables>,
    /// What a real driver's shrinker costs
    pub binder: Vec<Scans>,
    /// What was aimed at
    pub targets: Vec<Target>,
    /// Whether the counters agree
    pub checks: Vec<Check>,
}

/// What rounds, IPIs and times were measured on
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// uname -r
    pub kernel: String,
    /// Which kernel
    pub config: String,
    /// How instructions are run
    pub accel: Accel,
    /// How CPUs are run: at the same time, in turn, or in turn by a clock that counts instructions
    pub cpu_threads: CpuThreads,
    /// CPUs of the machine
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub cpus: u32,
    /// CPUs of the host
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub host_cpus: u64,
    /// Their model
    pub host_cpu_model: String,
    /// Version
    pub qemu: String,
    /// git describe
    pub commit: String,
    /// UTC
    pub date: String,
}

/// How a part was run
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Which part of the bench
    pub part: String,
    /// How instructions are run
    pub accel: Accel,
    /// How CPUs are run: at the same time, in turn, or in turn by a clock that counts instructions
    pub cpu_threads: CpuThreads,
    /// CPUs of the machine
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub cpus: u32,
}

/// One strategy, in one place on one axis
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Row {
    #[cfg_attr(test, schemars(schema_with = "any_axis"))]
    pub axis: String,
    #[cfg_attr(test, schemars(schema_with = "any_strategy"))]
    pub strategy: String,
    /// Whether the pages are neighbours, or every other one
    pub layout: Layout,
    /// Pages taken back in one call
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_pages: u64,
    /// Processes that map them, the caller's among them
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_mms: u64,
    /// CPUs whose threads use them, the caller's among them
    #[cfg_attr(test, schemars(range(min = 2)))]
    pub nr_cpus: u64,
    /// The other threads: one busy on each other CPU, all on one CPU, or all asleep
    pub placement: Placement,
    /// Rounds of which this row is the median, but for instructions
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_samples: u64,
    /// Rounds of which the instructions are the median
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_samples_counted: u64,
    /// Of the pages, those that were taken back: reclaim takes what it can
    pub nr_taken: u64,
    /// Calls of the device to flush; null for reclaim
    pub nr_flush_calls: Option<u64>,
    /// Flush rounds that asked other CPUs (nr_tlb_remote_flush): the median
    pub rounds: u64,
    /// the least
    pub rounds_min: u64,
    /// the greatest
    pub rounds_max: u64,
    /// Flush IPIs received (nr_tlb_remote_flush_received): the median
    pub ipis_received: u64,
    /// the least
    pub ipis_received_min: u64,
    /// the greatest
    pub ipis_received_max: u64,
    /// Full flushes of a round's own CPU (nr_tlb_local_flush_all): the median
    pub local_full_flushes: u64,
    /// the least
    pub local_full_flushes_min: u64,
    /// the greatest
    pub local_full_flushes_max: u64,
    /// Pages flushed on a round's own CPU (nr_tlb_local_flush_one): the median
    pub local_page_flushes: u64,
    /// the least
    pub local_page_flushes_min: u64,
    /// the greatest
    pub local_page_flushes_max: u64,
    /// Accesses to released pages that the oracle saw, for this strategy and for one process or
    /// several; null if it did not look
    pub stale_accesses: Option<u64>,
    /// Time of the call, per page: the median
    pub ns_per_page: f64,
    /// the least
    pub ns_per_page_min: f64,
    /// the greatest
    pub ns_per_page_max: f64,
    /// Its 99th percentile; of few rounds, the greatest
    pub ns_per_page_p99: f64,
    /// Of that, what all of the device's strategies do beside unmapping and flushing; null for
    /// reclaim
    pub ns_per_page_release: Option<f64>,
    /// Instructions of all CPUs during the call, per page, in the boot whose clock counts them: the
    /// median
    pub instructions_per_page: f64,
    /// the least
    pub instructions_per_page_min: f64,
    /// the greatest
    pub instructions_per_page_max: f64,
    /// What all of the device's strategies do beside unmapping and flushing, as for time: the least
    pub instructions_per_page_release: Option<f64>,
    /// The part of another thread's 64 hot translations that were still in its CPU's TLB: the median
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    pub victim_translations_kept: f64,
    /// the least
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    pub victim_translations_kept_min: f64,
    /// the greatest
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    pub victim_translations_kept_max: f64,
    /// The same where nothing of its process was unmapped
    #[cfg_attr(test, schemars(range(min = 0, max = 1)))]
    pub victim_translations_kept_control: f64,
}

impl Row {
    /// Without what the device does beside unmapping and flushing: of the round that took least.
    pub fn own_instructions_per_page(&self) -> f64 {
        self.instructions_per_page_min - self.instructions_per_page_release.unwrap_or(0.0)
    }
}

/// What interrupted threads lost to one strategy
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Victims {
    #[cfg_attr(test, schemars(schema_with = "any_strategy"))]
    pub strategy: String,
    /// Scattered pages in each call
    pub nr_pages: u64,
    /// Threads on other CPUs
    pub nr_victims: u64,
    /// Turns of which this is the median
    pub nr_turns: u64,
    /// Calls, in all turns
    pub nr_unmaps: u64,
    /// Of what the victims do in the control, just before: the median
    pub throughput: f64,
    /// the least
    pub throughput_min: f64,
    /// the greatest
    pub throughput_max: f64,
    /// What each victim lost, for each page taken back: the median
    pub lost_ns_per_page: f64,
    /// the least
    pub lost_ns_per_page_min: f64,
    /// the greatest
    pub lost_ns_per_page_max: f64,
    /// A victim's pass over its 64 pages: the median
    pub pass_p50_ns: f64,
    /// Its 99th percentile
    pub pass_p99_ns: f64,
    /// The same where nothing is unmapped
    pub pass_p99_ns_control: f64,
    /// The longest pass of a turn: the median
    pub longest_stall_ns: f64,
    /// the least
    pub longest_stall_ns_min: f64,
    /// the greatest
    pub longest_stall_ns_max: f64,
    /// The same where nothing is unmapped: the median
    pub longest_stall_ns_control: f64,
}

/// The workload of 2015, with one way to make room
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Headline {
    /// What makes room
    pub way: String,
    /// CPUs that read
    pub nr_cpus: u64,
    /// Turns of which this is the median
    pub nr_turns: u64,
    /// Pages of memory that the machine has
    pub memory_pages: u64,
    /// Pages read
    pub nr_pages: u64,
    /// Elapsed: the median
    pub seconds: f64,
    /// the least
    pub seconds_min: f64,
    /// the greatest
    pub seconds_max: f64,
    /// Of all CPUs, in the kernel
    pub system_seconds: f64,
    /// Flush rounds
    pub rounds: f64,
    /// TLB in /proc/interrupts
    pub interrupts: f64,
    /// Of elapsed time
    pub interrupts_per_second: f64,
    /// A page read
    pub interrupts_per_page: f64,
    /// Elapsed, per page read
    pub ns_per_page: f64,
    /// In the kernel, per page read
    pub system_ns_per_page: f64,
}

/// Memory moved in one way
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Moves {
    /// Who moves, and whether the flush comes once for several entries
    pub how: Mover,
    /// Pages moved
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_pages: u64,
    /// Whether both addresses lie alike in their page tables
    pub aligned: bool,
    /// Busy CPUs, the mover's included
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_cpus: u64,
    /// Moves of which this is the median
    pub nr_samples: u64,
    /// The same by the clock that counts instructions
    pub nr_samples_counted: u64,
    /// Flush rounds
    pub rounds: u64,
    /// the least
    pub rounds_min: u64,
    /// the greatest
    pub rounds_max: u64,
    /// IPIs received
    pub ipis_received: u64,
    /// the least
    pub ipis_received_min: u64,
    /// the greatest
    pub ipis_received_max: u64,
    /// Nanoseconds per page
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub ns_per_page: f64,
    /// Instructions per page, of all CPUs together
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub instructions_per_page: f64,
    /// the least
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub instructions_per_page_min: f64,
    /// the greatest
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub instructions_per_page_max: f64,
    /// For which the run that took longest held its locks; null if there was no run
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub locked_instructions: Option<f64>,
}

/// The workload of 2024, with one way to take pages back
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PageTables {
    /// madvise: MADV_DONTNEED; unmap: the device, freeing tables; unmap_async: its worker frees them;
    /// none: the device, leaving them
    pub how: TableUser,
    /// Pages used, one per 2 MiB
    pub nr_pages: u64,
    /// VmPTE when all are mapped
    pub vm_pte_before_kb: u64,
    /// VmPTE when the call returned that took them back
    pub vm_pte_held_kb: u64,
    /// VmPTE when all was done, by a worker, too
    pub vm_pte_after_kb: u64,
    /// Of the call that takes them back
    pub instructions_per_page: f64,
    /// Flush rounds, those of a worker included
    pub rounds: u64,
    /// Page tables, as the device counts them
    pub nr_tables_freed: u64,
}

/// Scans of Rust Binder's shrinker in one way
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Scans {
    /// Page by page, or one batch for each scan
    pub how: Shrinker,
    /// Processes that have idle pages
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_processes: u64,
    /// Idle pages of all of them together, in one scan
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub nr_pages: u64,
    /// Scans of which this is the median
    pub nr_samples: u64,
    /// The same by the clock that counts instructions
    pub nr_samples_counted: u64,
    /// Flush rounds of a scan: the median
    pub rounds_per_scan: u64,
    /// the greatest
    pub rounds_per_scan_max: u64,
    /// IPIs received: the median
    pub ipis_per_scan: u64,
    /// the greatest
    pub ipis_per_scan_max: u64,
    /// Instructions of all CPUs together, without those of the kernel's other shrinkers: the median
    pub instructions_per_page: f64,
    /// the least
    pub instructions_per_page_min: f64,
    /// the greatest
    pub instructions_per_page_max: f64,
    /// Transactions of all processes together while the shrinkers run every 5 ms, per second of the
    /// clock that counts instructions: the median of the turns
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub transactions_per_s: f64,
    /// the least
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub transactions_per_s_min: f64,
    /// the greatest
    #[cfg_attr(test, schemars(range(min = 0)))]
    pub transactions_per_s_max: f64,
}

/// One aim
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What
    pub name: String,
    /// At most this
    pub aim: f64,
    /// What is held against it; null if it was not measured
    pub measured: Option<f64>,
    /// Whether it is
    pub met: bool,
    /// The same ratio without the release, whichever is judged; null where that makes no difference
    pub measured_own: Option<f64>,
    /// The same ratio with the release; left out where that makes no difference
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_with_release: Option<f64>,
}

/// One comparison
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Which part of the bench
    pub part: String,
    /// Two counters of the same thing
    pub what: String,
    /// The first
    pub ours: f64,
    /// The second
    pub kernels: f64,
    /// Whether they are the same, as far as they can be
    pub agree: bool,
}
