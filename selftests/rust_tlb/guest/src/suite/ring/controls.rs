// SPDX-License-Identifier: GPL-2.0

//! Each rule of the ring, broken: a page is reached after its flush, every time. Kept, in the same
//! steps: it is not.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use super::lazy::let_sleep;
use super::victim::{elsewheres_cpu, Stage, ONE, OTHER};
use crate::abi::{strategy, UNMAP_DEFER};
use crate::attempts::{caught_every_time, Attempt};
use crate::barrier::Wait;
use crate::child::{describe, Child};
use crate::device::Device;
use crate::flush_ring::{self, Broken, Place, Rule, Stop};
use crate::ktap::{skip, Options};
use crate::selection::Selection;

const NR_RUNS: u32 = 5;
const LIMIT: Duration = Duration::from_secs(30);

const FRESH: i32 = 0;
const FAILED: i32 = 1;
const STALE: i32 = 7;

/// Breaks a rule, or not.
struct Breaking {
    rule: Rule,
    is_broken: bool,
}

impl Breaking {
    fn start(&self) -> Result<Option<Broken>> {
        self.is_broken.then(|| Broken::new(self.rule)).transpose()
    }
}

/// Steps that return whether the reader got at a page after its flush.
type Steps = fn(&Breaking) -> Result<bool>;

fn expect_seen(rule: Rule, steps: Steps) -> Result<()> {
    if !flush_ring::breaks() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS, or no CONFIG_RUST_TLB_RING");
    }
    let is_stale = |is_broken| in_a_process(Breaking { rule, is_broken }, steps);
    // A busy host spoils some: the reader was switched away, and its translation with it.
    caught_every_time(NR_RUNS, || {
        ensure!(!is_stale(false)?, "stale, and nothing is broken");
        Ok(Attempt::judge(is_stale(true)?, false, String::new))
    })
}

/// In a process of its own: with it end the stale translations.
fn in_a_process(breaking: Breaking, steps: Steps) -> Result<bool> {
    let mut child = Child::fork_with_code(|| match steps(&breaking) {
        Ok(false) => FRESH,
        Ok(true) => STALE,
        Err(error) => {
            println!("# {error:#}");
            FAILED
        }
    })?;
    let ended = child.wait_for(LIMIT)?.context("it hangs")?;
    match ended.exit_status() {
        Some(FRESH) => Ok(false),
        Some(STALE) => Ok(true),
        _ => anyhow::bail!("it {}", describe(ended)),
    }
}

fn page(page: u64) -> Selection {
    Selection::run(page, 1)
}

/// Adds a generation for one page, and asks no CPU.
fn defer(device: &Device, page_nr: u64) -> Result<()> {
    device.unmap(&page(page_nr), strategy::BROADCAST, UNMAP_DEFER)?;
    Ok(())
}

/// A CPU that was lazy has caught up, and then touches a page of the second deferral: nothing tells
/// it that there was one.
pub fn to_bump_only_once_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Bump, |breaking| {
        let stage = Stage::new(Wait::Sleep)?;
        let _broken = breaking.start()?;
        let_sleep();
        defer(&stage.one, 0)?;
        stage.is_stale(ONE, 1)?;
        let_sleep();
        defer(&stage.one, 1)?;
        stage.one.flush()?;
        stage.is_stale(ONE, 1)
    })
}

/// A CPU has caught up with a generation, which then gets another page.
pub fn to_extend_a_slot_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Final, |breaking| {
        let stage = Stage::new(Wait::Spin)?;
        stage.other.unmap(&page(0), strategy::RING, 0)?;
        let _broken = breaking.start()?;
        stage.other.unmap(&page(1), strategy::RING, 0)?;
        stage.is_stale(OTHER, 1)
    })
}

/// A slot is filled for the next generation, which then is somebody else's.
pub fn to_fill_a_slot_before_the_bump_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Order, |breaking| {
        let stage = Stage::new(Wait::Spin)?;
        let elsewhere = stage.elsewhere(strategy::RING)?;
        let broken = breaking.start()?;
        let stop = broken
            .is_some()
            .then(|| Stop::at(elsewheres_cpu(), Place::Next, 0))
            .transpose()?;
        elsewhere.start();
        if let Some(stop) = &stop {
            stop.reached()?;
        }
        let many = Selection::run(0, 40);
        stage.other.unmap(&many, strategy::PRECISE, 0)?;
        let is_stale = stage.is_stale(OTHER, 5)?;
        stop.map_or(Ok(()), Stop::go_on)?;
        elsewhere.join()?;
        Ok(is_stale)
    })
}

/// Flushes that a child makes, so that its generations get ahead of its parent's.
const NR_AHEAD: u32 = 400;

/// A child publishes in the ring of its parent, whose CPUs believe it.
pub fn to_copy_a_ring_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Own, |breaking| {
        let stage = Stage::new(Wait::Spin)?;
        let broken = breaking.start()?;
        let child = Child::fork(|| {
            let device = Device::open()?;
            let _mapping = device.map(1)?;
            (0..NR_AHEAD).try_for_each(|_| {
                device.invalidate(0, 1, strategy::PRECISE)?;
                Ok(())
            })
        })?;
        drop(broken);
        child.join()?;
        for _ in 0..2 * NR_AHEAD {
            stage.other.unmap(&page(1), strategy::RING, 0)?;
            if stage.is_stale(OTHER, 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    })
}
