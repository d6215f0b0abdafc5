// SPDX-License-Identifier: GPL-2.0

//! What a gather tracks, by its own event, and what the kernel flushes for it.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::event::Event;

use crate::abi::{self, strategy};
use crate::device::Device;
use crate::ftrace::Tracing;
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};
use crate::page_tables::{vm_pte_kb, TABLE_KB};
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;

/// What one gather had tracked when it ended.
#[derive(Debug, PartialEq, Eq)]
struct Tracked {
    /// Pages of the mapping, from one to before another; [`None`] for nothing.
    pages: Option<(u64, u64)>,
    freed_tables: bool,
}

/// Our own events of this name.
pub(super) fn named(events: &[Event], name: &str) -> Vec<Event> {
    let pid = std::process::id();
    let is_it = |event: &&Event| event.pid == pid && event.name == name;
    events.iter().filter(is_it).cloned().collect()
}

/// The range of an event, in pages of `mapping`.
pub(super) fn pages(event: &Event, mapping: &Mapping) -> Option<(u64, u64)> {
    let page = |address: u64| (address - mapping.address() as u64) / PAGE_SIZE as u64;
    let (start, end) = (event.address("start")?, event.address("end")?);
    (start < end).then(|| (page(start), page(end)))
}

/// Our own events, on. To put them on takes the kernel longer than anything that is recorded here.
fn tracing() -> Result<Tracing> {
    Tracing::new(&["rust_tlb"])?.context("the kernel has no events")
}

/// Unmaps by a gather, in a process that has no other mapping of the device.
fn gather(
    tracing: &Tracing,
    device: &Device,
    mapping: &Mapping,
    selection: &Selection,
) -> Result<Tracked> {
    let unmap = || Ok(device.unmap(selection, strategy::GATHER, 0)?);
    let (_, events) = tracing.record(unmap)?;
    let ended = named(&events, "rust_tlb_gather_end");
    ensure!(ended.len() <= 1, "{} gathers", ended.len());
    // There is none if the device has none of the pages.
    let is_freed = |event: &Event| event.number("freed_tables") == Some(1);
    Ok(Tracked {
        pages: ended.first().and_then(|event| pages(event, mapping)),
        freed_tables: ended.first().is_some_and(is_freed),
    })
}

pub(super) fn touch(mapping: &Mapping, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        mapping.word(page, 0).load(Relaxed);
    }
}

/// What a batch has recorded for `selection`, all ranges together.
fn batch(
    tracing: &Tracing,
    device: &Device,
    mapping: &Mapping,
    selection: &Selection,
) -> Result<Option<(u64, u64)>> {
    let unmap = || Ok(device.unmap(selection, strategy::PRECISE, 0)?);
    let (_, events) = tracing.record(unmap)?;
    let added = named(&events, "rust_tlb_range_add");
    let ranges = added.iter().filter_map(|event| pages(event, mapping));
    Ok(ranges.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1))))
}

/// Ours and the kernel's range tracker, on the same pages: from the lowest to the highest that was
/// mapped, and nothing of those that were not.
pub fn a_gather_tracks_what_a_batch_tracks(options: &Options) -> Result<()> {
    const NR_PAGES: u64 = 3 * PAGES_PER_TABLE;
    let tracing = tracing()?;
    let mut rng = options.rng();
    for _ in 0..40 * options.effort {
        let device = Device::open()?;
        let mapping = device.map(NR_PAGES)?;
        let nr = rng.usize(1..20);
        let mapped = rng.choose_multiple(0..NR_PAGES, nr);
        let nr = rng.usize(1..200);
        let selection = Selection::random(&mut rng, NR_PAGES, nr);
        let both = selection.pages();
        let both = both.iter().copied().filter(|page| mapped.contains(page));
        let hull = both.clone().min().zip(both.max().map(|max| max + 1));
        touch(&mapping, mapped.iter().copied());
        ensure!(
            batch(&tracing, &device, &mapping, &selection)? == hull,
            "{hull:?}"
        );
        touch(&mapping, mapped.iter().copied());
        let tracked = gather(&tracing, &device, &mapping, &selection)?;
        ensure!(tracked.pages == hull, "{tracked:?} instead of {hull:?}");
        ensure!(!tracked.freed_tables, "{tracked:?}");
    }
    Ok(())
}

/// A device that frees tables, mapped at the start of one.
pub(super) fn with_tables(nr_tables: u64) -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    device.setup(abi::SETUP_FREE_TABLES)?;
    let mapping = Mapping::of_tables(&device, nr_tables * PAGES_PER_TABLE)?;
    Ok((device, mapping))
}

/// Flushes of one gather on the CPU that makes it: page by page, and in full.
fn local_flushes(what: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let read = || TlbEvents::read()?.context("the kernel has no CONFIG_DEBUG_TLBFLUSH");
    let before = read()?;
    what()?;
    let events = read()?.since(before);
    Ok((events.local_flush_one, events.local_flush_all))
}

/// One range, whatever lies between its ends.
pub fn what_is_far_apart_is_flushed_in_full(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(PAGES_PER_TABLE)?;
    for (last, expected) in [(20, (21, 0)), (200, (0, 1))] {
        let selection = Selection::List(vec![0, last]);
        let unmap = || Ok(device.unmap(&selection, strategy::GATHER, 0).map(|_| ())?);
        let mut seen = Vec::new();
        for _ in 0..5 {
            touch(&mapping, [0, last]);
            seen.push(local_flushes(unmap)?);
        }
        // Someone else's flush may be among them, now and then.
        ensure!(seen.contains(&expected), "{seen:?} for 0 and {last}");
    }
    Ok(())
}

pub fn a_freed_table_does_not_widen_the_flush(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    let (device, mapping) = with_tables(1)?;
    let all = Selection::run(0, PAGES_PER_TABLE);
    // A page table adds the first page that it maps.
    for (page, end) in [(0, 1), (7, 8)] {
        touch(&mapping, [page]);
        let before = vm_pte_kb()?;
        let tracked = gather(&tracing, &device, &mapping, &all)?;
        let expected = Tracked {
            pages: Some((0, end)),
            freed_tables: true,
        };
        ensure!(tracked == expected, "{tracked:?}");
        let after = vm_pte_kb()?;
        ensure!(after + TABLE_KB == before, "{before} kB to {after} kB");
    }
    let mut seen = Vec::new();
    for _ in 0..5 {
        touch(&mapping, [0]);
        let unmap = || Ok(device.unmap(&all, strategy::GATHER, 0).map(|_| ())?);
        seen.push(local_flushes(unmap)?);
    }
    ensure!(seen.contains(&(1, 0)), "page by page, in full: {seen:?}");
    Ok(())
}

/// Tables go that the zapped range covers, and no others, empty or not.
pub fn tables_are_freed_only_if_they_are_covered(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    let (device, mapping) = with_tables(2)?;
    touch(&mapping, [0, PAGES_PER_TABLE]);
    let before = vm_pte_kb()?;
    let short = Selection::run(0, PAGES_PER_TABLE - 1);
    let tracked = gather(&tracing, &device, &mapping, &short)?;
    ensure!(!tracked.freed_tables, "{tracked:?}");
    ensure!(vm_pte_kb()? == before, "a table is gone");
    // Not mapped any more, and not looked up by the device: touched again for that.
    touch(&mapping, [0]);
    let tracked = gather(
        &tracing,
        &device,
        &mapping,
        &Selection::run(0, PAGES_PER_TABLE),
    )?;
    ensure!(tracked.freed_tables, "{tracked:?}");
    let after = vm_pte_kb()?;
    ensure!(after + TABLE_KB == before, "{before} kB to {after} kB");
    Ok(())
}

pub fn nothing_is_freed_without_the_switch(_: &Options) -> Result<()> {
    let tracing = tracing()?;
    let device = Device::open()?;
    let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
    touch(&mapping, [0]);
    let before = vm_pte_kb()?;
    let tracked = gather(
        &tracing,
        &device,
        &mapping,
        &Selection::run(0, PAGES_PER_TABLE),
    )?;
    ensure!(!tracked.freed_tables, "{tracked:?}");
    ensure!(vm_pte_kb()? == before, "a table is gone");
    Ok(())
}
