// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Draws rows as a table for people, one block for each scenario.

use rust_tlb_results::demo::Row;
use rust_tlb_results::text;

const HEADINGS: [&str; 6] = [
    "strategy",
    "flush rounds",
    "IPIs received",
    "IPIs per page",
    "stale accesses",
    "ns per page",
];

/// The rows as text, in the order in which they came.
pub fn render(rows: &[Row]) -> String {
    let mut all = String::new();
    for block in rows.chunk_by(|a, b| a.scenario == b.scenario) {
        let heads = HEADINGS.map(String::from).to_vec();
        let table = text::indented(2, heads, block.iter().map(cells));
        all += &format!("\n  {}\n\n{table}\n", block[0].scenario);
    }
    all
}

fn cells(row: &Row) -> Vec<String> {
    let per_page = row.ipis_received as f64 / row.nr_pages.max(1) as f64;
    vec![
        row.strategy.clone(),
        row.rounds.to_string(),
        row.ipis_received.to_string(),
        format!("{per_page:.3}"),
        row.stale_accesses.to_string(),
        format!("{:.0}", row.ns_per_page),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &str, strategy: &str, ipis: u64) -> Row {
        Row {
            scenario: scenario.into(),
            strategy: strategy.into(),
            nr_pages: 512,
            nr_mms: 1,
            nr_cpus: 4,
            rounds: 1,
            ipis_received: ipis,
            local_full_flushes: 1,
            local_page_flushes: 0,
            stale_accesses: 0,
            ns_per_page: 12.7,
            ns_per_page_min: 12.0,
            ns_per_page_max: 13.0,
            nr_flush_calls: 1,
            nr_reads: 9,
        }
    }

    #[test]
    fn a_block_for_each_scenario() {
        let text = render(&[
            row("1 process", "page", 1536),
            row("1 process", "broadcast", 3),
            row("4 processes", "page", 6000),
        ]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "",
                "  1 process",
                "",
                "  strategy   flush rounds  IPIs received  IPIs per page  stale accesses  ns per page",
                "  page                  1           1536          3.000               0           13",
                "  broadcast             1              3          0.006               0           13",
                "",
                "  4 processes",
                "",
                "  strategy  flush rounds  IPIs received  IPIs per page  stale accesses  ns per page",
                "  page                 1           6000         11.719               0           13",
            ]
        );
    }
}
