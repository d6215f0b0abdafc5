// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Counts results, shows each as it comes, and has the last word.

use std::process::ExitCode;

use crate::ktap::Outcome;
use crate::test_list::{self, Kind, Selection, Test};

/// All results of a run.
#[derive(Default)]
pub struct Tally {
    selection: Selection,
    /// Every test that has a result, in order.
    seen: Vec<Test>,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Tally {
    /// Counts those tests that are selected.
    pub fn of(selection: Selection) -> Self {
        Self {
            selection,
            ..Self::default()
        }
    }

    /// Counts one test, and shows it. What the kernel complains of counts whatever is selected.
    pub fn record(&mut self, test: Test, outcome: &Outcome) {
        if self.selection.contains(&test) {
            self.count(&test.to_string(), outcome);
            self.seen.push(test);
        } else if test.kind == Kind::Kernel && *outcome == Outcome::Failed {
            self.fail(test.to_string());
        }
    }

    /// Counts one test that is seen as part of `whole` and has no entry of its own in the list.
    pub fn record_within(&mut self, whole: &Test, name: &str, outcome: &Outcome) {
        if self.selection.contains(whole) {
            self.count(&format!("{whole} {name}"), outcome);
            self.note_seen(whole);
        }
    }

    /// As [`Self::record_within`], but a test that passed is not worth a line: there are hundreds.
    pub fn record_quietly(&mut self, whole: &Test, name: &str, outcome: &Outcome) {
        if *outcome == Outcome::Passed && self.selection.contains(whole) {
            self.passed += 1;
            self.note_seen(whole);
        } else {
            self.record_within(whole, name, outcome);
        }
    }

    fn note_seen(&mut self, test: &Test) {
        if self.seen.last() != Some(test) {
            self.seen.push(test.clone());
        }
    }

    /// Counts something that went wrong and is no test, and shows it.
    pub fn fail(&mut self, what: String) {
        println!("  FAILED  {what}");
        self.failed.push(what);
    }

    /// Counts what the list and the run disagree about, for the end.
    pub fn compare_with(&mut self, listed: &[Test]) {
        self.failed
            .extend(test_list::differences(listed, &self.seen));
    }

    /// How many passed, what failed, how many were skipped.
    #[cfg(test)]
    pub fn so_far(&self) -> (usize, &[String], usize) {
        (self.passed, &self.failed, self.skipped)
    }

    /// Says how it went: what failed, then one line of numbers, which is the last.
    pub fn conclude(&self) -> ExitCode {
        if !self.failed.is_empty() {
            println!("\n{} failed:", self.failed.len());
            self.failed.iter().for_each(|what| println!("  {what}"));
            println!();
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        );
        if self.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn count(&mut self, name: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => {
                println!("  ok      {name}");
                self.passed += 1;
            }
            Outcome::Failed => self.fail(name.into()),
            Outcome::Skipped(reason) => {
                println!("  skipped {name}: {reason}");
                self.skipped += 1;
            }
        }
    }
}
