// SPDX-License-Identifier: GPL-2.0

//! One unmap at a time: the order of its events, and what they say.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::event::Event;
use rust_tlb_trace::history::History;

use super::{names, only, ours, tracing, written, NR_PAGES};
use crate::abi::{self, strategy};
use crate::child::Child;
use crate::device::strategy_name;
use crate::ftrace::Tracing;
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::selection::Selection;

const FIRST: u64 = 3;
const NR: u64 = 4;

/// Where pages are in a mapping: what an event calls `start` and `end`.
fn addresses(mapping: &Mapping, first: u64, nr: u64) -> (u64, u64) {
    let at = |page: u64| mapping.address() as u64 + page * PAGE_SIZE as u64;
    (at(first), at(first + nr))
}

/// The range of an event, or of several.
fn covered<'a>(events: impl Iterator<Item = &'a Event>) -> Option<(u64, u64)> {
    events
        .filter_map(|event| Some((event.address("start")?, event.address("end")?)))
        .reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
}

fn named<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = &'a Event> {
    events.iter().filter(move |event| event.name == name)
}

fn sum(events: &[Event], name: &str, field: &str) -> u64 {
    named(events, name)
        .filter_map(|event| event.number(field))
        .sum()
}

pub fn an_unmap_is_told_in_order(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let (device, mapping) = written()?;
        let unmap = || Ok(device.unmap(&Selection::run(FIRST, NR), strategy, 0)?);
        let (reply, events) = tracing.record(unmap)?;
        let events = ours(&events);
        let mut found = names(&events);
        // A range for each page table: two, if the mapping lies across the end of one.
        found.dedup_by(|a, b| a == b && *a == "range_add");
        let head = ["batch_open", "range_add", "flush_begin", "call_begin"];
        let tail = ["call_end", "flush_end"];
        let releases = ["page_release"; NR as usize];
        ensure!(found == [&head[..], &tail, &releases].concat(), "{found:?}");
        expect_batch(&events, strategy)?;
        expect_ranges(&events, &mapping)?;
        let nr_calls = only(&events, "rust_tlb_flush_end")?.number("calls");
        ensure!(nr_calls == Some(reply.nr_flush_calls), "{nr_calls:?}");
    }
    Ok(())
}

/// All events that name a batch name the same, and each page leaves it once.
fn expect_batch(events: &[Event], strategy: u32) -> Result<()> {
    let opened = only(events, "rust_tlb_batch_open")?;
    let batch = opened.address("batch").context("no batch")?;
    let others = events.iter().filter_map(|event| event.address("batch"));
    ensure!(others.clone().all(|other| other == batch), "{events:?}");
    ensure!(others.count() == 3 + NR as usize, "{events:?}");
    ensure!(
        opened.number("room").is_some_and(|room| room >= NR),
        "{opened:?}"
    );
    let begin = only(events, "rust_tlb_flush_begin")?;
    for event in [opened, begin] {
        ensure!(
            event.text("policy") == Some(strategy_name(strategy)),
            "{event:?}"
        );
    }
    ensure!(begin.number("ptes") == Some(NR), "{begin:?}");
    ensure!(begin.number("mms") == Some(1), "{begin:?}");
    ensure!(begin.text("why") == Some("end"), "{begin:?}");
    let released = named(events, "rust_tlb_page_release").filter_map(|event| event.number("pgoff"));
    let released: Vec<u64> = released.collect();
    ensure!(
        released == Vec::from_iter(FIRST..FIRST + NR),
        "{released:?}"
    );
    Ok(())
}

/// The ranges cover what was unmapped, and no more.
fn expect_ranges(events: &[Event], mapping: &Mapping) -> Result<()> {
    let name = "rust_tlb_range_add";
    let (found, expected) = (covered(named(events, name)), addresses(mapping, FIRST, NR));
    ensure!(found == Some(expected), "{found:x?}, not {expected:x?}");
    ensure!(sum(events, name, "ptes") == NR, "{events:?}");
    let whys = named(events, name).all(|event| event.text("why") == Some("unmapped"));
    ensure!(whys, "{events:?}");
    Ok(())
}

pub fn a_precise_call_has_the_range(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    let (device, mapping) = written()?;
    let unmap = || Ok(device.unmap(&Selection::run(FIRST, NR), strategy::PRECISE, 0)?);
    let (_, events) = tracing.record(unmap)?;
    let events = ours(&events);
    let call = only(&events, "rust_tlb_call_begin")?;
    let (found, expected) = (covered([call].into_iter()), addresses(&mapping, FIRST, NR));
    ensure!(found == Some(expected), "{found:x?}, not {expected:x?}");
    ensure!(call.detail.ends_with("ranged"), "{call:?}");
    // The same mm as that of the PTEs; the process has no thread on another CPU.
    let mm = |name| only(&events, name).map(|event| event.text("mm").map(String::from));
    ensure!(
        mm("rust_tlb_call_begin")? == mm("rust_tlb_call_end")?,
        "{events:?}"
    );
    let ranges = named(&events, "rust_tlb_range_add");
    ensure!(
        ranges
            .into_iter()
            .all(|range| range.text("mm") == call.text("mm")),
        "{events:?}"
    );
    Ok(())
}

pub fn a_deferred_batch_is_opened_once(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    let (device, _mapping) = written()?;
    let (_, events) = tracing.record(|| {
        for first in [0, 8] {
            let selection = Selection::run(first, NR);
            device.unmap(&selection, strategy::BROADCAST, abi::UNMAP_DEFER)?;
        }
        Ok(device.flush()?)
    })?;
    let events = ours(&events);
    only(&events, "rust_tlb_batch_open")?;
    ensure!(
        sum(&events, "rust_tlb_range_add", "ptes") == 2 * NR,
        "{events:?}"
    );
    let begin = only(&events, "rust_tlb_flush_begin")?;
    ensure!(begin.number("ptes") == Some(2 * NR), "{begin:?}");
    ensure!(begin.text("why") == Some("asked"), "{begin:?}");
    let nr_released = named(&events, "rust_tlb_page_release").count() as u64;
    ensure!(nr_released == 2 * NR, "{nr_released} pages were released");
    Ok(())
}

/// Another process touches a page that is pending: it learns whose flush it waits for.
pub fn a_refault_hits_whose_flush_is_owed(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    for strategy in [strategy::BROADCAST, strategy::PRECISE] {
        let (device, _mapping) = written()?;
        device.unmap(&Selection::run(FIRST, NR), strategy, abi::UNMAP_DEFER)?;
        let (toucher, history) = touched_by_another(&tracing, &device)?;
        let [hit] = &history.hits[..] else {
            anyhow::bail!("not one hit: {:?}", history.hits);
        };
        let owner = u64::from(std::process::id());
        ensure!((hit.who.pid, hit.owner) == (toucher, owner), "{hit:?}");
        ensure!(hit.pgoff == FIRST + 1, "{hit:?}");
        let [flush] = &history.flushes[..] else {
            anyhow::bail!("not one flush: {:?}", history.flushes);
        };
        ensure!(flush.why == "refault", "{flush:?}");
        ensure!(
            flush.who.pid == toucher && flush.begin >= hit.at,
            "{flush:?}"
        );
    }
    Ok(())
}

fn touched_by_another(tracing: &Tracing, device: &crate::device::Device) -> Result<(u32, History)> {
    let (pid, events) = tracing.record(|| {
        let child = Child::fork(|| {
            let mapping = device.map(NR_PAGES)?;
            let value = mapping.word(FIRST + 1, 0).load(Relaxed);
            ensure!(value == 0, "the old page is mapped again: {value}");
            Ok(())
        })?;
        let pid = child.pid().as_raw_nonzero().get() as u32;
        child.join()?;
        Ok(pid)
    })?;
    Ok((pid, History::of(&events)))
}

/// One event is on, and no other: all of it is recorded, and nothing else.
pub fn what_is_off_is_not_recorded(_: &Options) -> Result<()> {
    for name in [
        "call_begin",
        "batch_open",
        "range_add",
        "flush_begin",
        "flush_end",
        "page_release",
    ] {
        let event = format!("rust_tlb/rust_tlb_{name}");
        let tracing = Tracing::new(&[&event])?.context("the kernel does not have the event")?;
        let path = tracing.path().to_owned();
        let (device, _mapping) = written()?;
        let unmap = || Ok(device.unmap(&Selection::run(FIRST, NR), strategy::BROADCAST, 0)?);
        let (_, events) = tracing.record(unmap)?;
        let events = ours(&events);
        let mut found = names(&events);
        // One per page table, or per page.
        found.dedup();
        ensure!(found == [name], "{found:?}");
        drop(tracing);
        ensure!(!path.exists(), "{} is still there", path.display());
    }
    Ok(())
}
