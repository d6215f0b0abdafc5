// SPDX-License-Identifier: GPL-2.0

//! Runs the tests of a suite and reports in KTAP, version 1.
//!
//! Each test runs in a process of its own: a crash, a deadlock or a leftover child of one does not
//! reach the next. What a test prints is a diagnostic, in lines that start with `# `.

use core::time::Duration;
use std::fmt;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Instant;
use std::{fs::File, panic};

use anyhow::{bail, Result};
use clap::{Args, Parser};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{self, Pid, Signal, WaitOptions, WaitStatus};

use crate::child::{self, Child};
use crate::cpu;
use crate::progress;

/// Which suite is to be run, and how.
#[derive(Parser, Debug)]
#[command(about = "A suite of /dev/rust-tlb's selftests; reports in KTAP")]
struct Arguments {
    /// The suite; all there are, to list them
    #[arg(required_unless_present = "list")]
    suite: Option<String>,
    /// List the tests instead of running them
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    options: Options,
}

/// How a suite is to be run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Run only the tests whose name contains one of these
    pub filter: Vec<String>,
    /// Seed of whatever is random
    #[arg(long, env = "RUST_TLB_SEED", default_value_t = 1)]
    pub seed: u64,
    /// Multiplies the rounds of repeated tests
    #[arg(long, env = "RUST_TLB_EFFORT", default_value_t = 1)]
    pub effort: u32,
}

impl Options {
    /// A source of random numbers for one test.
    pub fn rng(&self) -> fastrand::Rng {
        println!("# seed {}", self.seed);
        fastrand::Rng::with_seed(self.seed)
    }

    fn selects(&self, name: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|part| name.contains(part))
    }
}

/// A suite: its name and its tests.
pub type Suite = (&'static str, &'static [Test]);

/// A test of a suite.
pub struct Test {
    pub name: &'static str,
    pub run: fn(&Options) -> Result<()>,
    /// Seconds without [`progress`] after which it counts as hung.
    pub limit_s: u64,
}

/// The tests of a suite: names of functions, some with a patience in seconds of their own.
#[macro_export]
macro_rules! tests {
    ($($name:ident $(within $limit_s:literal)?),* $(,)?) => {
        /// The tests, in the order in which they run.
        pub const TESTS: &[$crate::ktap::Test] = &[$(
            $crate::ktap::Test {
                name: stringify!($name),
                run: $name,
                limit_s: $crate::tests!(@limit $($limit_s)?),
            },
        )*];
    };
    (@limit) => { $crate::ktap::DEFAULT_LIMIT_S };
    (@limit $limit_s:literal) => { $limit_s };
}

/// Seconds that a step of a test may take unless it says otherwise.
pub const DEFAULT_LIMIT_S: u64 = 60;

/// Seconds from which on it is said how long a test took.
const WORTH_SAYING_S: u64 = 4;

/// The reason why a test cannot run here, as an error.
#[derive(Debug)]
struct Skipped(String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Skipped {}

/// Ends a test without a verdict: a feature that it needs is not there.
pub fn skip(reason: impl Into<String>) -> Result<()> {
    Err(Skipped(reason.into()).into())
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

impl Outcome {
    fn line(&self, number: usize, name: &str) -> String {
        match self {
            Self::Passed => format!("ok {number} {name}"),
            Self::Skipped(reason) => format!("ok {number} {name} # SKIP {reason}"),
            Self::Failed(reason) => format!("# {name}: {reason}\nnot ok {number} {name}"),
        }
    }
}

const CODE_PASSED: i32 = 0;
const CODE_FAILED: i32 = 1;
/// As `KSFT_SKIP` of the kernel's own harness.
const CODE_SKIPPED: i32 = 4;

/// The main function of the selftests: runs one of the suites, as the command line says.
pub fn main(suites: &[Suite]) -> ExitCode {
    let Arguments {
        suite,
        list,
        options,
    } = Arguments::parse();
    let chosen = suites
        .iter()
        .filter(|(name, _)| suite.as_deref().is_none_or(|suite| suite == *name));
    if list {
        chosen.for_each(|(name, tests)| {
            tests
                .iter()
                .for_each(|test| println!("{name} {}", test.name))
        });
        return ExitCode::SUCCESS;
    }
    match one_of(chosen).and_then(|tests| prepare().and_then(|()| run_all(tests, &options))) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn one_of<'a>(mut chosen: impl Iterator<Item = &'a Suite>) -> Result<&'static [Test]> {
    match chosen.next() {
        Some((_, tests)) => Ok(tests),
        None => bail!("no such suite: --list shows them"),
    }
}

fn prepare() -> Result<()> {
    panic::set_hook(Box::new(|info| {
        println!("# {}", info.to_string().replace('\n', ": "))
    }));
    // Orphans of a test become our children, so that they can be waited for.
    process::set_child_subreaper(Some(process::getpid()))?;
    progress::begin()?;
    cpu::pin_driver()
}

/// Returns the number of failed tests.
fn run_all(tests: &[Test], options: &Options) -> Result<usize> {
    let chosen = || tests.iter().filter(|test| options.selects(test.name));
    println!("KTAP version 1\n1..{}", chosen().count());
    let (mut nr_passed, mut nr_failed, mut nr_skipped) = (0, 0, 0);
    for (index, test) in chosen().enumerate() {
        let started = Instant::now();
        let outcome = run_one(test, options)?;
        let took_s = started.elapsed().as_secs();
        if took_s >= WORTH_SAYING_S {
            println!("# {took_s} s:");
        }
        match outcome {
            Outcome::Passed => nr_passed += 1,
            Outcome::Failed(_) => nr_failed += 1,
            Outcome::Skipped(_) => nr_skipped += 1,
        }
        println!("{}", outcome.line(index + 1, test.name));
    }
    println!(
        "# Totals: pass:{nr_passed} fail:{nr_failed} xfail:0 xpass:0 skip:{nr_skipped} error:0"
    );
    Ok(nr_failed)
}

fn run_one(test: &Test, options: &Options) -> Result<Outcome> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let mut child = Child::fork_with_code(|| run_test(test, options, File::from(writer)))?;
    let group = child.pid();
    let ended = wait_while_it_gets_on(&mut child, test.limit_s)?;
    // Killed and reaped now, if it has hung.
    drop(child);
    end_group(group)?;
    Ok(match ended {
        None => Outcome::Failed(format!("took no step in {} s", test.limit_s)),
        Some(status) => judge(status, File::from(reader)),
    })
}

/// Waits for the end, but not if no step comes for `patience_s` seconds.
fn wait_while_it_gets_on(child: &mut Child, patience_s: u64) -> Result<Option<WaitStatus>> {
    let (mut nr_steps, mut idle_s) = (progress::nr_steps(), 0);
    while idle_s < patience_s {
        let ended = child.wait_for(Duration::from_secs(1))?;
        if ended.is_some() {
            return Ok(ended);
        }
        idle_s = if progress::nr_steps() == nr_steps {
            idle_s + 1
        } else {
            0
        };
        nr_steps = progress::nr_steps();
    }
    Ok(None)
}

/// The test's process: runs it, and writes down why it was skipped.
fn run_test(test: &Test, options: &Options, mut reason: File) -> i32 {
    // A group of its own, so that whatever it forks can be killed with it.
    if let Err(error) = process::setpgid(None, None)
        .map_err(Into::into)
        .and_then(|()| (test.run)(options))
    {
        return match error.downcast::<Skipped>() {
            Ok(skipped) => {
                // A reason that does not fit in the pipe is cut off.
                let _ = reason.write(skipped.0.as_bytes());
                CODE_SKIPPED
            }
            Err(error) => {
                println!("# {error:#}");
                CODE_FAILED
            }
        };
    }
    CODE_PASSED
}

fn judge(status: WaitStatus, mut reason: File) -> Outcome {
    match status.exit_status() {
        Some(CODE_PASSED) => Outcome::Passed,
        Some(CODE_SKIPPED) => {
            let mut text = [0; 512];
            let len = reason.read(&mut text).unwrap_or(0);
            Outcome::Skipped(String::from_utf8_lossy(&text[..len]).into_owned())
        }
        _ => Outcome::Failed(child::describe(status)),
    }
}

/// Kills what is left of a test and waits until it is gone, so that none of its mappings and open
/// files reach the next test.
fn end_group(group: Pid) -> Result<()> {
    // Fails if nobody is left, which is the usual case.
    let _ = process::kill_process_group(group, Signal::KILL);
    for _ in 0..1000 {
        match process::waitpgid(group, WaitOptions::NOHANG) {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(_)) => {}
            Err(_) => return Ok(()),
        }
    }
    anyhow::bail!("a process of the test cannot be killed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Arguments::parse_from(["test", "suite"]).options
    }

    fn outcome(run: fn(&Options) -> Result<()>, limit_s: u64) -> Outcome {
        let test = Test {
            name: "t",
            run,
            limit_s,
        };
        run_one(&test, &options()).unwrap()
    }

    #[test]
    fn tells_outcomes_apart() {
        assert_eq!(outcome(|_| Ok(()), 60), Outcome::Passed);
        assert_eq!(
            outcome(|_| skip("no CPU"), 60),
            Outcome::Skipped("no CPU".into())
        );
        assert_eq!(
            outcome(|_| panic!("why"), 60),
            Outcome::Failed("exited with 1".into())
        );
        assert_eq!(
            outcome(|_| anyhow::bail!("x"), 60),
            Outcome::Failed("exited with 1".into())
        );
    }

    #[test]
    fn a_test_that_hangs_has_failed() {
        let hang = |_: &Options| loop {
            std::thread::sleep(Duration::from_secs(1));
        };
        assert_eq!(
            outcome(hang, 1),
            Outcome::Failed("took no step in 1 s".into())
        );
    }

    #[test]
    fn a_test_that_is_slow_has_not() {
        progress::begin().unwrap();
        let slow = |_: &Options| {
            for _ in 0..6 {
                std::thread::sleep(Duration::from_millis(500));
                progress::step();
            }
            Ok(())
        };
        assert_eq!(outcome(slow, 2), Outcome::Passed);
    }

    #[test]
    fn a_crash_has_a_signal() {
        // Not SIGSEGV: the Rust runtime returns from one that is merely sent.
        let crash = |_: &Options| {
            process::kill_process(process::getpid(), Signal::ABORT)?;
            Ok(())
        };
        assert_eq!(
            outcome(crash, 60),
            Outcome::Failed("was killed by signal 6".into())
        );
    }

    #[test]
    fn lines_are_ktap() {
        assert_eq!(Outcome::Passed.line(1, "a"), "ok 1 a");
        assert_eq!(Outcome::Skipped("r".into()).line(2, "a"), "ok 2 a # SKIP r");
        assert_eq!(
            Outcome::Failed("r".into()).line(3, "a"),
            "# a: r\nnot ok 3 a"
        );
    }
}
