// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Runs every test there is: on the host, in the kernel as it boots, and in the guest.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Result};

use crate::accel::Threads;
use crate::bindings_layout;
use crate::cargo_test::{self, Package};
use crate::guest;
use crate::output;
use crate::places::Places;
use crate::reading::Reading;
use crate::setup;
use crate::tally::Tally;
use crate::test_list::{self, Kind, Selection, Test};
use crate::vm::{Machine, Session};

/// Binaries of the workspace that are named so are suites for the guest.
const SUITE_PREFIX: &str = "rust-tlb-test-";
/// How long one suite may take, in seconds, whatever it does. One that hangs ends much earlier: it
/// makes no progress. The slowest takes a small fraction of this on two cores under TCG, if they have
/// nothing else to do.
const SUITE_LIMIT: u64 = 900;
/// How long the machine may take beside its suites.
const BOOT_LIMIT: u64 = 120;

/// Suites about what happens at the same time: not in slices of time, if that can be helped.
const CONCURRENT: [&str; 16] = [
    "binder",
    "gup",
    "lifecycle",
    "mremap",
    "neighbours",
    "oracle",
    "others",
    "owed",
    "pfnmap",
    "pressure",
    "races",
    "scope",
    "stress",
    "tables",
    "twophase",
    "writeback",
];
/// Suites that use up all memory.
const WITH_LITTLE_MEMORY: [&str; 1] = ["small"];

/// A suite's name and its binary.
type Suite = (String, String);

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

    output::step("tests that need no booted kernel");
    run_host_tests(places, &packages, &selection, &mut tally)?;
    if listed.iter().any(|test| test.kind == Kind::Setup) {
        setup::run(places, &mut tally)?;
    }
    if listed.iter().any(|test| test.kind == Kind::Bindings) {
        if let Err(error) = bindings_layout::run(&places.kernel("test")?, places, &mut tally) {
            tally.fail(format!("bindings layout: {error:#}"));
        }
    }
    let needs_guest = |test: &Test| matches!(test.kind, Kind::Kunit | Kind::Vm | Kind::Kernel);
    if listed.iter().any(needs_guest) {
        let suites = guest_suites(places, &packages, &listed, &selection);
        // The first boot has them, whatever else it is for.
        let with_kunit = listed.iter().any(|test| test.kind == Kind::Kunit);
        if let Err(error) = run_guests(machine()?, places, suites, with_kunit, &mut tally) {
            tally.fail(format!("the test kernel: {error:#}"));
        }
    }
    tally.compare_with(&listed);
    Ok(tally.conclude())
}

fn run_host_tests(
    places: &Places,
    packages: &[Package],
    selection: &Selection,
    tally: &mut Tally,
) -> Result<()> {
    packages
        .iter()
        .filter(|package| selection.contains(&Test::new(Kind::Host, &package.name, None)))
        .try_for_each(|package| cargo_test::run(places, &package.name, tally))
}

/// The guest's suites: all there are, in the list or not, unless some are asked for.
fn guest_suites(
    places: &Places,
    packages: &[Package],
    listed: &[Test],
    selection: &Selection,
) -> Vec<Suite> {
    let is_listed = |suite: &str| {
        let mut tests = listed.iter().filter(|test| test.kind == Kind::Vm);
        tests.any(|test| test.suite == suite)
    };
    let binaries = packages.iter().flat_map(|package| &package.binaries);
    binaries
        .filter_map(|binary| Some((binary.strip_prefix(SUITE_PREFIX)?, binary)))
        .filter(|(suite, _)| selection.is_all() || is_listed(suite))
        .map(|(suite, binary)| (suite.into(), places.bin.join(binary).display().to_string()))
        .collect()
}

/// In one boot with KUnit's tests, one more where it is slow to run all CPUs at the same time, and one
/// with little memory; those that are for nothing are left out.
fn run_guests(
    machine: Machine,
    places: &Places,
    suites: Vec<Suite>,
    with_kunit: bool,
    tally: &mut Tally,
) -> Result<()> {
    let (small, suites) = split(suites, &WITH_LITTLE_MEMORY);
    let (concurrent, others) = match machine.threads {
        Threads::Sliced | Threads::Counted => split(suites, &CONCURRENT),
        _ => (Vec::new(), suites),
    };
    let nothing_else = concurrent.is_empty() && small.is_empty();
    if with_kunit || !others.is_empty() || nothing_else {
        run_guest(&machine, places, "boot", &others, tally)?;
    }
    if !small.is_empty() {
        output::note("a machine with little memory");
        let little = machine.with_little_memory();
        run_guest(&little, places, "boot-small", &small, tally)?;
    }
    if !concurrent.is_empty() {
        output::note("a machine with CPUs that run at the same time");
        let parallel = machine.in_parallel();
        run_guest(&parallel, places, "boot-parallel", &concurrent, tally)?;
    }
    Ok(())
}

/// Those that `names` has, and the others.
fn split(suites: Vec<Suite>, names: &[&str]) -> (Vec<Suite>, Vec<Suite>) {
    let is_named = |(name, _): &Suite| names.contains(&name.as_str());
    suites.into_iter().partition(is_named)
}

fn run_guest(
    machine: &Machine,
    places: &Places,
    name: &str,
    suites: &[Suite],
    tally: &mut Tally,
) -> Result<()> {
    let session = Session {
        name: name.into(),
        script: guest::suites_script(&machine.kernel.module(), suites, SUITE_LIMIT),
        limit: Duration::from_secs(BOOT_LIMIT + SUITE_LIMIT * suites.len() as u64),
    };
    let mut reading = Reading::new(tally, SUITE_LIMIT);
    let ended = machine.run(&session, places, &mut |said| reading.said(said))?;
    reading.finish(&ended);
    Ok(())
}
