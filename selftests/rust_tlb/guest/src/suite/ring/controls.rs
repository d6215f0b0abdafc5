// SPDX-License-Identifier: GPL-2.0

//! Each rule of the ring, broken: a page is reached after its flush, every time. Kept, in the same
//! steps: it is not.

use anyhow::{bail, Result};

use super::lazy::let_sleep;
use super::victim::{elsewheres_cpu, victims_cpu, Fixture, Watch, ONE, OTHER};
use crate::abi::{strategy, UNMAP_DEFER};
use crate::attempts::{caught_every_time, Attempt};
use crate::barrier::Wait;
use crate::child::Child;
use crate::device::Device;
use crate::flush_ring::{self, Broken, Place, Rule, Stop};
use crate::ktap::{skip, Options};
use crate::page_user::{in_a_process, Fate};
use crate::selection::Selection;

/// Each takes two stages, of a second or more.
const NR_RUNS: u32 = 5;
/// Attempts that a CPU spoils which does not believe the ring, for something of the kernel's own.
const MAX_DOUBTS: u32 = 3;

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
    let mut nr_doubts = 0;
    caught_every_time(NR_RUNS, || {
        match fate(false)? {
            Fate::Used => bail!("stale, and nothing is broken"),
            // It says nothing of the steps.
            Fate::Untried => Ok(Attempt::Spoilt),
            _ => Ok(match fate(true)? {
                Fate::GoneByAFlush if nr_doubts == MAX_DOUBTS => {
                    Attempt::Missed("the ring is not believed, time and again".into())
                }
                fate => {
                    nr_doubts += u32::from(fate == Fate::GoneByAFlush);
                    fate.expect_used()
                }
            }),
        }
    })
}

/// What became of what was watched, if all went on in time.
fn fate_if(in_time: bool, watch: Option<&Watch<'_>>) -> Result<Fate> {
    match watch {
        Some(watch) if in_time => watch.fate(),
        _ => Ok(Fate::Untried),
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
        let fixture = Fixture::new(Wait::Sleep)?;
        let _broken = breaking.start()?;
        let_sleep();
        defer(&fixture.one, 0)?;
        let Some(watch) = fixture.watch(ONE, 1)? else {
            return Ok(Fate::Untried);
        };
        let_sleep();
        defer(&fixture.one, 1)?;
        fixture.one.flush()?;
        watch.fate()
    })
}

/// A CPU catches up with a generation whose PTE is still there, and takes it again.
pub fn to_clear_after_the_bump_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Clear, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        let elsewhere = fixture.elsewhere(strategy::RING)?;
        // If the rule is kept, there is no such place to stop at: the flush alone is looked at.
        let Some(_broken) = breaking.start()? else {
            let watch = fixture.watch(ONE, 0)?;
            elsewhere.start();
            elsewhere.join()?;
            return fate_if(true, watch.as_ref());
        };
        let stop = Stop::at(elsewheres_cpu(), Place::Clear, 0)?;
        if !elsewhere.start_until(&stop)? {
            return Ok(Fate::Untried);
        }
        fixture.other.invalidate(0, 1, strategy::PRECISE)?;
        let watch = fixture.watch_blindly(ONE, 0)?;
        let in_time = stop.has_held()?;
        elsewhere.join()?;
        fate_if(in_time, watch.as_ref())
    })
}

/// A CPU has caught up with a generation, which then gets another page.
pub fn to_extend_a_slot_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Final, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        fixture.other.unmap(&page(0), strategy::RING, 0)?;
        let Some(watch) = fixture.watch(OTHER, 1)? else {
            return Ok(Fate::Untried);
        };
        let _broken = breaking.start()?;
        fixture.other.unmap(&page(1), strategy::RING, 0)?;
        watch.fate()
    })
}

/// A CPU has caught up with one generation, and takes the next one for done as well.
pub fn to_run_ahead_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Ahead, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        let elsewhere = fixture.elsewhere(strategy::RING)?;
        let watch = fixture.watch(OTHER, 1)?;
        let _broken = breaking.start()?;
        let stop = Stop::at(victims_cpu(), Place::Caught, 0)?;
        if !elsewhere.start_until(&stop)? {
            return Ok(Fate::Untried);
        }
        defer(&fixture.other, 1)?;
        let in_time = stop.has_held()?;
        elsewhere.join()?;
        fixture.other.flush()?;
        fate_if(in_time, watch.as_ref())
    })
}

/// A slot is filled for the next generation, which then is somebody else's.
pub fn to_fill_a_slot_before_the_bump_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Order, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        let elsewhere = fixture.elsewhere(strategy::RING)?;
        let Some(watch) = fixture.watch(OTHER, 5)? else {
            return Ok(Fate::Untried);
        };
        let broken = breaking.start()?;
        let stop = broken
            .is_some()
            .then(|| Stop::at(elsewheres_cpu(), Place::Next, 0))
            .transpose()?;
        match &stop {
            Some(stop) => _ = elsewhere.start_until(stop)?,
            None => elsewhere.start(),
        }
        let many = Selection::run(0, 40);
        fixture.other.unmap(&many, strategy::PRECISE, 0)?;
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

/// Two generations, a whole ring apart, write to one slot.
pub fn to_write_a_slot_unclaimed_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Claim, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        let elsewhere = fixture.elsewhere(strategy::PRECISE)?;
        let _broken = breaking.start()?;
        let stop = Stop::at(elsewheres_cpu(), Place::Run, 0)?;
        if !elsewhere.start_until(&stop)? {
            return Ok(Fate::Untried);
        }
        for _ in 0..63 {
            fixture.other.invalidate(100, 1, strategy::PRECISE)?;
        }
        let watch = fixture.watch(OTHER, 1)?;
        defer(&fixture.other, 1)?;
        stop.move_to(Place::Release)?;
        fixture.other.flush()?;
        let fate = fate_if(true, watch.as_ref())?;
        let in_time = stop.has_held()?;
        elsewhere.join()?;
        Ok(if in_time { fate } else { Fate::Untried })
    })
}

/// A generation has begun, and is not published yet, when the next one is caught up with.
pub fn to_take_unpublished_for_nothing_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::UnpublishedIsFull, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        let elsewhere = fixture.elsewhere(strategy::PRECISE)?;
        let watch = fixture.watch(ONE, 0)?;
        let _broken = breaking.start()?;
        let stop = Stop::at(elsewheres_cpu(), Place::Publish, 0)?;
        if !elsewhere.start_until(&stop)? {
            return Ok(Fate::Untried);
        }
        fixture.other.unmap(&page(1), strategy::RING, 0)?;
        let in_time = stop.has_held()?;
        elsewhere.join()?;
        fate_if(in_time, watch.as_ref())
    })
}

/// More pages than a run is for, and no run for them.
pub fn to_take_odd_for_nothing_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::OddIsFull, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
        let watch = fixture.watch(OTHER, 5)?;
        let _broken = breaking.start()?;
        let many = Selection::run(0, 40);
        fixture.other.unmap(&many, strategy::PRECISE, 0)?;
        fate_if(true, watch.as_ref())
    })
}

/// Flushes that a child makes, so that its generations get ahead of its parent's.
const NR_AHEAD: u32 = 100;

/// A child publishes in the ring of its parent, whose CPUs believe it.
pub fn to_copy_a_ring_is_seen(_: &Options) -> Result<()> {
    expect_seen(Rule::Own, |breaking| {
        let fixture = Fixture::new(Wait::Spin)?;
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
            let watch = fixture.watch(OTHER, 1)?;
            fixture.other.unmap(&page(1), strategy::RING, 0)?;
            let Some(watch) = watch else {
                if fixture.is_stale(OTHER, 1)? {
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
