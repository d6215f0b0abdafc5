// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The numbers of one run as a page of documentation: nobody has to copy them one by one.

use std::collections::BTreeSet;

use rust_tlb_results::names::Layout;
use rust_tlb_results::strategies::{self, Strategy};
use rust_tlb_results::text;
use rust_tlb_results::written::{
    Headline, Moves, PageTables, Results, Row, Scans, Target, Victims,
};

use super::chart::short;

/// In two pieces: what is looked for at the top of a file would be found here.
const HEAD: &str = concat!(
    ".. SPDX-License",
    "-Identifier: GPL-2.0

=============================================
Batched TLB flushes: the numbers of one run
=============================================

Made by ``make bench`` (``build/bench/numbers.rst``): do not edit. What is measured, and how, is
in tlb_batch_bench.rst. Instructions are those of the guest, of all its CPUs
together. They repeat to a percent or two; rounds and IPIs repeat; times are of an emulator on a
host that may do other things.
"
);

/// Pages that are shown, of those that are measured.
const NR_PAGES: [u64; 4] = [1, 32, 512, 4096];
const LAYOUTS: [Layout; 2] = [Layout::Contiguous, Layout::Scattered];
/// Where few pages of many processes are compared.
const NR_FEW: u64 = 16;

/// The page.
pub fn page(results: &Results) -> String {
    let on = &results.environment;
    let sections = [
        format!(
            "{HEAD}\nLinux {}, {}, {} ({} CPUs in the boot that counts).\n",
            on.kernel,
            on.qemu,
            if results.quick { "the quick bench" } else { "the full bench" },
            on.cpus
        ),
        section(
            "Aims",
            "The release is what all of the device's strategies do beside unmapping and flushing. Each \
             aim says whether it is judged with it or without it.",
            &targets(results),
        ),
        section(
            "Instructions per page",
            "One process, all CPUs busy; without the release, the round that took least.",
            &over_pages(results, |row| format!("{:.0}", row.own_instructions_per_page())),
        ),
        section(
            "IPIs received",
            "The same rows.",
            &over_pages(results, |row| row.ipis_received.to_string()),
        ),
        section(
            "Instructions of one unmap",
            &format!("{NR_FEW} contiguous pages that so many processes map, all CPUs busy."),
            &over_mms(results),
        ),
        section(
            "Pages by number, folios, bundles, leaves, and bystanders",
            "Instructions per page as above; pages that are mapped by their numbers, those of folios of \
             16, of bundles of 16, and of leaves of 2 MiB (by number, too), and a file of which the \
             process has 1000 more mappings.",
            &over_setups(results),
        ),
        section(
            "Exact flushes",
            "Full flushes and flushes of a page are those of the caller's own CPU. Kept: of 64 hot \
             translations of a bystander's, those that are left.",
            &exact(results),
        ),
        section("Moves", "Eight busy CPUs. Locked: instructions for which a run held its locks.", &moves(&results.moves)),
        section("Page tables", "One page used per 2 MiB.", &page_tables(results)),
        section("Rust Binder's shrinker", "See tlb_batch_binder.rst.", &binder(&results.binder)),
        section(
            "What an interrupted thread loses",
            "It reads 64 pages of its own; the turns of each strategy: median, least, greatest.",
            &victims(results),
        ),
        section("More pages than memory", "The workload of 2015.", &headline(results)),
    ];
    sections.join("\n")
}

fn section(title: &str, what: &str, table: &str) -> String {
    let line = "=".repeat(title.len());
    let what = if what.is_empty() {
        String::new()
    } else {
        format!("{what}\n\n")
    };
    format!("{title}\n{line}\n\n{what}::\n\n{table}\n")
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(String::from).to_vec()
}

fn cells(first: &str, rest: impl IntoIterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(rest).collect()
}

fn missing(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".into())
}

fn targets(results: &Results) -> String {
    let row = |target: &Target| {
        vec![
            target.name.clone(),
            short(target.aim),
            missing(target.measured.map(short)),
            missing(target.measured_with_release.map(short)),
            missing(target.measured_own.map(short)),
            (if target.met { "met" } else { "missed" }).into(),
        ]
    };
    let heads = words(["aim", "at most", "measured", "with release", "without", ""]);
    text::table(heads, results.targets.iter().map(row))
}

/// Rows of one process on all CPUs.
fn of_one<'a>(
    results: &'a Results,
    axis: &'a str,
    strategy: &'a str,
    layout: Layout,
    nr_pages: u64,
) -> Option<&'a Row> {
    let place = (axis, strategy, layout, nr_pages);
    results.rows.iter().find(|row| {
        (
            row.axis.as_str(),
            row.strategy.as_str(),
            row.layout,
            row.nr_pages,
        ) == place
    })
}

fn over_pages(results: &Results, cell: impl Fn(&Row) -> String) -> String {
    // One page is contiguous.
    let places = || {
        let all = LAYOUTS
            .into_iter()
            .flat_map(|layout| NR_PAGES.map(|nr| (layout, nr)));
        all.filter(|place| *place != (LAYOUTS[1], 1))
    };
    let heads = places().map(|(layout, nr)| format!("{nr} {layout}"));
    let row = |strategy: &str| {
        let find = |(layout, nr)| of_one(results, "pages", strategy, layout, nr);
        cells(
            strategy,
            places().map(|place| missing(find(place).map(&cell))),
        )
    };
    let is_there = |strategy: &&Strategy| {
        let mut rows = results.rows.iter();
        rows.any(|row| row.axis == "pages" && row.strategy == strategy.name)
    };
    let there = strategies::ALL.iter().filter(is_there);
    let rows = there.map(|strategy| row(strategy.name));
    text::table(cells("pages", heads), rows)
}

fn over_mms(results: &Results) -> String {
    let is_it = |row: &&Row| row.axis == "mms" && row.nr_pages == NR_FEW;
    let all = || results.rows.iter().filter(is_it);
    let numbers: BTreeSet<u64> = all().map(|row| row.nr_mms).collect();
    let row = |strategy: &str| {
        let find = |nr: &u64| all().find(|row| row.strategy == strategy && row.nr_mms == *nr);
        let of = |row: &Row| format!("{:.0}", row.instructions_per_page_min * row.nr_pages as f64);
        cells(strategy, numbers.iter().map(|nr| missing(find(nr).map(of))))
    };
    let heads = cells("processes", numbers.iter().map(u64::to_string));
    text::table(heads, ["zap", "gather", "broadcast", "precise"].map(row))
}

fn over_setups(results: &Results) -> String {
    let axes = [
        "pages",
        "pfnmap",
        "bystanders",
        "folios",
        "pfn_folios",
        "pfn_bundles",
        "leaves",
    ];
    let as_a_whole = ["folios", "pfn_folios", "pfn_bundles", "leaves"];
    let places = || {
        let places = [(LAYOUTS[0], 512), (LAYOUTS[1], 512)].into_iter();
        let all = places.flat_map(|(layout, nr)| axes.map(|axis| (axis, layout, nr)));
        // Neighbours only.
        all.filter(|(axis, layout, _)| !as_a_whole.contains(axis) || *layout == LAYOUTS[0])
    };
    let heads = places().map(|(axis, layout, nr)| match axis {
        "pages" => format!("{nr} {layout}"),
        _ => format!("{nr} {layout}, {axis}"),
    });
    let row = |strategy: &str| {
        let find = |(axis, layout, nr)| of_one(results, axis, strategy, layout, nr);
        let of = |row: &Row| format!("{:.0}", row.own_instructions_per_page());
        cells(strategy, places().map(|place| missing(find(place).map(of))))
    };
    let strategies = ["zap", "unmap_mapping", "gather", "broadcast", "precise"];
    text::table(cells("", heads), strategies.map(row))
}

fn exact(results: &Results) -> String {
    let rows = results
        .rows
        .iter()
        .filter(|row| row.axis.starts_with("exact"));
    let row = |row: &Row| {
        vec![
            format!(
                "{} x {} {}, {}",
                row.nr_mms, row.nr_pages, row.layout, row.axis
            ),
            row.strategy.clone(),
            row.rounds.to_string(),
            row.ipis_received.to_string(),
            row.local_full_flushes.to_string(),
            row.local_page_flushes.to_string(),
            format!("{:.0}", row.victim_translations_kept * 64.0),
        ]
    };
    let heads = [
        "processes x pages",
        "strategy",
        "rounds",
        "IPIs",
        "full",
        "by page",
        "kept",
    ];
    text::table(words(heads), rows.map(row))
}

fn moves(rows: &[Moves]) -> String {
    let rows = rows.iter().filter(|row| row.nr_cpus == 8);
    let row = |row: &Moves| {
        vec![
            row.how.to_string(),
            row.nr_pages.to_string(),
            (if row.aligned { "yes" } else { "no" }).into(),
            row.rounds.to_string(),
            row.ipis_received.to_string(),
            format!("{:.0}", row.instructions_per_page),
            missing(row.locked_instructions.map(|nr| format!("{nr:.0}"))),
        ]
    };
    let heads = [
        "how",
        "pages",
        "aligned",
        "rounds",
        "IPIs",
        "instructions per page",
        "locked",
    ];
    text::table(words(heads), rows.map(row))
}

fn page_tables(results: &Results) -> String {
    let row = |row: &PageTables| {
        vec![
            row.how.to_string(),
            row.nr_pages.to_string(),
            row.vm_pte_before_kb.to_string(),
            row.vm_pte_held_kb.to_string(),
            row.vm_pte_after_kb.to_string(),
            format!("{:.0}", row.instructions_per_page),
            row.rounds.to_string(),
        ]
    };
    let heads = [
        "how",
        "pages",
        "VmPTE before, kB",
        "held",
        "after",
        "instructions per page",
        "rounds",
    ];
    text::table(words(heads), results.page_tables.iter().map(row))
}

fn binder(rows: &[Scans]) -> String {
    let row = |row: &Scans| {
        vec![
            row.how.to_string(),
            row.nr_processes.to_string(),
            row.nr_pages.to_string(),
            row.rounds_per_scan.to_string(),
            row.ipis_per_scan.to_string(),
            format!("{:.0}", row.instructions_per_page),
            format!("{:.0}", row.transactions_per_s),
        ]
    };
    let heads = [
        "how",
        "processes",
        "pages",
        "rounds",
        "IPIs",
        "instructions per page",
        "transactions per s",
    ];
    text::table(words(heads), rows.iter().map(row))
}

fn victims(results: &Results) -> String {
    let row = |row: &Victims| {
        let percent = |part: f64| format!("{:.1} %", 100.0 * part);
        vec![
            row.strategy.clone(),
            percent(row.throughput),
            percent(row.throughput_min),
            percent(row.throughput_max),
            format!("{:.0}", row.lost_ns_per_page),
            format!("{:.0}", row.pass_p99_ns),
            format!("{:.0}", row.pass_p99_ns_control),
        ]
    };
    let heads = [
        "strategy",
        "throughput",
        "least",
        "greatest",
        "lost, ns per page",
        "p99, ns",
        "control",
    ];
    text::table(words(heads), results.victims.iter().map(row))
}

fn headline(results: &Results) -> String {
    let row = |row: &Headline| {
        vec![
            row.way.clone(),
            format!("{:.0}", row.interrupts_per_second),
            format!("{:.3}", row.interrupts_per_page),
            format!("{:.0}", row.ns_per_page),
        ]
    };
    let heads = [
        "way",
        "interrupts per s",
        "interrupts per page",
        "ns per page",
    ];
    text::table(words(heads), results.headline.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn each_table_has_what_was_measured() {
        let page = page(&sample::results());
        // Broadcast of 512 scattered pages, without the release; zap; a move; a scan.
        for number in ["500", "3000", "kernel_deferred", "after"] {
            assert!(page.contains(number), "{number}:\n{page}");
        }
        // What was not measured.
        assert!(page.contains(" -"), "{page}");
        let titles = page.lines().filter(|line| line.starts_with("==="));
        assert!(titles.count() > 10, "{page}");
    }
}
