// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tables of text, for terminals and for the documentation.

use comfy_table::{presets, CellAlignment, Table};

/// A line of heads, and one for each row. The first column has words, the others have numbers.
pub fn table(heads: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heads);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let lines = table.trim_fmt();
    let lines = lines.lines().map(|line| format!("   {line}"));
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
        assert_eq!(table(heads, [row]), expected.join("\n"));
    }
}
