// SPDX-License-Identifier: GPL-2.0

//! What must not compile. Each file of `compile_fail/` breaks one rule of the protocol, and says with
//! which error the compiler has to refuse it; the words around an error are each compiler's own.

use serde_json::Value;
use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Compiles one of the examples; returns the codes of the compiler's errors.
fn error_codes(example: &str) -> BTreeSet<String> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("compile_fail");
    let output = Command::new(env!("CARGO"))
        .args([
            "check",
            "--quiet",
            "--offline",
            "--features",
            "compile_fail",
        ])
        .args(["--message-format", "json", "--example", example])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let codes = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["message"]["level"] == "error")
        .filter_map(|message| {
            message["message"]["code"]["code"]
                .as_str()
                .map(str::to_owned)
        })
        .collect::<BTreeSet<_>>();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.success(),
        codes.is_empty(),
        "{example}: {stderr}"
    );
    codes
}

/// Checks that `example` fails with the error that it names, and with no other.
fn refused(example: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let source = fs::read_to_string(path.join(example).with_extension("rs")).expect("is there");
    let expected = source
        .lines()
        .find_map(|line| line.strip_prefix("// Fails with: "))
        .expect("says how it fails");
    assert_eq!(error_codes(example), BTreeSet::from([expected.to_owned()]));
}

/// The control: what follows the rules compiles, so the others do not fail for want of a crate.
#[test]
fn the_order_that_the_types_allow_compiles() {
    assert_eq!(error_codes("control"), BTreeSet::new());
}

#[test]
fn a_page_cannot_be_taken_before_the_flush() {
    refused("take_before_flush");
    refused("take_before_wait");
    refused("look_before_flush");
}

#[test]
fn the_proof_of_a_flush_cannot_be_made() {
    refused("proof_of_ones_own");
}

#[test]
fn a_pte_cannot_be_cleared_but_by_the_walk() {
    refused("permit_of_ones_own");
}

#[test]
fn a_batch_cannot_be_used_after_the_flush() {
    refused("use_after_flush");
}

#[test]
fn a_batch_cannot_be_flushed_while_staging() {
    refused("unmap_while_staging");
}

#[test]
fn a_policy_cannot_come_from_outside() {
    refused("policy_of_ones_own");
}

#[test]
fn the_second_phase_cannot_come_before_the_flush() {
    refused("phase_before_flush");
}

#[test]
fn a_moved_page_cannot_be_let_go_of_before_the_flush() {
    refused("unpin_before_flush");
    refused("use_after_moved");
    refused("moved_of_ones_own");
}

#[test]
fn a_move_cannot_be_flushed_after_the_unlock() {
    refused("moved_outlives_the_lock");
}

#[test]
fn a_pte_cannot_be_moved_but_by_the_move() {
    refused("move_permit_of_ones_own");
}

#[test]
fn a_pte_is_not_known_without_its_lock() {
    refused("pte_of_ones_own");
    refused("pte_after_unlock");
}
