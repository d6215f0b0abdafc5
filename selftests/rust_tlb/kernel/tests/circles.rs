// SPDX-License-Identifier: GPL-2.0

//! Data flows one way: no file of the sample uses one that uses it, however far around, and neither
//! does one of `rust/kernel/mm/`, where the protocol (`tlb/`) uses the rest, and the rest not it, nor one
//! of the tests and of what runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Uses = BTreeMap<String, BTreeSet<String>>;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree")
}

/// The Rust files of a folder: their names, and what stands in them without comments.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for entry in fs::read_dir(top().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(path).unwrap();
            let lines = text.lines().map(|line| line.split("//").next().unwrap());
            sources.insert(name, lines.collect::<Vec<_>>().join("\n"));
        }
    }
    sources
}

/// The items of a list in braces, which can hold such lists.
fn items(list: &str) -> Vec<&str> {
    let mut depth = 0;
    let is_between = |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0 && c == ','
    };
    list.split(is_between).collect()
}

/// The paths that a tree of a `use` stands for.
fn paths(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((before, list)) = tree.split_once('{') else {
        return vec![tree.to_owned()];
    };
    let list = list.trim_end().strip_suffix('}').unwrap();
    items(list)
        .into_iter()
        .filter(|item| !item.trim().is_empty())
        .flat_map(paths)
        .map(|path| format!("{before}{path}"))
        .collect()
}

/// All paths that a source uses.
fn used_paths(source: &str) -> Vec<String> {
    source
        .split("use ")
        .skip(1)
        .filter_map(|rest| rest.split(';').next())
        .filter(|tree| tree.matches('{').count() == tree.matches('}').count())
        .flat_map(paths)
        .collect()
}

/// What stands behind one of `roots` in a path of the source, up to the next `::`.
fn used_by(source: &str, roots: &[&str]) -> BTreeSet<String> {
    let below = |path: String| {
        let rest = roots.iter().find_map(|root| path.strip_prefix(root))?;
        Some(rest.split("::").next().unwrap().to_owned())
    };
    used_paths(source).into_iter().filter_map(below).collect()
}

/// Which files use which, if those are known.
fn uses(sources: &BTreeMap<String, String>, roots: &[&str]) -> Uses {
    let of = |(name, source): (&String, &String)| {
        let mut used = used_by(source, roots);
        used.retain(|used| sources.contains_key(used));
        (name.clone(), used)
    };
    sources.iter().map(of).collect()
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
    let uses = uses(&sources("samples/rust/rust_tlb"), &["crate::", "super::"]);
    assert!(uses["device"].contains("store"), "{uses:?}");
    assert!(uses["state"].contains("slots"), "{uses:?}");
    assert!(uses["slots"].contains("sparse"), "{uses:?}");
    let left = circles(uses);
    assert!(left.is_empty(), "{left:?}");
}

/// The files of `rust/kernel/mm/` that know nothing of batches and flushes. What is in `mechanism/` is a
/// part of `mechanism.rs`.
fn below_the_protocol() -> BTreeMap<String, String> {
    let mut files = sources("rust/kernel/mm");
    assert!(files.remove("tlb").is_some());
    // In a kernel tree there are others, which are not ours.
    files.retain(|name, _| !["virt", "mmput_async"].contains(&name.as_str()));
    for (name, text) in sources("rust/kernel/mm/mechanism") {
        let text = text.replace("use super::", "use self::");
        assert!(!text.is_empty(), "{name}");
        files.get_mut("mechanism").unwrap().push_str(&text);
    }
    files
}

const OF_MM: [&str; 3] = ["super::", "crate::mm::", "kernel::mm::"];

#[test]
fn what_is_below_the_protocol_does_not_know_it() {
    for (name, text) in below_the_protocol() {
        assert!(!used_by(&text, &OF_MM).contains("tlb"), "{name}");
        assert!(!text.contains("tlb::"), "{name}");
    }
    // It is used from there.
    let walk = &sources("rust/kernel/mm/tlb")["walk"];
    assert!(used_by(walk, &OF_MM).contains("window"));
}

#[test]
fn no_file_of_mm_uses_itself_around_a_circle() {
    let uses = uses(&below_the_protocol(), &OF_MM);
    assert!(uses["rmap"].contains("mechanism"), "{uses:?}");
    assert!(uses["mechanism"].contains("range"), "{uses:?}");
    let left = circles(uses);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn no_file_of_the_protocol_uses_itself_around_a_circle() {
    let uses = uses(&sources("rust/kernel/mm/tlb"), &["super::"]);
    assert!(uses["batch"].contains("walk"), "{uses:?}");
    let left = circles(uses);
    assert!(left.is_empty(), "{left:?}");
}

/// Folders of `selftests/rust_tlb/`, and by what their files name each other. Not among them is the
/// explorer, whose files are a machine and what that runs: each is a step of the other.
const OF_THE_TESTS: [(&str, &[&str]); 6] = [
    ("guest/src", &["crate::"]),
    ("guest/src/bench", &["super::", "crate::bench::"]),
    ("kernel/src/model", &["super::"]),
    ("runner/src", &["crate::"]),
    ("runner/src/bench", &["super::", "crate::bench::"]),
    ("trace/src", &["crate::", "super::"]),
];

#[test]
fn no_file_of_the_tests_uses_itself_around_a_circle() {
    for (folder, roots) in OF_THE_TESTS {
        let uses = uses(&sources(&format!("selftests/rust_tlb/{folder}")), roots);
        assert!(uses.values().any(|used| !used.is_empty()), "{folder}");
        let left = circles(uses);
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

#[test]
fn a_circle_is_noticed() {
    let a = "use crate::{\n    b::{\n        self,\n        C,\n    },\n    d,\n};\n";
    assert!(used_by(a, &["crate::"]).into_iter().eq(["b", "d"]));
    let b = "use crate::b::d::{self, e};";
    assert!(used_by(b, &["crate::"]).into_iter().eq(["b"]));
    let c = "use crate::{mm::{tlb::{range::A}, c::{D, E}}, page::B};";
    assert!(used_by(c, &OF_MM).into_iter().eq(["c", "tlb"]));
    let sources = [
        ("a", "use crate::b::A;"),
        ("b", "use crate::c;"),
        ("c", "use crate::a::{B, d};"),
    ];
    let owned = |(name, source): (&str, &str)| (name.to_owned(), source.to_owned());
    let sources = sources.into_iter().map(owned).collect();
    assert_eq!(circles(uses(&sources, &["crate::"])).len(), 3);
}
