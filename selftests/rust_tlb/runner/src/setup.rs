// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Runs the tests of the scripts that set up and build, which are scripts themselves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::ktap::Outcome;
use crate::output;
use crate::places::Places;
use crate::tally::Tally;
use crate::test_list::{Kind, Test};

/// Runs them all: which are selected, the tally knows.
pub fn run(places: &Places, tally: &mut Tally) -> Result<()> {
    let mut child = Command::new(places.top.join("scripts/setup-tests.sh"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting setup-tests.sh")?;
    let stdout = child.stdout.take().expect("piped");
    for line in BufReader::new(stdout).lines() {
        match result(&line?) {
            Ok((name, outcome)) => tally.record(Test::new(Kind::Setup, name, None), &outcome),
            Err(said) => output::note(said),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        tally.fail(format!("setup-tests.sh ended with {status}"));
    }
    Ok(())
}

/// A line of it is a test's result, or says why.
fn result(line: &str) -> Result<(&str, Outcome), &str> {
    if let Some(name) = line.strip_prefix("ok ") {
        Ok((name, Outcome::Passed))
    } else if let Some(name) = line.strip_prefix("not ok ") {
        Ok((name, Outcome::Failed))
    } else {
        Err(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_result_or_a_reason() {
        assert_eq!(result("ok a"), Ok(("a", Outcome::Passed)));
        assert_eq!(result("not ok a"), Ok(("a", Outcome::Failed)));
        assert_eq!(result("# a"), Err("# a"));
    }
}
