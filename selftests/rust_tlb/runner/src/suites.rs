// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Runs every test there is: on the host, in the kernel as it boots, and in the guest.

use std::process::ExitCode;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{bail, Result};

use crate::accel::Threads;
use crate::bindings_layout;
use crate::cargo_test;
use crate::guest;
use crate::listener::Said;
use crate::output;
use crate::places::Places;
use crate::reading::Reading;
use crate::setup;
use crate::tally::Tally;
use crate::test_list::{self, Kind, Selection, Test};
use crate::vm::{Ended, Machine, Session};
use crate::without_faults;

/// The binary that has all suites for the guest.
const TESTS: &str = "rust-tlb-test";
/// How long one suite may take, in seconds, whatever it does. One that hangs ends much earlier: it
/// makes no progress. The slowest takes a small fraction of this on two cores under TCG, if they have
/// nothing else to do.
const SUITE_LIMIT: u64 = 900;
/// How long the machine may take beside its suites.
const BOOT_LIMIT: u64 = 120;

/// Suites about what happens at the same time: not in slices of time, if that can be helped.
const CONCURRENT: [&str; 16] = [
    "binder",
    "folios",
    "gup",
    "huge",
    "moves",
    "mremap",
    "neighbours",
    "oracle",
    "others",
    "owed",
    "pfnmap",
    "races",
    "stress",
    "tables",
    "twophase",
    "writeback",
];
/// Suites that use up all memory.
const WITH_LITTLE_MEMORY: [&str; 1] = ["small"];

/// A suite's name and its command.
type Suite = (String, Vec<String>);

/// Runs the selected tests. Whatever fails on the way, the last line says how many.
pub fn run_all(
    places: &Places,
    selection: Selection,
    machine: impl FnOnce() -> Result<Machine>,
) -> Result<ExitCode> {
    let mut listed = test_list::read(&places.workspace().join("tests.list"))?;
    listed.retain(|test| selection.contains(test));
    if listed.is_empty() {
        bail!("no line of tests.list contains that");
    }
    let packages = cargo_test::packages(places)?;
    let mut tally = Tally::of(selection.clone());

    let needs_guest = |test: &Test| matches!(test.kind, Kind::Kunit | Kind::Vm | Kind::Kernel);
    let boots = match listed.iter().any(needs_guest).then(machine) {
        None => Boots::default(),
        Some(Ok(machine)) => {
            let suites = guest_suites(places, &listed);
            // The first boot has them, whatever else it is for.
            let with_kunit = listed.iter().any(|test| test.kind == Kind::Kunit);
            Boots::of(machine, suites, with_kunit)
        }
        Some(Err(error)) => {
            tally.fail(format!("the test kernel: {error:#}"));
            Boots::default()
        }
    };
    boots.run_beside(places, &mut tally, |tally| {
        output::step("tests that need no booted kernel");
        run_host_tests(places, &packages, &selection, tally)?;
        if listed.iter().any(|test| test.kind == Kind::Setup) {
            setup::run(places, tally)?;
        }
        if listed.iter().any(|test| test.kind == Kind::Bindings) {
            if let Err(error) = bindings_layout::run(&places.kernel("test")?, places, tally) {
                tally.fail(format!("bindings layout: {error:#}"));
            }
        }
        if listed.iter().any(|test| test.kind == Kind::Build) {
            if let Err(error) = without_faults::run(&places.kernel("test")?, places, tally) {
                tally.fail(format!("build without_faults: {error:#}"));
            }
        }
        Ok(())
    })?;
    tally.compare_with(&listed);
    Ok(tally.conclude())
}

fn run_host_tests(
    places: &Places,
    packages: &[String],
    selection: &Selection,
    tally: &mut Tally,
) -> Result<()> {
    packages
        .iter()
        .filter(|package| selection.contains(&Test::new(Kind::Host, package, None)))
        .try_for_each(|package| cargo_test::run(places, package, tally))
}

/// The guest's suites that are listed. That the list has all there are, a test of the guest's sees to.
fn guest_suites(places: &Places, listed: &[Test]) -> Vec<Suite> {
    let binary = places.bin.join(TESTS).display().to_string();
    let mut names: Vec<_> = listed
        .iter()
        .filter(|test| test.kind == Kind::Vm)
        .map(|test| &test.suite)
        .collect();
    names.dedup();
    names
        .into_iter()
        .map(|name| (name.clone(), vec![binary.clone(), name.clone()]))
        .collect()
}

/// Those that `names` has, and the others.
fn split(suites: Vec<Suite>, names: &[&str]) -> (Vec<Suite>, Vec<Suite>) {
    let is_named = |(name, _): &Suite| names.contains(&name.as_str());
    suites.into_iter().partition(is_named)
}

/// The boots that the guest's suites take; those that are for nothing are left out.
#[derive(Default)]
struct Boots {
    /// With KUnit's tests.
    first: Option<Boot>,
    /// With little memory. Follows the first.
    small: Option<Boot>,
    /// Once more where it is slow to run all CPUs at the same time, for those that want just that.
    parallel: Option<Boot>,
}

/// One boot, and what it is for.
struct Boot {
    machine: Machine,
    name: &'static str,
    suites: Vec<Suite>,
}

/// What came out of a boot that nobody looked at meanwhile.
struct Kept {
    said: Vec<Said>,
    ended: Ended,
}

impl Boots {
    fn of(machine: Machine, suites: Vec<Suite>, with_kunit: bool) -> Self {
        let (small, suites) = split(suites, &WITH_LITTLE_MEMORY);
        let (concurrent, others) = match machine.threads {
            Threads::Sliced | Threads::Counted => split(suites, &CONCURRENT),
            _ => (Vec::new(), suites),
        };
        let nothing_else = concurrent.is_empty() && small.is_empty();
        let boot = |needed: bool, machine, name, suites| {
            needed.then_some(Boot {
                machine,
                name,
                suites,
            })
        };
        let little = machine.with_little_memory();
        let parallel = machine.in_parallel();
        Self {
            small: boot(!small.is_empty(), little, "boot-small", small),
            parallel: boot(
                !concurrent.is_empty(),
                parallel,
                "boot-parallel",
                concurrent,
            ),
            first: boot(
                with_kunit || !others.is_empty() || nothing_else,
                machine,
                "boot",
                others,
            ),
        }
    }

    /// Runs them, at most two at a time: `others` and the one where all CPUs run at the same time, beside
    /// those where they take turns, which keep one of the host's busy.
    fn run_beside(
        &self,
        places: &Places,
        tally: &mut Tally,
        others: impl FnOnce(&mut Tally) -> Result<()>,
    ) -> Result<()> {
        let beside = self.first.iter().chain(&self.small);
        thread::scope(|scope| {
            let beside = scope.spawn(|| beside.map(|boot| boot.keep(places)).collect::<Vec<_>>());
            others(tally)?;
            if let Some(parallel) = &self.parallel {
                output::note("a machine with CPUs that run at the same time");
                if let Err(error) = parallel.run(places, tally) {
                    tally.fail(format!("the test kernel: {error:#}"));
                }
            }
            show(beside, tally);
            Ok(())
        })
    }
}

/// Shows what came out of boots that went on beside something else.
fn show(beside: ScopedJoinHandle<'_, Vec<Result<Kept>>>, tally: &mut Tally) {
    for boot in beside.join().expect("a boot does not panic") {
        output::note("a machine that was started before");
        match boot {
            Ok(kept) => kept.show(tally),
            Err(error) => tally.fail(format!("the test kernel: {error:#}")),
        }
    }
}

impl Boot {
    fn session(&self) -> Session {
        Session {
            name: self.name.into(),
            script: guest::suites_script(&self.machine.kernel.module(), &self.suites, SUITE_LIMIT),
            limit: Duration::from_secs(BOOT_LIMIT + SUITE_LIMIT * self.suites.len() as u64),
        }
    }

    /// Shows what comes out of it as it comes.
    fn run(&self, places: &Places, tally: &mut Tally) -> Result<()> {
        let mut reading = Reading::new(tally, SUITE_LIMIT);
        let ended = self
            .machine
            .run(&self.session(), places, &mut |said| reading.said(said))?;
        reading.finish(&ended);
        Ok(())
    }

    /// Keeps what comes out of it.
    fn keep(&self, places: &Places) -> Result<Kept> {
        let mut kept = Vec::new();
        let machine = self.machine.quietly();
        let ended = machine.run(&self.session(), places, &mut |said| kept.push(said.clone()))?;
        Ok(Kept { said: kept, ended })
    }
}

impl Kept {
    fn show(&self, tally: &mut Tally) {
        let mut reading = Reading::new(tally, SUITE_LIMIT);
        self.said.iter().for_each(|said| reading.said(said));
        reading.finish(&self.ended);
    }
}
