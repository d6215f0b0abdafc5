// SPDX-License-Identifier: GPL-2.0

//! Numbers that are told twice: what the letters of the series say is in the snapshot of the bench.

use super::top;
use std::{collections::BTreeMap, fs};

/// By row and column.
type Table = BTreeMap<(String, String), String>;

/// Two spaces and more are between cells.
fn cells(line: &str) -> Vec<&str> {
    let cells = line.split("  ").map(str::trim);
    cells.filter(|cell| !cell.is_empty()).collect()
}

/// The first table below `title`. A row is named by its first `nr_names` cells.
fn table(page: &str, title: &str, nr_names: usize) -> Table {
    let below = page.split_once(&format!("\n{title}\n=")).expect(title).1;
    let below = below.split_once("::\n\n").expect(title).1;
    let mut lines = below.lines().take_while(|line| !line.trim().is_empty());
    let columns = cells(lines.next().expect(title));
    lines
        .flat_map(|line| {
            let row = cells(line);
            assert_eq!(row.len(), columns.len(), "{line}");
            let name = row[..nr_names].join(" ");
            let values = columns.iter().zip(row).skip(nr_names);
            let named = values
                .map(|(&column, value)| ((name.clone(), column.to_owned()), value.to_owned()));
            named.collect::<Vec<_>>()
        })
        .collect()
}

fn get<'t>(table: &'t Table, row: &str, column: &str) -> &'t str {
    &table[&(row.to_owned(), column.to_owned())]
}

/// A letter of the series, which is not there in a kernel tree, and the snapshot.
fn letter(path: &str) -> Option<(String, String)> {
    let letter = fs::read_to_string(top().join("series").join(path)).ok()?;
    let snapshot = top().join("Documentation/mm/tlb_batch_numbers.rst");
    Some((letter, fs::read_to_string(snapshot).expect("is there")))
}

#[test]
fn the_cover_letter_has_the_numbers_of_the_snapshot() {
    let Some((letter, snapshot)) = letter("00-cover-letter") else {
        return;
    };
    let instructions = table(&snapshot, "Instructions per page", 1);
    let ipis = table(&snapshot, "IPIs received", 1);
    let rows = [
        ("zap_vma_range()", "zap"),
        ("unmap_mapping_pages()", "unmap_mapping"),
        ("a gather for each process", "gather"),
        ("a batch", "broadcast"),
    ];
    for (said, strategy) in rows {
        let is_row = |line: &&str| cells(line).first() == Some(&said);
        let row = cells(letter.lines().find(is_row).expect(said));
        let expected = ["512 scattered", "512 contiguous"]
            .map(|column| [&instructions, &ipis].map(|table| get(table, strategy, column)));
        assert_eq!(row[1..], expected.concat(), "{said}");
    }
}

#[test]
fn binders_letter_has_the_numbers_of_the_snapshot() {
    let Some((letter, snapshot)) = letter("rfc-rust-binder/00-cover-letter") else {
        return;
    };
    let numbers = table(&snapshot, "Rust Binder's shrinker", 2);
    let words = letter.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.collect();
    let is_row = |row: &Vec<&str>| ["page by page", "one batch"].contains(&row[0]);
    let lines = letter.lines().map(cells).filter(|row| row.len() == 3);
    let mut rows = lines.filter(is_row);
    for processes in [1, 8, 64] {
        for how in ["before", "after"] {
            let counts = ["rounds", "IPIs"]
                .map(|column| get(&numbers, &format!("{how} {processes}"), column));
            let row = rows.next().expect("there are six rows");
            assert_eq!(row[1..], counts, "{how}, {processes}");
            for column in ["instructions per page", "transactions per s"] {
                let number = get(&numbers, &format!("{how} {processes}"), column);
                let is_there = words.contains(&number);
                assert!(is_there, "{how}, {processes}: {column}: {number}");
            }
        }
    }
}
