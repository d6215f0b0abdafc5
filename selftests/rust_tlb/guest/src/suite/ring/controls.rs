// SPDX-License-Identifier: GPL-2.0

//! Each rule of the ring, broken: a page is reached after its flush, every time. Kept, in the same
//! steps: it is not.

use anyhow::{ensure, Result};

use super::lazy::let_sleep;
use super::victim::{elsewheres_cpu, Stage, ONE, OTHER};
use crate::abi::{strategy, UNMAP_DEFER};
use crate::attempts::caught_every_time;
use crate::barrier::Wait;
use crate::child::Child;
use crate::device::Device;
use crate::flush_ring::{self, Broken, Place, Rule, Stop};
use crate::ktap::{skip, Options};
use crate::page_user::{in_a_process, Fate};
use crate::selection::Selection;

/// Each takes two stages, of a second or more.
const NR_RUNS: u32 = 5;

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

/// Steps that return what became of a page that was flushed.
type Steps = fn(&Breaking) -> Result<Fate>;

/// In processes of their own: with them end the stale translations.
fn expect_seen(rule: Rule, steps: Steps) -> Result<()> {
    if !flush_ring::breaks() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS, or no CONFIG_RUST_TLB_RING");
    }
    let fate = |is_broken| in_a_process(|| steps(&Breaking { rule, is_broken }));
    caught_every_time(NR_RUNS, || {
        ensure!(fate(false)? != Fate::Used, "stale, and nothing is broken");
        Ok(fate(true)?.expect_used())
    })
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
        let Some(watch) = stage.watch(ONE, 1)? else {
            return Ok(Fate::Untried);
        };
        let_sleep();
        defer(&stage.one, 1)?;
        stage.one.flush()?;
        watch.fate()
    })
}

/// A CPU has caught up with a generation, which then gets another page.
pub fn to_extend_a_slot_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Final, |breaking| {
        let stage = Stage::new(Wait::Spin)?;
        stage.other.unmap(&page(0), strategy::RING, 0)?;
        let Some(watch) = stage.watch(OTHER, 1)? else {
            return Ok(Fate::Untried);
        };
        let _broken = breaking.start()?;
        stage.other.unmap(&page(1), strategy::RING, 0)?;
        watch.fate()
    })
}

/// A slot is filled for the next generation, which then is somebody else's.
pub fn to_fill_a_slot_before_the_bump_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Order, |breaking| {
        let stage = Stage::new(Wait::Spin)?;
        let elsewhere = stage.elsewhere(strategy::RING)?;
        let Some(watch) = stage.watch(OTHER, 5)? else {
            return Ok(Fate::Untried);
        };
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
        let fate = watch.fate()?;
        let in_time = stop.map_or(Ok(true), Stop::has_held)?;
        elsewhere.join()?;
        Ok(match fate {
            // The increment came too early.
            Fate::Gone if !in_time => Fate::Untried,
            fate => fate,
        })
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
        // If the child's generations are never believed, that is without an excuse.
        let mut fate = Fate::Gone;
        for _ in 0..2 * NR_AHEAD {
            let watch = stage.watch(OTHER, 1)?;
            stage.other.unmap(&page(1), strategy::RING, 0)?;
            let Some(watch) = watch else {
                if stage.is_stale(OTHER, 1)? {
                    return Ok(Fate::Used);
                }
                continue;
            };
            match watch.fate()? {
                Fate::Used => return Ok(Fate::Used),
                _ if !watch.believed_another()? => {}
                Fate::Gone => return Ok(Fate::Gone),
                spoilt => fate = spoilt,
            }
        }
        Ok(fate)
    })
}
