// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Two checkouts that share a cache: each builds and tests what is its own. Tiny ones, with the
//! scripts of this one; their runner runs the tests of its workspace, as the real one does.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output};

/// Outside of the workspace, as the kernel's sources are.
const RULE: &str = "rust/rule.rs";
const KEPT: &str = "pub const IS_KEPT: bool = true;\n";
const BROKEN: &str = "pub const IS_KEPT: bool = false;\n";

const WORKSPACE: &str = "selftests/rust_tlb";
const FILES: [(&str, &str); 4] = [
    (
        "Cargo.toml",
        "[workspace]\nmembers = [\"runner\"]\nresolver = \"2\"\n",
    ),
    (
        "Cargo.lock",
        "version = 3\n\n[[package]]\nname = \"rust-tlb-runner\"\nversion = \"0.1.0\"\n",
    ),
    (
        "runner/Cargo.toml",
        "[package]\nname = \"rust-tlb-runner\"\nversion = \"0.1.0\"\nedition = \"2021\"\n",
    ),
    (
        "runner/src/main.rs",
        r#"
#[path = "../../../../rust/rule.rs"]
mod rule;

fn main() {
    let cargo = std::env::var_os("CARGO").expect("set by scripts/runner.sh");
    let mut test = std::process::Command::new(cargo);
    let ended = test.args(["test", "--locked", "--offline"]).status().expect("cargo runs");
    println!("tests passed: {}, binary is good: {}", ended.success(), rule::IS_KEPT);
}

#[test]
fn the_rule_is_kept() {
    assert!(rule::IS_KEPT);
}
"#,
    ),
];

/// The folder of a test, gone when the test is over.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the build folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    fn new() -> Self {
        let name = format!("checkouts-{}", process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Where `scripts/tools.sh` would have told the others where the compiler is.
    fn provide_tools(&self) {
        let cargo = PathBuf::from(env!("CARGO"));
        let bin = cargo.parent().expect("cargo is in a folder").display();
        write(
            &self.cache().join("tools/env.sh"),
            &format!("RUST_BIN='{bin}'\n"),
        );
    }
}

struct Checkout<'a> {
    top: PathBuf,
    scratch: &'a Scratch,
}

impl<'a> Checkout<'a> {
    fn new(name: &str, scratch: &'a Scratch) -> Self {
        let top = scratch.0.join(name);
        for (path, text) in FILES {
            write(&top.join(WORKSPACE).join(path), text);
        }
        copy_scripts(&top);
        let checkout = Self { top, scratch };
        checkout.set_rule(KEPT);
        checkout
    }

    fn set_rule(&self, rule: &str) {
        write(&self.top.join(RULE), rule);
    }

    fn run(&self) -> Output {
        Command::new("bash")
            .arg(self.top.join("scripts/runner.sh"))
            .current_dir(self.top.join(WORKSPACE))
            .env("RUST_TLB_CACHE", self.scratch.cache())
            .env_remove("V")
            .output()
            .expect("bash runs")
    }

    fn expect(&self, good: bool) {
        let ended = self.run();
        let said = String::from_utf8_lossy(&ended.stdout);
        let verdict = format!("tests passed: {good}, binary is good: {good}\n");
        assert!(
            said.contains(&verdict),
            "{}, not {verdict}{}",
            said,
            String::from_utf8_lossy(&ended.stderr)
        );
    }
}

fn copy_scripts(to: &Path) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../srctree/scripts");
    for entry in fs::read_dir(from).expect("the scripts are there") {
        let path = entry.expect("can be read").path();
        if path.extension().is_some_and(|e| e == "sh") {
            let text = fs::read_to_string(&path).expect("can be read");
            let name = path.file_name().expect("of a file");
            write(&to.join("scripts").join(name), &text);
        }
    }
}

fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("of a file");
    fs::create_dir_all(folder).expect("can be made");
    fs::write(path, text).expect("can be written");
}

#[test]
fn each_checkout_tests_its_own_files() {
    let scratch = Scratch::new();
    scratch.provide_tools();
    let older = Checkout::new("older", &scratch);
    let newer = Checkout::new("newer", &scratch);
    older.expect(true);
    newer.expect(true);
    older.set_rule(BROKEN);
    older.expect(false);
    newer.expect(true);
    older.expect(false);
    // And by its own binaries, whoever was the last to build.
    older.set_rule(KEPT);
    newer.set_rule(BROKEN);
    newer.expect(false);
    older.expect(true);
}
