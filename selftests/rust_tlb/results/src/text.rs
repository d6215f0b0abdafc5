// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables of text, for terminals and for the documentation.

use comfy_table::{presets, CellAlignment, Table};

/// What a table is indented by, so that it is a block by itself in the documentation.
const INDENT: usize = 4;

/// A line of heads, and one for each row. The first column has words, the others have numbers.
pub fn table(heads: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    indented(INDENT, heads, rows)
}

/// The same, indented by so many spaces, at least one.
pub fn indented(
    indent: usize,
    heads: Vec<String>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    // A cell begins with a space.
    let margin = " ".repeat(indent - 1);
    let lines = table.trim_fmt();
    let lines = lines.lines().map(|line| format!("{margin}{line}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_below_their_heads() {
        let heads = ["events", "1 contiguous", "512"].map(String::from).to_vec();
        let row = ["off, compiled in", "6000", "2400"]
            .map(String::from)
            .to_vec();
        let expected = [
            "    events            1 contiguous   512",
            "    off, compiled in          6000  2400",
        ];
        assert_eq!(table(heads.clone(), [row.clone()]), expected.join("\n"));
        let expected = expected.map(|line| &line[2..]);
        assert_eq!(indented(2, heads, [row]), expected.join("\n"));
    }
}
