// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A little of everything, for tests.

use std::time::Duration;

use rust_tlb_results::names::{Accel, CpuThreads};
use rust_tlb_results::written::{Environment, Results};
use serde_json::{json, Value};

use super::results;
use super::said::Said;

/// Pages, and instructions per page of the strategies that are compared.
const PAGES: [(&str, u64); 3] = [("contiguous", 1), ("contiguous", 512), ("scattered", 512)];
const INSTRUCTIONS: [(&str, f64); 4] = [
    ("zap", 5000.0),
    ("unmap_mapping", 2400.0),
    ("broadcast", 2500.0),
    ("precise", 2600.0),
];

fn spread(median: f64) -> Value {
    json!({ "median": median, "min": median * 0.75, "max": median * 1.25 })
}

/// A line of the guest's bench.
pub fn row(strategy: &str, layout: &str, nr_pages: u64, instructions: f64) -> Value {
    json!({
        "axis": "pages", "strategy": strategy, "layout": layout, "nr_pages": nr_pages,
        "nr_mms": 1, "nr_cpus": 8, "placement": "all", "nr_samples": 5, "nr_taken": nr_pages as f64,
        "nr_flush_calls": 1.0, "rounds": { "median": 1.0, "min": 1.0, "max": 1.0 },
        "ipis_received": spread(8.0), "local_full_flushes": spread(4.0),
        "local_page_flushes": spread(0.0), "ns_per_page": spread(100.0), "ns_per_page_p99": 110.0,
        "ns_per_page_release": 50.0, "ticks_per_page": { "median": instructions, "min": instructions, "max": instructions + 34.0 },
        "ticks_per_page_release": 2000.0,
        "victim_translations_kept": { "median": 0.5, "min": 0.0, "max": 1.0 },
        "victim_translations_kept_control": 1.0,
    })
}

fn phase(nr_unmaps: u64, passes: f64) -> Value {
    json!({
        "seconds": 1.0, "nr_unmaps": nr_unmaps, "passes_per_second": passes,
        "pass_p50_ns": 800.0, "pass_p99_ns": 1500.0, "longest_ns": 1e6,
    })
}

fn victims(strategy: &str, nr_unmaps: u64, passes: f64) -> Value {
    json!({
        "strategy": strategy, "nr_pages": 128, "nr_victims": 1,
        "control": phase(0, 1000.0), "unmapping": phase(nr_unmaps, passes),
    })
}

fn a_move(how: &str) -> Value {
    json!({
        "how": how, "nr_pages": 8192, "aligned": true, "nr_cpus": 8, "nr_samples": 3,
        "rounds": spread(4.0), "ipis_received": spread(28.0), "ns_per_page": spread(2.0),
        "ticks_per_page": spread(1.0), "locked_ns": 5000.0,
    })
}

fn scans(how: &str, nr_rounds: f64, transactions: f64, counted: bool) -> Value {
    let transactions = counted.then(|| spread(transactions));
    json!({
        "how": how, "nr_processes": 8, "nr_pages": 96, "nr_samples": 3,
        "rounds_per_scan": spread(nr_rounds), "ipis_per_scan": spread(7.0 * nr_rounds),
        "ticks_per_page": spread(4000.0), "transactions_per_s": transactions,
    })
}

/// What two boots said.
pub fn said() -> Said {
    let mut said = Said::default();
    let mut hear = |word: &str, value: Value, counted| {
        let line = format!("{word} {value}");
        said.hear(&line, counted).expect("a line of the sample");
    };
    for (layout, nr_pages) in PAGES {
        for (strategy, instructions) in INSTRUCTIONS {
            for counted in [false, true] {
                hear(
                    "ROW",
                    row(strategy, layout, nr_pages, instructions),
                    counted,
                );
            }
        }
    }
    hear(
        "STALE",
        json!({ "strategy": "zap", "by_processes": false, "stale_accesses": 0, "nr_reads": 9 }),
        false,
    );
    hear("VICTIMS", victims("zap", 100, 800.0), false);
    for counted in [false, true] {
        hear("MOVE", a_move("kernel_deferred"), counted);
        hear("BINDER", scans("before", 96.0, 500.0, counted), counted);
        hear("BINDER", scans("after", 1.0, 600.0, counted), counted);
    }
    hear(
        "HEADLINE",
        json!({
            "way": "reclaim of a file", "nr_cpus": 2, "memory_pages": 60000, "nr_pages": 90000,
            "seconds": 2.0, "system_seconds": 3.5, "interrupts": 3000, "rounds": 3000,
        }),
        false,
    );
    hear(
        "CHECK",
        json!({ "what": "x", "ours": 3.0, "kernels": 3.0, "agree": true }),
        false,
    );
    said
}

fn environment(cpu_threads: CpuThreads) -> Environment {
    Environment {
        kernel: "7.3.4".into(),
        config: "bench".into(),
        accel: Accel::Tcg,
        cpu_threads,
        cpus: 8,
        host_cpus: 2,
        host_cpu_model: "a CPU <of sorts>".into(),
        qemu: "QEMU emulator version 9".into(),
        commit: "unknown".into(),
        date: "2000-01-01T00:00:00Z".into(),
    }
}

/// What is made of it.
pub fn results() -> Results {
    let environments = vec![
        ("bench-timed", environment(CpuThreads::Sliced)),
        ("bench-counted", environment(CpuThreads::Counted)),
    ];
    let took = Duration::from_secs(100);
    results::assemble(environments, true, took, &said()).expect("results of the sample")
}
