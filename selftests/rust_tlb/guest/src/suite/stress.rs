// SPDX-License-Identifier: GPL-2.0

//! Everything at once and at random, for a while: see [`crate::stress`].

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};

use crate::abi::strategy;
use crate::device::Device;
use crate::ktap;
use crate::stress::{self, Options};

crate::tests! {
    thousands_of_operations_without_a_finding within 120,
    the_same_seed_makes_the_same_choices,
    a_missing_flush_is_found,
}

/// Seconds after which a run is ended that has not done what it was asked for.
const LIMIT_S: u64 = 600;

/// Sixty times as many as it takes to find a flush that is missing.
fn thousands_of_operations_without_a_finding(options: &ktap::Options) -> Result<()> {
    const NR_OPERATIONS: u64 = 500;
    let asked = Options {
        seed: Some(options.seed),
        duration: LIMIT_S,
        operations: Some(NR_OPERATIONS * u64::from(options.effort)),
        ..Options::default()
    };
    let summary = stress::run(&asked)?;
    summary.expect_silence()?;
    let nr = summary.nr_operations;
    let all = asked.operations.map(|each| each * asked.nr_workers());
    ensure!(Some(nr) == all, "{nr} operations, not {all:?}");
    Ok(())
}

/// The choices of a short run, as its log has them.
fn choices(seed: u64, run: u32) -> Result<String> {
    let log: PathBuf = env::temp_dir().join(format!("rust-tlb-stress-{seed}-{run}"));
    let options = Options {
        seed: Some(seed),
        duration: 20,
        operations: Some(200),
        processes: 1,
        threads: 1,
        log: Some(log.clone()),
        ..Options::default()
    };
    stress::run(&options)?.expect_silence()?;
    let path = log.with_extension("0");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    fs::remove_file(&path)?;
    Ok(text)
}

fn the_same_seed_makes_the_same_choices(options: &ktap::Options) -> Result<()> {
    let first = choices(options.seed, 1)?;
    let nr_choices = first.lines().count();
    ensure!(nr_choices == 200, "{nr_choices} choices in 20 s");
    ensure!(first == choices(options.seed, 2)?, "the same seed");
    ensure!(first != choices(options.seed + 1, 3)?, "another seed");
    Ok(())
}

fn a_missing_flush_is_found(options: &ktap::Options) -> Result<()> {
    if Device::open()?.strategies(&[strategy::NONE])?.is_empty() {
        return ktap::skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    let summary = stress::run(&Options {
        seed: Some(options.seed),
        duration: 30,
        missing_flush: true,
        ..Options::default()
    })?;
    println!("# {:?}", summary.watched);
    let nr_found = summary.watched.nr_findings();
    ensure!(nr_found > 0, "{} unmaps, and no finding", summary.nr_unmaps);
    Ok(())
}
