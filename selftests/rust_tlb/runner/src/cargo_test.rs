// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Runs `cargo test` and reads what libtest says: the tests that need no kernel.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::ktap::Outcome;
use crate::output::{self, Waiting};
use crate::places::Places;
use crate::tally::Tally;
use crate::test_list::{Kind, Test};

/// The packages of our workspace.
pub fn packages(places: &Places) -> Result<Vec<String>> {
    let output = cargo(places, "metadata")
        .args(["--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo metadata")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("reading cargo metadata")?;
    Ok(values(&metadata["packages"])
        .map(|package| text(&package["name"]))
        .collect())
}

/// Runs a package's unit, integration and documentation tests.
pub fn run(places: &Places, package: &str, tally: &mut Tally) -> Result<()> {
    let waiting = Waiting::new(&format!("building the tests of {package}"));
    let mut child = cargo(places, "test")
        .args(["--package", package, "--no-fail-fast"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let stderr = child.stderr.take().expect("piped");
    let errors = std::thread::spawn(move || lines(stderr).collect::<Vec<_>>());

    let whole = Test::new(Kind::Host, package, None);
    let mut said = Vec::new();
    let mut any_failed = false;
    for line in lines(child.stdout.take().expect("piped")) {
        match result(&line) {
            Some((name, outcome)) => {
                waiting.done();
                any_failed |= outcome == Outcome::Failed;
                tally.record_within(&whole, &name, &outcome);
            }
            None => said.push(line),
        }
    }
    let status = child.wait()?;
    said.extend(errors.join().unwrap_or_default());
    if !status.success() {
        show(&said);
        if !any_failed {
            tally.fail(format!("{whole}: cargo test ended with {status}"));
        }
    }
    Ok(())
}

/// Shows what cargo and libtest said, without what they say whether or not something failed.
fn show(said: &[String]) {
    const CHATTER: &[&str] = &[
        "Compiling ",
        "Downloaded ",
        "Downloading ",
        "Running ",
        "Finished ",
        "running ",
        "test result: ok",
    ];
    for line in said {
        let text = line.trim_start();
        if !text.is_empty() && !CHATTER.iter().any(|start| text.starts_with(start)) {
            output::note(line);
        }
    }
}

/// Reads `test name ... ok`, if that is what the line says.
fn result(line: &str) -> Option<(String, Outcome)> {
    let (name, verdict) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let outcome = match verdict.split_once(", ").unwrap_or((verdict, "")) {
        ("ok", _) => Outcome::Passed,
        ("FAILED", _) => Outcome::Failed,
        ("ignored", reason) => Outcome::Skipped(reason.into()),
        _ => return None,
    };
    Some((name.into(), outcome))
}

fn cargo(places: &Places, command: &str) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo
        .current_dir(places.workspace())
        .env("CARGO_TERM_COLOR", "never")
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "0")
        .args([command, "--locked"]);
    cargo
}

fn lines(from: impl std::io::Read) -> impl Iterator<Item = String> {
    BufReader::new(from).lines().map_while(Result::ok)
}

fn values(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_of_libtest() {
        assert_eq!(
            result("test range::tests::empty ... ok"),
            Some(("range::tests::empty".into(), Outcome::Passed))
        );
        assert_eq!(
            result("test src/lib.rs - taken (line 3) - compile fail ... ok"),
            Some((
                "src/lib.rs - taken (line 3) - compile fail".into(),
                Outcome::Passed
            ))
        );
        assert_eq!(
            result("test slow ... ignored, takes an hour"),
            Some(("slow".into(), Outcome::Skipped("takes an hour".into())))
        );
        assert_eq!(
            result("test a ... FAILED"),
            Some(("a".into(), Outcome::Failed))
        );
        assert_eq!(result("test result: ok. 3 passed; 0 failed"), None);
        assert_eq!(result("running 3 tests"), None);
    }
}
