// SPDX-License-Identifier: GPL-2.0

//! The layers of the design, checked in the sources: who may know what.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree")
}

/// The Rust files of a folder, with their text without comments.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(top().join(folder))
        .expect("the folder is there")
        .map(|entry| entry.expect("can be read").path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .map(|path| (name(&path), code(&path)))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{folder} has no Rust file");
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("can be read");
    let lines = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|w| w == word)
}

/// Files of `rust/kernel/mm/tlb/` that need the kernel; all others are pure.
const SAFE_API: [&str; 10] = [
    "cpus.rs",
    "gather.rs",
    "locks.rs",
    "mappings.rs",
    "moving.rs",
    "ring_entry.rs",
    "rings.rs",
    "settled.rs",
    "tables.rs",
    "trace.rs",
];

/// Files of `rust/kernel/mm/` that do not.
const PURE: [&str; 7] = [
    "parts.rs",
    "place.rs",
    "pte.rs",
    "range.rs",
    "run.rs",
    "stale.rs",
    "window.rs",
];

#[test]
fn protocol_files_are_pure() {
    let mut protocol = sources("rust/kernel/mm/tlb");
    protocol.retain(|(file, _)| !SAFE_API.contains(&file.as_str()));
    let mut below = sources("rust/kernel/mm");
    below.retain(|(file, _)| PURE.contains(&file.as_str()));
    assert_eq!(below.len(), PURE.len());
    for (file, text) in protocol.into_iter().chain(below) {
        assert!(
            text.contains("forbid(unsafe_code)"),
            "{file} does not forbid unsafe code"
        );
        for word in ["unsafe", "bindings", "mechanism"] {
            assert!(!has_word(&text, word), "{file} says {word}");
        }
    }
}

/// Whether a function of the bindings is called, as in `bindings::name(`.
fn calls_c(text: &str) -> bool {
    text.split("bindings::").skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        end.is_some_and(|end| rest[end..].starts_with('('))
    })
}

#[test]
fn one_module_calls_the_kernel() {
    let files = sources("rust/kernel/mm")
        .into_iter()
        .chain(sources("rust/kernel/mm/tlb"));
    let callers: Vec<String> = files
        .filter(|(_, text)| calls_c(text))
        .map(|(file, _)| file)
        .collect();
    // What is called by C does so, too.
    assert_eq!(callers, ["mechanism.rs", "ring_entry.rs"]);
}

/// Inlined or generic code would be compiled into the module, and not find what is not exported.
#[test]
fn shims_are_not_inlined() {
    let main = code(&top().join("rust/kernel/mm/mechanism.rs"));
    let others = sources("rust/kernel/mm/mechanism");
    // This one stands in for shims, and calls nothing: it may be inlined.
    let text = others
        .into_iter()
        .filter(|(file, _)| file != "no_trace.rs")
        .fold(main, |all, (_, text)| all + "\n" + &text);
    let mut never = 0;
    let mut attributes = String::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            attributes.push_str(line);
            continue;
        }
        // What `declare_trace!` declares is inlined into the shims in this file, and nowhere else.
        let is_declared = line.contains("fn rust_tlb_");
        let calls_nothing = line.contains("fn pin(");
        // A name follows: this is no parameter that is a function.
        if line.contains("fn ") && !calls_nothing && !is_declared {
            assert!(attributes.contains("inline(never)"), "{line}");
            let name = line
                .split("fn ")
                .nth(1)
                .and_then(|rest| rest.split('(').next());
            assert!(!name.unwrap_or("").contains('<'), "generic: {line}");
            never += 1;
        }
        attributes.clear();
    }
    assert!(never > 10, "found {never} shims");
}

/// A global lock has to be initialised, and `global_lock!` leaves no other way to say when.
fn without_global_locks(text: &str) -> String {
    text.replace("unsafe(uninit) static", "static")
        .replace("unsafe { open_files::OPEN_FILES.init() };", "")
        .replace("unsafe { pressure::SHRINKER.init() };", "")
}

#[test]
fn the_device_uses_the_safe_api_only() {
    for (file, text) in sources("samples/rust/rust_tlb") {
        let text = without_global_locks(&text);
        for word in ["unsafe", "bindings", "asm"] {
            assert!(!has_word(&text, word), "{file} says {word}");
        }
    }
}
