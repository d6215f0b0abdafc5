// SPDX-License-Identifier: GPL-2.0

//! Why batches are flushed: the events and the counters say the same.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::history::History;

use super::statistics::{counters, reset};
use super::{tracing, written, NR_PAGES};
use crate::abi::{self, strategy};
use crate::device::Device;
use crate::ftrace::Tracing;
use crate::kernel_module::{self, Unloaded};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::pending::await_release;
use crate::reclaim::Shrinkers;
use crate::selection::Selection;

const STRATEGY: u32 = strategy::BROADCAST;
const NR: u64 = 4;
/// A batch is soon full, and not old before something else flushes it.
const SMALL: &str = "max_pending=16 max_age_ms=60000";
/// A batch is soon old.
const SHORT: &str = "max_age_ms=320";

/// What is let go of when the recording is over: it may still have something to flush.
type Left = Option<(Device, Mapping)>;

/// Something that flushes, and why it says it does.
struct Case {
    why: &'static [&'static str],
    act: fn(Device, Mapping) -> Result<Left>,
}

/// Reasons in the order in which they come.
const CASES: [Case; 11] = [
    Case {
        why: &["end"],
        act: at_once,
    },
    Case {
        why: &["asked"],
        act: asked,
    },
    Case {
        why: &["refault"],
        act: refault,
    },
    Case {
        why: &["other", "end"],
        act: other,
    },
    Case {
        why: &["full"],
        act: full,
    },
    Case {
        why: &["phase"],
        act: phase,
    },
    Case {
        why: &["dirty"],
        act: dirty,
    },
    Case {
        why: &["dropped"],
        act: dropped,
    },
    Case {
        why: &["scope"],
        act: scope,
    },
    Case {
        why: &["pressure"],
        act: pressure,
    },
    Case {
        why: &["leaf"],
        act: leaf,
    },
];
const OLD: Case = Case {
    why: &["old"],
    act: old,
};

pub fn every_flush_says_why(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip("the module's file is not known (RUST_TLB_KO)");
    }
    expect_all(SMALL, &CASES)?;
    expect_all(SHORT, &[OLD])
}

/// Loads the module anew, with such limits; its events and files come with it.
fn expect_all(limits: &str, cases: &[Case]) -> Result<()> {
    let _again = Unloaded::new()?;
    kernel_module::load(limits)?.context(limits.to_owned())?;
    let tracing = tracing()?;
    cases
        .iter()
        .try_for_each(|case| expect(&tracing, case).with_context(|| format!("{:?}", case.why)))
}

fn expect(tracing: &Tracing, case: &Case) -> Result<()> {
    let (device, mapping) = written()?;
    reset()?;
    let (left, events) = tracing.record(|| (case.act)(device, mapping))?;
    let history = History::of(&events);
    let mut whys: Vec<&str> = history
        .flushes
        .iter()
        .map(|flush| flush.why.as_str())
        .collect();
    whys.dedup();
    ensure!(whys == case.why, "the events say {whys:?}");
    for why in case.why {
        let counter = format!("flushes_{why}");
        ensure!(counters()?.of(&counter)? > 0, "{counter} is zero");
    }
    drop(left);
    Ok(())
}

fn defer(device: &Device, first: u64) -> Result<()> {
    device.unmap(&Selection::run(first, NR), STRATEGY, abi::UNMAP_DEFER)?;
    Ok(())
}

fn read(mapping: &Mapping) {
    for page in 0..mapping.nr_pages() {
        mapping.word(page, 0).load(Relaxed);
    }
}

fn at_once(device: Device, mapping: Mapping) -> Result<Left> {
    device.unmap(&Selection::run(0, NR), STRATEGY, 0)?;
    Ok(Some((device, mapping)))
}

fn asked(device: Device, mapping: Mapping) -> Result<Left> {
    defer(&device, 0)?;
    device.flush()?;
    Ok(Some((device, mapping)))
}

fn refault(device: Device, mapping: Mapping) -> Result<Left> {
    defer(&device, 0)?;
    device.map(NR_PAGES)?.word(1, 0).load(Relaxed);
    Ok(Some((device, mapping)))
}

fn other(device: Device, mapping: Mapping) -> Result<Left> {
    defer(&device, 0)?;
    device.unmap(&Selection::run(8, NR), strategy::PRECISE, 0)?;
    Ok(Some((device, mapping)))
}

/// As many pages as may be pending, and one more.
fn full(device: Device, mapping: Mapping) -> Result<Left> {
    let most = device.describe()?.max_pending.into();
    ensure!(most < NR_PAGES, "{most} pages may be pending");
    for page in 0..=most {
        device.unmap(&Selection::run(page, 1), STRATEGY, abi::UNMAP_DEFER)?;
    }
    Ok(Some((device, mapping)))
}

/// Clean pages have to be write-protected first.
fn phase(device: Device, mapping: Mapping) -> Result<Left> {
    drop(mapping);
    let mapping = device.map(NR_PAGES)?;
    read(&mapping);
    device.unmap(
        &Selection::run(0, NR),
        STRATEGY,
        abi::UNMAP_TWO_PHASE | abi::UNMAP_DEFER,
    )?;
    Ok(Some((device, mapping)))
}

fn dirty(device: Device, mapping: Mapping) -> Result<Left> {
    let flags = abi::UNMAP_WRITE_BACK | abi::UNMAP_DEFER;
    device.unmap(&Selection::run(0, NR), STRATEGY, flags)?;
    Ok(Some((device, mapping)))
}

fn dropped(device: Device, mapping: Mapping) -> Result<Left> {
    defer(&device, 0)?;
    drop(mapping);
    drop(device);
    Ok(None)
}

fn scope(device: Device, mapping: Mapping) -> Result<Left> {
    device.enter(STRATEGY, None)?;
    device.unmap(&Selection::run(0, NR), STRATEGY, 0)?;
    device.leave()?;
    Ok(Some((device, mapping)))
}

fn pressure(device: Device, mapping: Mapping) -> Result<Left> {
    let shrinkers = Shrinkers::open()?;
    device.idle(0, NR, abi::IDLE_MARK)?;
    shrinkers.take_idle(&device)?;
    Ok(Some((device, mapping)))
}

/// One that maps 2 MiB is flushed, although the batch is deferred.
fn leaf(_: Device, _: Mapping) -> Result<Left> {
    let device = Device::open()?;
    device.setup(abi::SETUP_PFNMAP | abi::SETUP_HUGE)?;
    let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
    mapping.word(0, 0).store(1, Relaxed);
    defer(&device, 0)?;
    Ok(Some((device, mapping)))
}

fn old(device: Device, mapping: Mapping) -> Result<Left> {
    defer(&device, 0)?;
    await_release(&device)?;
    Ok(Some((device, mapping)))
}
