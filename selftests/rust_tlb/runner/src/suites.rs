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
use crate::tally::Tally;
use crate::test_list::{self, Kind, Selection, Test};
use crate::vm::{Machine, Session};

/// Binaries of the workspace that are named so are suites for the guest.
const SUITE_PREFIX: &str = "rust-tlb-test-";
/// How long one suite may take, in seconds. The slowest takes a fraction of it on two cores under
/// TCG, if they have nothing else to do.
const SUITE_LIMIT: u64 = 180;
/// How long the machine may take beside its suites.
const BOOT_LIMIT: u64 = 120;

/// Suites about what happens at the same time: not in slices of time, if that can be helped.
const CONCURRENT: [&str; 6] = [
    "lifecycle",
    "oracle",
    "others",
    "races",
    "stress",
    "writeback",
];

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
    if listed.iter().any(|test| test.kind == Kind::Bindings) {
        if let Err(error) = bindings_layout::run(&places.kernel("test")?, places, &mut tally) {
            tally.fail(format!("bindings layout: {error:#}"));
        }
    }
    let needs_guest = |test: &Test| matches!(test.kind, Kind::Kunit | Kind::Vm | Kind::Kernel);
    if listed.iter().any(needs_guest) {
        let suites = guest_suites(places, &packages, &listed, &selection);
        if let Err(error) = run_guests(machine()?, places, suites, &mut tally) {
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

/// The guest's suites, as (name, binary): all there are, in the list or not, unless some are asked
/// for.
fn guest_suites(
    places: &Places,
    packages: &[Package],
    listed: &[Test],
    selection: &Selection,
) -> Vec<(String, String)> {
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

/// In one boot, or in two where it is slow to run all CPUs at the same time.
fn run_guests(
    machine: Machine,
    places: &Places,
    suites: Vec<(String, String)>,
    tally: &mut Tally,
) -> Result<()> {
    if machine.threads == Threads::Parallel {
        return run_guest(&machine, places, &suites, tally);
    }
    let is_concurrent = |(name, _): &(String, String)| CONCURRENT.contains(&name.as_str());
    let (concurrent, others): (Vec<_>, Vec<_>) = suites.into_iter().partition(is_concurrent);
    if concurrent.is_empty() {
        return run_guest(&machine, places, &others, tally);
    }
    run_guest(&machine, places, &others, tally)?;
    output::note("and again, with CPUs that run at the same time");
    run_guest(&machine.in_parallel(), places, &concurrent, tally)
}

fn run_guest(
    machine: &Machine,
    places: &Places,
    suites: &[(String, String)],
    tally: &mut Tally,
) -> Result<()> {
    let session = Session {
        name: match machine.threads {
            Threads::Parallel => "boot-parallel".into(),
            Threads::Sliced => "boot".into(),
        },
        script: guest::suites_script(&machine.kernel.module(), suites, SUITE_LIMIT),
        limit: Duration::from_secs(BOOT_LIMIT + SUITE_LIMIT * suites.len() as u64),
    };
    let mut reading = Reading::new(tally, SUITE_LIMIT);
    let ended = machine.run(&session, places, &mut |said| reading.said(said))?;
    reading.finish(&ended);
    Ok(())
}
