// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The tables of the page.

use maud::{html, Markup};
use rust_tlb_results::names::{Layout, Placement};
use rust_tlb_results::strategies;
use rust_tlb_results::written::{Headline, Results, Row, Victims};

use super::chart::short;

/// The row of a strategy where most is compared: many pages of one process, all CPUs busy.
pub fn typical<'a>(results: &'a Results, strategy: &str, layout: Layout) -> Option<&'a Row> {
    results.rows.iter().find(|row| {
        row.axis == "pages"
            && row.strategy == strategy
            && row.layout == layout
            && row.nr_pages == 512
    })
}

/// What was aimed at.
pub fn targets(results: &Results) -> Markup {
    html! {
        table {
            thead { tr { th { "aim" } th.n { "at most" } th.n { "measured" } th.n { "with the release" } th.n { "without it" } th { "" } } }
            tbody {
                @for target in &results.targets {
                    tr {
                        td { (target.name) }
                        td.n { (short(target.aim)) }
                        td.n { (optional(target.measured)) }
                        td.n { (optional(target.measured_with_release)) }
                        td.n { (optional(target.measured_own)) }
                        td class=(if target.met { "met" } else { "missed" }) {
                            (if target.met { "met" } else { "missed" })
                        }
                    }
                }
            }
        }
        p.note {
            "The release is what all of the device's strategies do beside unmapping and flushing: they look the "
            "pages up, fill them with poison, and keep them. It is measured on a device that nobody maps. Each aim "
            "says whether it is judged with it or without it; both are shown. Instructions are those of the least of the "
            "rounds: in that one no timer ticked."
        }
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or("–".into(), short)
}

/// The strategies side by side, where most is compared.
pub fn ratios(results: &Results, layout: Layout) -> Markup {
    let Some(zap) = typical(results, "zap", layout) else {
        return html! {};
    };
    let all = strategies::ALL.iter();
    let compared = all.filter_map(|strategy| typical(results, strategy.name, layout));
    html! {
        p { (zap.nr_pages) " " (layout) " pages, one process, " (zap.nr_cpus) " busy CPUs." }
        table {
            thead { tr {
                th { "strategy" } th.n { "rounds" } th.n { "IPIs" } th.n { "IPIs per page" }
                th.n { "instructions per page" } th.n { "of zap's" } th.n { "ns per page" } th.n { "of zap's" }
                th.n { "stale" }
            } }
            tbody {
                @for row in compared {
                    tr {
                        td { (row.strategy) }
                        td.n { (row.rounds) }
                        td.n { (row.ipis_received) }
                        td.n { (short(row.ipis_received as f64 / row.nr_pages as f64)) }
                        td.n { (short(row.instructions_per_page)) }
                        td.n { (ratio(row.instructions_per_page, zap.instructions_per_page)) }
                        td.n { (short(row.ns_per_page)) }
                        td.n { (ratio(row.ns_per_page, zap.ns_per_page)) }
                        td.n { (row.stale_accesses.map_or("–".into(), |nr| nr.to_string())) }
                    }
                }
            }
        }
    }
}

fn ratio(a: f64, b: f64) -> String {
    format!("{:.3}", a / b)
}

/// What interrupted threads lost.
pub fn victims(results: &Results) -> Markup {
    let Some(first) = results.victims.first() else {
        return html! { p { "Not measured." } };
    };
    html! {
        p {
            "A thread on each other CPU (" (first.nr_victims) ") does nothing but read 64 pages of its own, over and over; the "
            "driver has " (first.nr_pages) " scattered pages taken back every 3 ms, or as often as that way can. "
            "CPUs really run at the same time here, so that a host with other work to do shows. Throughput is "
            "of what they do just before, while the driver uses its pages and nothing is unmapped: the control. "
            "Reclaim swaps the pages out, which takes most of its turn: its losses are not those of its flushes."
        }
        table {
            thead { tr {
                th { "strategy" } th.n { "unmaps" } th.n { "throughput" } th.n { "least to greatest" }
                th.n { "lost, ns per page" } th.n { "pass, p50" } th.n { "pass, p99" } th.n { "control" }
                th.n { "longest stall" } th.n { "control" }
            } }
            tbody { @for row in &results.victims { (victims_row(row)) } }
        }
        @if results.victims.iter().any(is_restless) {
            p.missed {
                "The same turns differ by more than a quarter: the host was busy with something else. Measure again "
                "when it is not."
            }
        }
    }
}

/// Whether the turns of one way are too different to say anything.
fn is_restless(row: &Victims) -> bool {
    row.throughput_max > 1.25 * row.throughput_min
}

fn victims_row(row: &Victims) -> Markup {
    html! {
        tr {
            td { (row.strategy) }
            td.n { (row.nr_unmaps) }
            td.n { (percent(row.throughput)) }
            td.n { (percent(row.throughput_min)) " – " (percent(row.throughput_max)) }
            td.n { (short(row.lost_ns_per_page)) }
            td.n { (short(row.pass_p50_ns)) " ns" }
            td.n { (short(row.pass_p99_ns)) " ns" }
            td.n { (short(row.pass_p99_ns_control)) " ns" }
            td.n { (short(row.longest_stall_ns / 1e3)) " µs" }
            td.n { (short(row.longest_stall_ns_control / 1e3)) " µs" }
        }
    }
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// The workload of 2015.
pub fn headline(results: &Results) -> Markup {
    let Some(first) = results.headline.first() else {
        return html! { p { "Not measured." } };
    };
    html! {
        p {
            "The workload of 2015: a thread on each of " (first.nr_cpus) " CPUs reads through more pages than there is "
            "memory (" (first.memory_pages / 256) " MiB), while others are taken back to make room. Linux does it with a "
            "file: with read-ahead, 16 pages per fault, and lists that tell which pages to take. With the device a page "
            "is a fault, and each thread takes its own oldest pages back as soon as three quarters of what was "
            "available are mapped: it knows which, and has no lists to keep. So what compares the cost of flushes is "
            "the three of the device among themselves; reclaim does more."
        }
        table {
            thead { tr {
                th { "what makes room" } th.n { "pages" } th.n { "interrupts / s" } th.n { "interrupts per page" }
                th.n { "elapsed" } th.n { "ns per page" } th.n { "system time" } th.n { "system ns per page" }
            } }
            tbody { @for row in &results.headline { (headline_row(row)) } }
        }
    }
}

fn headline_row(row: &Headline) -> Markup {
    html! {
        tr {
            td { (row.way) }
            td.n { (row.nr_pages) }
            td.n { (short(row.interrupts_per_second)) }
            td.n { (short(row.interrupts_per_page)) }
            td.n { (short(row.seconds)) " s" }
            td.n { (short(row.ns_per_page)) }
            td.n { (short(row.system_seconds)) " s" }
            td.n { (short(row.system_ns_per_page)) }
        }
    }
}

/// All rows, place by place.
pub fn rows(results: &Results) -> Markup {
    html! {
        @for block in results.rows.chunk_by(|a, b| place(a) == place(b)) {
            details {
                summary { (place_name(&block[0])) }
                table {
                    thead { tr {
                        th { "strategy" } th.n { "rounds" } th.n { "IPIs" } th.n { "full flushes here" }
                        th.n { "page flushes here" } th.n { "instructions per page" } th.n { "of which release" }
                        th.n { "ns per page" } th.n { "the most" } th.n { "kept" } th.n { "control" } th.n { "stale" }
                        th.n { "samples" } th.n { "of instructions" }
                    } }
                    tbody { @for row in block { (full_row(row)) } }
                }
            }
        }
    }
}

fn place(row: &Row) -> impl PartialEq + '_ {
    (
        &row.axis,
        row.layout,
        row.nr_pages,
        row.nr_mms,
        row.nr_cpus,
        row.placement,
    )
}

fn place_name(row: &Row) -> String {
    format!(
        "{}: {} {} pages, {}, {} CPUs, threads {}",
        row.axis,
        row.nr_pages,
        row.layout,
        match row.nr_mms {
            1 => "one process".into(),
            nr => format!("{nr} processes"),
        },
        row.nr_cpus,
        match row.placement {
            Placement::All => "busy on all",
            Placement::One => "busy on one",
            Placement::Idle => "asleep",
        }
    )
}

fn full_row(row: &Row) -> Markup {
    html! {
        tr {
            td { (row.strategy) @if row.nr_taken < row.nr_pages { " (" (row.nr_taken) " taken)" } }
            td.n { (count(row.rounds, row.rounds_min, row.rounds_max)) }
            td.n { (count(row.ipis_received, row.ipis_received_min, row.ipis_received_max)) }
            td.n { (row.local_full_flushes) }
            td.n { (row.local_page_flushes) }
            td.n { (spread(row.instructions_per_page, row.instructions_per_page_min, row.instructions_per_page_max)) }
            td.n { (optional(row.instructions_per_page_release)) }
            td.n { (spread(row.ns_per_page, row.ns_per_page_min, row.ns_per_page_max)) }
            td.n { (short(row.ns_per_page_p99)) }
            td.n { (percent(row.victim_translations_kept)) }
            td.n { (percent(row.victim_translations_kept_control)) }
            td.n { (row.stale_accesses.map_or("–".into(), |nr| nr.to_string())) }
            td.n { (row.nr_samples) }
            td.n { (row.nr_samples_counted) }
        }
    }
}

/// A median, and its spread if it has one.
fn count(median: u64, min: u64, max: u64) -> String {
    match min == max {
        true => median.to_string(),
        false => format!("{median} ({min}–{max})"),
    }
}

fn spread(median: f64, min: f64, max: f64) -> String {
    format!("{} ({}–{})", short(median), short(min), short(max))
}

/// Whether the counters agree.
pub fn checks(results: &Results) -> Markup {
    html! {
        table {
            thead { tr { th { "boot" } th { "what: the first, the second" } th.n { "the first" } th.n { "the second" } th { "" } } }
            tbody {
                @for check in &results.checks {
                    tr {
                        td { (check.part) }
                        td { (check.what) }
                        td.n { (check.ours) }
                        td.n { (check.kernels) }
                        td class=(if check.agree { "met" } else { "missed" }) {
                            (if check.agree { "agree" } else { "differ" })
                        }
                    }
                }
            }
        }
    }
}

/// What everything was measured on.
pub fn environment(results: &Results) -> Markup {
    let of = &results.environment;
    let facts = [
        ("kernel", of.kernel.clone()),
        ("configuration", of.config.clone()),
        ("host", format!("{} × {}", of.host_cpus, of.host_cpu_model)),
        ("QEMU", of.qemu.clone()),
        ("this tree", of.commit.clone()),
        ("date", of.date.clone()),
        (
            "took",
            format!(
                "{:.0} s{}",
                results.seconds,
                if results.quick {
                    ", the quick part only"
                } else {
                    ""
                }
            ),
        ),
    ];
    html! {
        table {
            tbody {
                @for (name, value) in &facts { tr { td { (name) } td { (value) } } }
                @for boot in &results.boots {
                    tr {
                        td { "boot " (boot.part) }
                        td { (boot.cpus) " CPUs, " (boot.accel) ", " (boot.cpu_threads) }
                    }
                }
            }
        }
        p.note {
            "parallel: each CPU is a thread of the host. sliced: the emulator runs one CPU at a time. counted: as "
            "sliced, by a clock that counts instructions."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_shown_if_there_is_one() {
        assert_eq!(count(3, 3, 3), "3");
        assert_eq!(count(3, 2, 9), "3 (2–9)");
    }
}
