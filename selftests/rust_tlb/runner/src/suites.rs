// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Runs every test there is: on the host, in the kernel as it boots, and in the guest.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::bindings_layout;
use crate::cargo_test;
use crate::guest::{self, SUITE_ENDS, SUITE_STARTS};
use crate::kernel_log;
use crate::ktap::{Outcome, Reader, TestResult};
use crate::output;
use crate::places::Places;
use crate::tally::Tally;
use crate::test_list::{self, Kind, Test};
use crate::vm::{Ended, Ending, Machine, Session};

/// Binaries of the workspace that are named so are suites for the guest.
const SUITE_PREFIX: &str = "rust-tlb-test-";
/// How long one suite may take, in seconds. The slowest takes a tenth of it on two cores under TCG.
const SUITE_LIMIT: u64 = 180;
/// How long the machine may take beside its suites.
const BOOT_LIMIT: u64 = 120;

/// Runs all tests. Whatever fails on the way, the last line says how many.
pub fn run_all(places: &Places, machine: impl FnOnce() -> Result<Machine>) -> Result<ExitCode> {
    let listed = test_list::read(&places.workspace().join("tests.list"))?;
    let mut tally = Tally::default();

    output::step("tests that need no booted kernel");
    let suites = run_host_tests(places, &mut tally)?;
    if let Err(error) = bindings_layout::run(&places.kernel("test")?, places, &mut tally) {
        tally.fail(format!("bindings layout: {error:#}"));
    }
    let machine = machine()?;
    if let Err(error) = run_guest(&machine, places, &suites, &listed, &mut tally) {
        tally.fail(format!("the test kernel: {error:#}"));
    }
    tally.compare_with(&listed);
    Ok(tally.conclude())
}

/// Runs the packages' tests; returns the guest's suites as (name, binary).
fn run_host_tests(places: &Places, tally: &mut Tally) -> Result<Vec<(String, String)>> {
    let mut suites = Vec::new();
    for package in cargo_test::packages(places)? {
        cargo_test::run(places, &package.name, tally)?;
        for binary in package.binaries {
            if let Some(suite) = binary.strip_prefix(SUITE_PREFIX) {
                let path = places.bin.join(&binary).display().to_string();
                suites.push((suite.to_string(), path));
            }
        }
    }
    Ok(suites)
}

fn run_guest(
    machine: &Machine,
    places: &Places,
    suites: &[(String, String)],
    listed: &[Test],
    tally: &mut Tally,
) -> Result<()> {
    let session = Session {
        name: "boot".into(),
        script: guest::suites_script(&machine.kernel.module(), suites, SUITE_LIMIT),
        limit: Duration::from_secs(BOOT_LIMIT + SUITE_LIMIT * suites.len() as u64),
    };
    let mut reading = Reading::new(listed, tally);
    let ended = {
        let reading = std::cell::RefCell::new(&mut reading);
        machine.run(
            &session,
            places,
            &mut |line| reading.borrow_mut().guest_line(line),
            &mut |line| reading.borrow_mut().console_line(line),
        )?
    };
    reading.finish(&ended);
    Ok(())
}

/// Turns what comes out of the machine into results.
struct Reading<'a> {
    listed: &'a [Test],
    tally: &'a mut Tally,
    kunit: Reader,
    /// Of the suite that runs, so far.
    kunit_cases: usize,
    suite: Option<Suite>,
    complained: bool,
}

/// The suite that runs.
struct Suite {
    name: String,
    reader: Reader,
    any_failed: bool,
}

impl<'a> Reading<'a> {
    fn new(listed: &'a [Test], tally: &'a mut Tally) -> Self {
        Self {
            listed,
            tally,
            kunit: Reader::default(),
            kunit_cases: 0,
            suite: None,
            complained: false,
        }
    }

    fn guest_line(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix(SUITE_STARTS) {
            output::note(&format!("suite {name}"));
            self.suite = Some(Suite {
                name: name.into(),
                reader: Reader::default(),
                any_failed: false,
            });
        } else if let Some(rest) = line.strip_prefix(SUITE_ENDS) {
            let status = rest.split(' ').next().unwrap_or_default();
            self.suite_ended(status);
        } else if let Some(suite) = &mut self.suite {
            match suite.reader.line(line) {
                Some(result) => {
                    suite.any_failed |= result.outcome == Outcome::Failed;
                    let test = Test::new(Kind::Vm, &suite.name, Some(&result.path.join("/")));
                    self.tally.record(test, &result.outcome);
                }
                None => show_diagnostics(line),
            }
        } else {
            println!("  {line}");
        }
    }

    /// A suite that failed has said so in its results. One that left some out, or ended badly
    /// without a word, is a failure of its own.
    fn suite_ended(&mut self, status: &str) {
        let Some(suite) = self.suite.take() else {
            return;
        };
        let why = match status {
            "124" | "137" => format!("was still running after {SUITE_LIMIT} s"),
            _ => format!("ended with status {status}"),
        };
        let missing = suite.reader.missing();
        if missing > 0 || (status != "0" && !suite.any_failed) {
            let name = suite.name;
            self.tally.fail(format!(
                "vm {name}: {why}, {missing} tests without a result"
            ));
        }
    }

    fn console_line(&mut self, line: &str) {
        let text = kernel_log::without_stamp(line);
        if let Some(result) = self.kunit.line(text) {
            self.kunit_result(&result);
        }
        if kernel_log::complaint(line).is_some() {
            if !self.complained {
                let during = self.suite.as_ref().map_or("no suite", |suite| &suite.name);
                println!("  kernel, about when {during} ran: {text}");
            }
            self.complained = true;
        }
    }

    fn kunit_result(&mut self, result: &TestResult) {
        match &result.path[..] {
            [suite] => {
                let verdict = if result.outcome == Outcome::Failed {
                    "FAILED "
                } else {
                    "ok     "
                };
                println!("  {verdict} kunit {suite}, {} tests", self.kunit_cases);
                self.kunit_cases = 0;
            }
            [suite, case @ ..] if !result.is_suite => {
                self.kunit_cases += 1;
                let whole = Test::new(Kind::Kunit, suite, None);
                self.tally
                    .record_quietly(&whole, &case.join("/"), &result.outcome);
            }
            _ => {}
        }
    }

    /// After the machine has gone: what it owes, and whether its kernel was content.
    fn finish(&mut self, ended: &Ended) {
        let fine = output::show_kernel_problems(ended);
        if let Ending::Exited(97) = ended.ending {
            self.tally.fail("the module does not load".into());
        }
        let outcome = if fine {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        if self.listed.iter().any(|test| test.kind == Kind::Kernel) {
            self.tally
                .record(Test::new(Kind::Kernel, "log", None), &outcome);
        }
        if let Some(suite) = self.suite.take() {
            let name = suite.name;
            self.tally
                .fail(format!("vm {name}: the machine went down in it"));
        }
    }
}

/// A suite's `# …` lines are worth seeing; its plan and version are not.
fn show_diagnostics(line: &str) {
    if !line.starts_with("KTAP version") && !line.starts_with("1..") {
        println!("          {line}");
    }
}
