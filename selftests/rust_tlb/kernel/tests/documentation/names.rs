// SPDX-License-Identifier: GPL-2.0

//! Names that are no functions: of tests, events and their fields, files, debugfs, parameters, rules.

use super::{our_files, pages, quoted, sources, top};
use std::{collections::BTreeSet, fs, path::Path};

/// Names of the kernel that no source of ours has.
const KERNEL_NAMES: &[&str] = &["call_function_single", "csd_function"];
/// Files of the kernel in folders where we have some, too.
const KERNEL_FILES: &[&str] = &[
    "arch/x86/kernel/cpu/sgx/encl.c",
    "arch/x86/mm/tlb.c",
    "drivers/android/binder/page_range.rs",
    "drivers/android/binder_alloc.c",
];
/// Folders in debugfs.
const DEBUGFS: [&str; 5] = [
    "mremap",
    "rust_binder",
    "rust_tlb",
    "rust_tlb_faults",
    "tlb_flush_ring",
];

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Each name in a text of any kind, as often as it is written.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_name(c)).filter(|word| !word.is_empty())
}

/// Names are also those of scripts, patches, schemas and tests.list.
fn all_sources() -> String {
    sources(&["c", "h", "json", "list", "patch", "rs", "sh"])
}

/// Whether `word` is `like_this`, and no part of a name (`nr_`, `_exit`), or the name of a macro.
fn is_a_whole_name(word: &str) -> bool {
    word.contains('_')
        && !word.starts_with('_')
        && !word.ends_with('_')
        && word
            .chars()
            .all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// A test, an event, a parameter, a field, a variable.
#[test]
fn every_name_that_is_written_exists() {
    let sources = all_sources();
    let known: BTreeSet<&str> = words(&sources).collect();
    let reasons = reasons();
    let mut checked = 0;
    for (page, text) in pages() {
        for name in quoted(&text) {
            let is_exempt = KERNEL_NAMES.contains(&name) || reasons.contains(name);
            if !is_a_whole_name(name) || is_exempt {
                continue;
            }
            let event = format!("rust_tlb_{name}");
            let exists = known.contains(name) || known.contains(event.as_str());
            assert!(exists, "{page} names {name}");
            checked += 1;
        }
    }
    assert!(checked > 100, "found {checked} names");
}

/// `vm SUITE`, or `vm SUITE TEST`.
#[test]
fn every_test_of_a_suite_exists() {
    let list = fs::read_to_string(top_of_selftests().join("tests.list")).expect("is there");
    let mut checked = 0;
    for (page, text) in pages() {
        for name in quoted(&text) {
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            if !name.starts_with("vm ") {
                continue;
            }
            let exists = list
                .lines()
                .any(|line| line == name || line.starts_with(&format!("{name} ")));
            assert!(exists, "{page} names {name}");
            checked += 1;
        }
    }
    assert!(checked > 20, "found {checked} tests");
}

fn top_of_selftests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What is between `from` and the next of `to`, wherever that is.
fn all_between<'t>(text: &'t str, from: &str, to: &[char]) -> Vec<&'t str> {
    let rests = text.split(from).skip(1);
    rests.filter_map(|rest| rest.split(to).next()).collect()
}

fn event_headers() -> Vec<String> {
    let folder = top().join("include/trace/events");
    let entries = fs::read_dir(folder).expect("is there").flatten();
    let is_ours = |name: &str| name.starts_with("rust_tlb") || name == "mremap.h";
    entries
        .filter(|entry| is_ours(&entry.file_name().to_string_lossy()))
        .map(|entry| fs::read_to_string(entry.path()).expect("can be read"))
        .collect()
}

/// The other way round: each event, and each field as it is printed.
#[test]
fn every_event_is_explained() {
    let pages = pages();
    let told: BTreeSet<&str> = pages
        .iter()
        .flat_map(|(_, text)| quoted(text))
        .map(|name| name.trim_start_matches("mremap:"))
        .collect();
    let mut checked = 0;
    for header in event_headers() {
        let declared = ["TRACE_EVENT(", "TRACE_EVENT_FN("];
        for event in declared
            .map(|with| all_between(&header, with, &[',']))
            .concat()
        {
            let name = event.trim_start_matches("rust_tlb_");
            assert!(told.contains(name), "no page explains {event}");
            checked += 1;
        }
        if header.contains("TRACE_SYSTEM mremap") {
            continue;
        }
        for print in all_between(&header, "TP_printk(\"", &['"']) {
            for field in print.split(' ').filter_map(|word| word.split_once("=%")) {
                assert!(told.contains(field.0), "no page explains {print}");
            }
        }
    }
    assert!(checked > 10, "found {checked} events");
}

/// The lines of `counters` in debugfs, one for each reason to flush.
fn reasons() -> BTreeSet<String> {
    let path = top().join("samples/rust/rust_tlb/statistics.rs");
    let text = fs::read_to_string(path).expect("can be read");
    let whys = all_between(&text, "const WHYS: ", &[';'])[0..1].concat();
    let after = &text[text.find(&whys).unwrap_or(0)..];
    let list = all_between(after, "= [", &[']'])[0];
    let named = list.split('"').skip(1).step_by(2);
    named.map(|why| format!("flushes_{why}")).collect()
}

#[test]
fn every_reason_to_flush_is_explained() {
    let told: BTreeSet<String> = pages()
        .iter()
        .flat_map(|(_, text)| {
            quoted(text)
                .into_iter()
                .map(String::from)
                .collect::<Vec<_>>()
        })
        .filter(|name| name.starts_with("flushes_") && is_a_whole_name(name))
        .collect();
    assert_eq!(told, reasons());
}

#[test]
fn every_file_in_debugfs_exists() {
    let sources = all_sources();
    let mut checked = 0;
    for (page, text) in pages() {
        for path in quoted(&text) {
            let path = path.trim_start_matches("/sys/kernel/debug/");
            let Some((folder, file)) = path.split_once('/') else {
                continue;
            };
            if !DEBUGFS.contains(&folder) {
                continue;
            }
            for name in [folder, file].into_iter().filter(|name| !name.is_empty()) {
                let exists = sources.contains(&format!("\"{name}\""));
                assert!(exists, "{page} names {path}");
            }
            checked += 1;
        }
    }
    assert!(checked > 5, "found {checked} files");
}

/// `walk.rs` and the like, in whatever folder; other pages, quoted or not; what the README links to.
#[test]
fn every_file_that_is_named_exists() {
    let files = our_files();
    let exists = |name: &str| files.iter().any(|path| path.ends_with(name));
    let mut checked = 0;
    for (page, text) in pages() {
        let is_file = |name: &&str| {
            let is_source = [".rs", ".c", ".h", ".sh", ".patch"]
                .iter()
                .any(|ending| name.ends_with(ending));
            // `mm/rmap.c` is the kernel's, and looked at elsewhere if it is ours.
            let is_ours = ["arch/", "drivers/"].iter().any(|f| name.starts_with(f));
            is_source
                && name.chars().all(|c| is_name(c) || "./-".contains(c))
                && (is_ours || !name.contains('/'))
        };
        let named = quoted(&text).into_iter().filter(is_file);
        let pages = text
            .split(|c| !is_name(c) && c != '.')
            .filter(|word| word.starts_with("tlb_batch") && word.ends_with(".rst"));
        for name in named.chain(pages) {
            assert!(
                KERNEL_FILES.contains(&name) || exists(name),
                "{page} names {name}"
            );
            checked += 1;
        }
        for link in all_between(&text, "](", &[')']) {
            assert!(
                !page.ends_with(".md") || top().join(link).exists(),
                "{page} links {link}"
            );
        }
    }
    assert!(checked > 50, "found {checked} files");
}

/// Rules of the sources (H1 and the like), each with the page that it is to be found in.
fn rules(text: &str) -> BTreeSet<(&str, &'static str)> {
    let page_of = |word: &str| {
        let page = match word.chars().next()? {
            'H' => "tlb_batch.rst",
            'L' => "tlb_batch_huge.rst",
            'T' => "tlb_batch_tables.rst",
            _ => return None,
        };
        let number = &word[1..];
        let is_rule = !number.is_empty() && number.chars().all(|c| c.is_ascii_digit());
        is_rule.then_some(page)
    };
    words(text)
        .filter_map(|word| Some((word, page_of(word)?)))
        .collect()
}

/// Who reads a rule's number has to find the rule.
#[test]
fn every_rule_is_linked_and_exists() {
    let mut checked = 0;
    let may_name = |path: &Path| {
        let path = path.strip_prefix(top()).unwrap_or(path);
        let in_ours = [
            "rust/kernel/mm",
            "samples/rust/rust_tlb",
            "mm/rust_tlb",
            "selftests/rust_tlb",
        ]
        .iter()
        .any(|folder| path.starts_with(folder));
        let is_source = path.extension().is_none_or(|ending| ending != "patch");
        let is_header = path.starts_with("include/linux")
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("tlb_"));
        in_ours && is_source || is_header
    };
    for path in our_files().iter().filter(|path| may_name(path)) {
        let text = fs::read_to_string(path).unwrap_or_default();
        for (rule, page) in rules(&text) {
            let path = path.display();
            assert!(text.contains(page), "{path} names {rule}, and not {page}");
            let text = fs::read_to_string(top().join("Documentation/mm").join(page));
            let exists = words(&text.expect("is there")).any(|word| word == rule);
            assert!(exists, "{path}: {page} has no {rule}");
            checked += 1;
        }
    }
    assert!(checked > 20, "found {checked} rules");
}
