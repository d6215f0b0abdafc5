// SPDX-License-Identifier: GPL-2.0

//! Data flows one way through the sample: no file uses one that uses it, however far around.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

type Uses = BTreeMap<String, BTreeSet<String>>;

/// The files of the sample that a `use crate::…` or `use super::…` names: what stands before the first
/// `::` of each of its items.
fn used_by(source: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let source = source.replace("use super::", "use crate::");
    for tree in source.split("use crate::").skip(1) {
        let tree = tree.split(';').next().unwrap_or("");
        let items = tree.strip_prefix('{').unwrap_or(tree);
        let mut depth = 0;
        let is_between = |c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && c == ','
        };
        for item in items.split(is_between) {
            let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
            used.insert(item.trim().chars().take_while(is_name).collect());
        }
    }
    used
}

fn sample() -> Uses {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree/samples/rust/rust_tlb");
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            sources.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    let known: BTreeSet<String> = sources.keys().cloned().collect();
    sources
        .into_iter()
        .map(|(name, source)| {
            (
                name,
                used_by(&source).intersection(&known).cloned().collect(),
            )
        })
        .collect()
}

/// What is left when files that use no other of those left are taken away, again and again.
fn circles(mut uses: Uses) -> Uses {
    loop {
        let left: BTreeSet<String> = uses.keys().cloned().collect();
        let before = uses.len();
        uses.retain(|_, used| !used.is_disjoint(&left));
        if uses.len() == before {
            return uses;
        }
    }
}

#[test]
fn no_file_of_the_sample_uses_itself_around_a_circle() {
    let uses = sample();
    assert!(uses["device"].contains("store"), "{uses:?}");
    assert!(uses["pages"].contains("slots"), "{uses:?}");
    assert!(uses["slots"].contains("sparse"), "{uses:?}");
    let left = circles(uses);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_circle_is_noticed() {
    let a = "use crate::{\n    b::{\n        self,\n        C, //\n    },\n    d, //\n};\n";
    let names = |source: &str| used_by(source).into_iter().filter(|name| !name.is_empty());
    assert!(names(a).eq(["b", "d"]));
    assert!(names("use crate::b::d::{self, e};").eq(["b"]));
    let uses = [
        ("a", "use crate::b::A;"),
        ("b", "use crate::c;"),
        ("c", "use crate::a::{B, d};"),
    ];
    let uses: Uses = uses
        .into_iter()
        .map(|(name, source)| (name.to_owned(), used_by(source)))
        .collect();
    assert_eq!(circles(uses).len(), 3);
}
