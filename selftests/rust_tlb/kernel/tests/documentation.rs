// SPDX-License-Identifier: GPL-2.0

//! Documentation rots by names: every path and every function of ours that it names has to exist.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree")
}

fn pages() -> Vec<(String, String)> {
    ["Documentation/mm/tlb_batch.rst", "README.md"]
        .into_iter()
        .filter_map(|page| Some((page.to_owned(), fs::read_to_string(top().join(page)).ok()?)))
        .collect()
}

/// What stands between backquotes, one or two.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .chain(text.split("``").skip(1).step_by(2))
        .collect()
}

fn our_folders() -> [&'static str; 8] {
    [
        "rust/",
        "mm/tlb",
        "include/",
        "samples/",
        "selftests/",
        "scripts/",
        "patches/",
        "Documentation/",
    ]
}

#[test]
fn every_path_that_is_named_exists() {
    let mut checked = 0;
    for (page, text) in pages() {
        for path in quoted(&text) {
            let ours = our_folders().iter().any(|folder| path.starts_with(folder));
            if !ours || path.contains(char::is_whitespace) || path.contains(['*', '<', '{']) {
                continue;
            }
            assert!(top().join(path).exists(), "{page} names {path}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "found {checked} paths");
}

fn all_sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("is there").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "srctree" {
            all_sources(&path, into);
        } else if path
            .extension()
            .is_some_and(|e| e == "rs" || e == "c" || e == "h")
        {
            into.push_str(&fs::read_to_string(&path).unwrap_or_default());
        }
    }
}

/// `Type::name()` is ours if the type is; a `tlb_defer_…()` is ours in any case.
#[test]
fn every_function_that_is_named_exists() {
    let mut sources = String::new();
    for folder in ["rust", "samples", "mm", "include"] {
        all_sources(&top().join(folder), &mut sources);
    }
    let mut checked = 0;
    for (page, text) in pages() {
        for call in quoted(&text)
            .into_iter()
            .filter_map(|q| q.strip_suffix("()"))
        {
            let name = match call.rsplit_once("::") {
                Some(("mem", _)) => continue,
                Some((_, method)) => format!("fn {method}"),
                None if call.starts_with("tlb_defer_") => format!("{call}("),
                None => continue,
            };
            assert!(sources.contains(&name), "{page} names {call}()");
            checked += 1;
        }
    }
    assert!(checked > 5, "found {checked} functions");
}
