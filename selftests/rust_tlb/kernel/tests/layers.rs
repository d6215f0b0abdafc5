// SPDX-License-Identifier: GPL-2.0

//! The layers of the design, checked in the sources: who may know what.

use std::{
    collections::BTreeSet,
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

/// The functions that our headers declare.
fn functions_of_c() -> BTreeSet<String> {
    let headers = fs::read_dir(top().join("include/linux")).expect("the folder is there");
    let ours = |name: &str| name.starts_with("tlb_") || name == "flush_ring.h";
    let paths = headers.map(|entry| entry.expect("can be read").path());
    let texts = paths
        .filter(|path| ours(&name(path)))
        .map(|path| code(&path));
    let names = |text: String| -> Vec<String> {
        let before = text.split('(').map(str::trim_end);
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        before
            .map(|text| text.rsplit(|c| !is_name(c)).next().unwrap_or("").into())
            .filter(|name: &String| name.starts_with("tlb_"))
            .collect()
    };
    let found: BTreeSet<String> = texts.flat_map(names).collect();
    assert!(found.contains("tlb_batch_pte_lock") && found.contains("tlb_move_pin"));
    found
}

/// Whether a function of C is called, or handed on: one of ours, another of the bindings, as in
/// `bindings::name(`, or an event.
fn calls_c(text: &str, ours: &BTreeSet<String>) -> bool {
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    text.split("bindings::").skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        end.is_some_and(|end| rest[end..].starts_with('('))
    }) || text.contains("unsafe { rust_tlb_")
        || words.any(|word| ours.contains(word))
}

/// All folders of the abstractions.
fn folders(of: &str) -> Vec<String> {
    let entries = fs::read_dir(top().join(of)).expect("the folder is there");
    let paths = entries.map(|entry| entry.expect("can be read").path());
    let below = paths.filter(|path| path.is_dir());
    let mut found: Vec<String> = below
        .flat_map(|path| folders(&format!("{of}/{}", name(&path))))
        .collect();
    found.push(of.into());
    found.sort();
    found
}

/// All files of the abstractions that call C, but for what C calls: that is in the kernel, and never in
/// a module.
fn callers_of_c() -> Vec<(String, String)> {
    // In a kernel tree there are others, which are not ours.
    let others = ["ring_entry.rs", "virt.rs", "mmput_async.rs"];
    let folders = folders("rust/kernel/mm");
    let files = folders.iter().flat_map(|folder| sources(folder));
    let ours = functions_of_c();
    files
        .filter(|(file, text)| !others.contains(&file.as_str()) && calls_c(text, &ours))
        .collect()
}

/// Each of them has what a call of C relies on: a lock that is held, a reference that is owned.
#[test]
fn few_files_call_the_kernel() {
    let files: Vec<String> = callers_of_c().into_iter().map(|(file, _)| file).collect();
    let expected = [
        "deadline.rs",
        "exclusive.rs",
        "fault.rs",
        "folio.rs",
        "mechanism.rs",
        "page_table.rs",
        "rmap.rs",
        "shrinker.rs",
        "vm_ops.rs",
        "trace.rs",
        "cpus.rs",
        "gather.rs",
        "mappings.rs",
        "moving.rs",
        "rings.rs",
        "tables.rs",
    ];
    assert_eq!(files, expected);
}

/// A function of a file, and the first line of the block that it is in.
struct Function<'a> {
    attributes: String,
    signature: String,
    within: &'a str,
    body: String,
}

/// The functions of a file, as rustfmt has them: those of a block are indented once.
fn functions(text: &str) -> Vec<Function<'_>> {
    let mut found: Vec<Function<'_>> = Vec::new();
    let (mut attributes, mut within, mut is_signature) = (String::new(), "", false);
    for line in text.lines() {
        let word = line.trim();
        let block = line
            .trim_start_matches("pub ")
            .trim_start_matches("unsafe ");
        if block.starts_with("impl") || block.starts_with("trait") {
            within = block;
        } else if line == "}" {
            within = "";
        }
        if word.starts_with("#[") {
            attributes.push_str(word);
        } else if ["    ", ""].contains(&&line[..line.len() - line.trim_start().len()])
            && word.split_whitespace().any(|w| w == "fn")
            && !word.starts_with("type ")
        {
            is_signature = true;
            found.push(Function {
                attributes: std::mem::take(&mut attributes),
                signature: String::new(),
                within,
                body: String::new(),
            });
        } else if !word.is_empty() {
            attributes.clear();
        }
        if let Some(function) = found.last_mut() {
            let part = match is_signature {
                true => &mut function.signature,
                false => &mut function.body,
            };
            part.push_str(line);
            part.push('\n');
            is_signature &= !(word.ends_with('{') || word.ends_with(';'));
        }
    }
    found
}

/// Whether `<...>`, if `text` begins with that, has a type in it, or a constant, and not only lifetimes.
fn has_type_parameter(text: &str) -> bool {
    let Some(list) = text.strip_prefix('<') else {
        return false;
    };
    let list = list.split('>').next().unwrap_or("");
    list.split(',').any(|one| !one.trim().starts_with('\''))
}

/// Inlined or generic code would be compiled into the module, and not find what is not exported.
#[test]
fn what_calls_the_kernel_stays_in_it() {
    let mut nr = 0;
    let ours = functions_of_c();
    for (file, text) in callers_of_c() {
        for renamed in [
            "bindings as",
            "use crate::bindings::",
            "use bindings::",
            "bindings::{",
        ] {
            assert!(!text.contains(renamed), "{file}: {renamed}");
        }
        for function in functions(&text).iter().filter(|f| calls_c(&f.body, &ours)) {
            let Function {
                attributes,
                signature,
                within,
                ..
            } = function;
            assert!(attributes.contains("inline(never)"), "{file}: {signature}");
            let name = signature.split("fn ").nth(1).unwrap_or("");
            let behind = name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            assert!(!has_type_parameter(behind), "generic, {file}: {signature}");
            assert!(!signature.contains("impl "), "generic, {file}: {signature}");
            assert!(
                !within.starts_with("trait"),
                "{file}: {within}: {signature}"
            );
            let block = within.trim_start_matches("impl");
            assert!(!has_type_parameter(block), "{file}: {within}: {signature}");
            nr += 1;
        }
    }
    assert!(nr > 60, "found {nr} functions");
}

#[test]
fn generic_functions_are_recognised() {
    let text = "impl<'a> S<'a> {\n    #[inline(never)]\n    fn f<'b, T>(\n        t: T,\n    ) {\n        \
                g()\n    }\n}\n\nfn g() {\n}\n";
    let found = functions(text);
    assert_eq!(found.len(), 2);
    assert!(found[0].attributes.contains("never") && found[1].attributes.is_empty());
    assert_eq!((found[0].within, found[1].within), ("impl<'a> S<'a> {", ""));
    assert!(found[0].signature.contains("t: T") && found[0].body.contains("g()"));
    assert!(has_type_parameter("<'b, T>(") && has_type_parameter("<const N: usize>"));
    assert!(!has_type_parameter("<'b>(") && !has_type_parameter("(a: A<T>)"));
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
