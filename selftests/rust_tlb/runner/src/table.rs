// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Draws rows as a table for people, one block for each scenario.

use serde_json::Value;

use crate::demo::Row;

const HEADINGS: [&str; 6] = [
    "strategy",
    "flush rounds",
    "IPIs received",
    "IPIs per page",
    "stale accesses",
    "ns per page",
];

type Cells = [String; HEADINGS.len()];

/// The rows as text, in the order in which they came.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for block in rows.chunk_by(|a, b| a["scenario"] == b["scenario"]) {
        let cells: Vec<Cells> = block.iter().map(cells).collect();
        text += &format!("\n  {}\n\n", show(&block[0]["scenario"]));
        text += &draw(&cells);
    }
    text
}

fn cells(row: &Row) -> Cells {
    let pages = number(&row["nr_pages"]).max(1.0);
    [
        show(&row["strategy"]),
        show(&row["rounds"]),
        show(&row["ipis_received"]),
        format!("{:.3}", number(&row["ipis_received"]) / pages),
        show(&row["stale_accesses"]),
        format!("{:.0}", number(&row["ns_per_page"])),
    ]
}

fn draw(rows: &[Cells]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(HEADINGS[column].len())
    };
    let line = |cells: [&str; HEADINGS.len()]| {
        let mut line = String::from("  ");
        for (column, cell) in cells.iter().enumerate() {
            let width = width(column);
            line += &match column {
                0 => format!("{cell:<width$}"),
                _ => format!("  {cell:>width$}"),
            };
        }
        line.trim_end().to_string() + "\n"
    };
    let mut text = line(HEADINGS);
    for row in rows {
        text += &line(row.each_ref().map(String::as_str));
    }
    text
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scenario: &str, strategy: &str, ipis: u64) -> Row {
        let text = format!(
            r#"{{"scenario":"{scenario}","strategy":"{strategy}","nr_pages":512,"rounds":1,
                "ipis_received":{ipis},"stale_accesses":0,"ns_per_page":12.7}}"#
        );
        serde_json::from_str(&text).unwrap()
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
