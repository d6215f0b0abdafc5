// SPDX-License-Identifier: GPL-2.0

//! Unmap takes exactly the chosen pages from every process, whatever the strategy, and says so.

mod deferred;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::device::{strategy_name, Device, REAL_STRATEGIES};
use crate::ktap::Options;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::workers::{Shape, Worker, Workers};

use deferred::{
    a_batch_that_grows_gets_old_all_the_same, a_close_waits_for_what_is_late,
    a_deferred_batch_ends_with_the_file, a_deferred_batch_is_flushed_once,
    a_flushing_unmap_takes_the_deferred_batch_along, a_full_batch_flushes_itself,
    a_refault_flushes_the_deferred_batch, an_old_batch_flushes_itself,
};

crate::tests! {
    by_page,
    by_zap,
    by_unmap_mapping,
    by_broadcast,
    by_precise,
    by_gather,
    pages_that_are_not_there_are_passed_over,
    populated_pages_that_nobody_maps_are_taken,
    two_mappings_of_one_process_both_lose_the_page,
    a_deferred_batch_is_flushed_once,
    a_refault_flushes_the_deferred_batch,
    a_flushing_unmap_takes_the_deferred_batch_along,
    a_full_batch_flushes_itself,
    an_old_batch_flushes_itself,
    a_batch_that_grows_gets_old_all_the_same,
    a_deferred_batch_ends_with_the_file,
    the_call_may_lie_in_the_pages_that_it_takes,
    a_close_waits_for_what_is_late,
}

/// Pages in the mappings.
const NR_PAGES: u64 = 48;

const SHAPES: [Shape; 6] = [
    shape(1, 1),
    shape(1, 4),
    shape(2, 1),
    shape(2, 4),
    shape(4, 1),
    shape(4, 4),
];

const fn shape(processes: usize, threads: usize) -> Shape {
    Shape { processes, threads }
}

/// A run, scattered pages, single pages, and a list in no order.
fn selections() -> [Selection; 5] {
    [
        Selection::run(8, 16),
        Selection::scattered(1, 20),
        Selection::Every {
            first: 0,
            nr: 7,
            stride: 7,
        },
        Selection::run(NR_PAGES - 1, 1),
        Selection::List(vec![30, 2, 47, 3, 0, 31, 17]),
    ]
}

fn by_page(_: &Options) -> Result<()> {
    every_shape(strategy::PAGE)
}

fn by_zap(_: &Options) -> Result<()> {
    every_shape(strategy::ZAP)
}

fn by_unmap_mapping(_: &Options) -> Result<()> {
    every_shape(strategy::UNMAP_MAPPING)
}

fn by_broadcast(_: &Options) -> Result<()> {
    every_shape(strategy::BROADCAST)
}

fn by_precise(_: &Options) -> Result<()> {
    every_shape(strategy::PRECISE)
}

fn by_gather(_: &Options) -> Result<()> {
    every_shape(strategy::GATHER)
}

fn every_shape(strategy: u32) -> Result<()> {
    for shape in SHAPES {
        let what = || format!("{} with {shape:?}", strategy_name(strategy));
        every_selection(strategy, shape).with_context(what)?;
    }
    Ok(())
}

/// Fill, unmap, look, for one selection after the other.
fn every_selection(strategy: u32, shape: Shape) -> Result<()> {
    let device = Device::open()?;
    let selections = selections();
    let workers = Workers::of_processes(&device, NR_PAGES, shape, Wait::Sleep, |worker| {
        for (salt, selection) in selections.iter().enumerate() {
            fill(worker, salt as u64);
            worker.step()?;
            worker.step()?;
            check(worker, salt as u64, selection)?;
            worker.step()?;
        }
        Ok(())
    })?;
    for selection in &selections {
        workers.step()?;
        let before = device.counters()?;
        let reply = device.unmap(selection, strategy, 0)?;
        check_reply(&reply, selection, strategy, shape)?;
        check_counters(before, device.counters()?, &reply)?;
        workers.step()?;
        workers.step()?;
    }
    workers.join()
}

/// A value that is the worker's own, in a word that is the worker's own.
fn value(index: usize, page: u64, salt: u64) -> u64 {
    1 << 60 | (index as u64) << 40 | page << 20 | salt
}

fn fill(worker: &Worker<'_>, salt: u64) {
    let index = worker.index;
    let word = |page| worker.mapping.word(page, index);
    (0..NR_PAGES).for_each(|page| word(page).store(value(index, page, salt), Relaxed));
}

/// The chosen pages are fresh, the others as they were.
fn check(worker: &Worker<'_>, salt: u64, selection: &Selection) -> Result<()> {
    let chosen = selection.pages();
    for page in 0..NR_PAGES {
        let expected = match chosen.contains(&page) {
            true => 0,
            false => value(worker.index, page, salt),
        };
        let found = worker.mapping.word(page, worker.index).load(Relaxed);
        ensure!(
            found == expected,
            "{selection:?}: page {page} holds {found:#x}, not {expected:#x}"
        );
    }
    Ok(())
}

fn check_reply(
    reply: &abi::Unmap,
    selection: &Selection,
    strategy: u32,
    shape: Shape,
) -> Result<()> {
    let nr_pages = selection.pages().len() as u64;
    let nr_mms = shape.processes as u64;
    let expected = match strategy {
        strategy::PAGE => (nr_pages * nr_mms, nr_mms, nr_pages * nr_mms),
        strategy::BROADCAST => (nr_pages * nr_mms, nr_mms, 1),
        strategy::PRECISE if is_near(selection) => (nr_pages * nr_mms, nr_mms, nr_mms),
        strategy::PRECISE => (nr_pages * nr_mms, nr_mms, 1),
        // The core does the work; how often it flushes is counted elsewhere.
        _ => (0, 0, reply.nr_flush_calls),
    };
    let found = (reply.nr_ptes, reply.nr_mms, reply.nr_flush_calls);
    ensure!(
        reply.nr_pages == nr_pages && found == expected,
        "{selection:?}: {reply:?}"
    );
    ensure!(reply.nr_flush_calls > 0, "{reply:?}");
    Ok(())
}

/// Whether a ranged flush can cover the pages: up to the kernel's ceiling, 33 pages.
fn is_near(selection: &Selection) -> bool {
    let pages = selection.pages();
    let (first, last) = (pages.iter().min(), pages.iter().max());
    first
        .zip(last)
        .is_some_and(|(first, last)| last - first < 33)
}

fn check_counters(before: abi::Counters, after: abi::Counters, reply: &abi::Unmap) -> Result<()> {
    let expected = abi::Counters {
        nr_unmapped: before.nr_unmapped + reply.nr_pages,
        nr_ptes: before.nr_ptes + reply.nr_ptes,
        nr_flush_calls: before.nr_flush_calls + reply.nr_flush_calls,
        nr_recycled: before.nr_recycled + reply.nr_pages,
        nr_batches: after.nr_batches,
        ..before
    };
    ensure!(after == expected, "{after:?}, not {expected:?}");
    Ok(())
}

fn pages_that_are_not_there_are_passed_over(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    for strategy in REAL_STRATEGIES {
        let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy, 0)?;
        ensure!(
            reply.nr_pages == 0 && reply.nr_ptes == 0 && reply.nr_mms == 0,
            "{reply:?}"
        );
        mapping.word(3, 0).store(1, Relaxed);
        let list = Selection::List(vec![4, 3, 2]);
        let reply = device.unmap(&list, strategy, 0)?;
        ensure!(reply.nr_pages == 1, "{reply:?}");
        ensure!(
            mapping.word(3, 0).load(Relaxed) == 0,
            "the old page is still there"
        );
        device.unmap(&Selection::run(3, 1), strategy, 0)?;
    }
    Ok(())
}

fn populated_pages_that_nobody_maps_are_taken(_: &Options) -> Result<()> {
    let device = Device::open()?;
    for strategy in REAL_STRATEGIES {
        device.populate(0, NR_PAGES)?;
        let reply = device.unmap(&Selection::run(0, NR_PAGES), strategy, abi::UNMAP_FREE)?;
        ensure!(
            reply.nr_pages == NR_PAGES && reply.nr_ptes == 0,
            "{reply:?}"
        );
        let held = device.counters()?.nr_pages_held;
        ensure!(held == 0, "{held} pages held");
    }
    Ok(())
}

fn two_mappings_of_one_process_both_lose_the_page(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let (one, two) = (device.map(NR_PAGES)?, Mapping::new(&device, 4, 4)?);
    for strategy in REAL_STRATEGIES {
        one.word(5, 0).store(1, Relaxed);
        ensure!(two.word(1, 0).load(Relaxed) == 1, "not the same page");
        let reply = device.unmap(&Selection::run(5, 1), strategy, 0)?;
        // The core does not say.
        let expected = match abi::strategy::ALL[strategy as usize].batches {
            true => (2, 1),
            false => (0, 0),
        };
        ensure!((reply.nr_ptes, reply.nr_mms) == expected, "{reply:?}");
        ensure!(
            one.word(5, 0).load(Relaxed) == 0,
            "the old page in the first mapping"
        );
        ensure!(
            two.word(1, 0).load(Relaxed) == 0,
            "the old page in the second mapping"
        );
    }
    Ok(())
}

/// The argument and its list are read before the file is locked, and what is said goes to the fresh
/// page, whose fault locks it.
fn the_call_may_lie_in_the_pages_that_it_takes(_: &Options) -> Result<()> {
    const LIST_AT: usize = 256;
    for strategy in REAL_STRATEGIES {
        let can_defer = [strategy::BROADCAST, strategy::PRECISE].contains(&strategy);
        for flags in [0, abi::UNMAP_DEFER] {
            if flags != 0 && !can_defer {
                continue;
            }
            let device = Device::open()?;
            let mapping = device.map(NR_PAGES)?;
            mapping.word(0, LIST_AT).store(0, Relaxed);
            mapping.word(0, LIST_AT + 1).store(1, Relaxed);
            mapping.word(1, 0).store(7, Relaxed);
            let place = mapping.address();
            let list = place.wrapping_byte_add(LIST_AT * size_of::<u64>());
            let call = abi::Unmap {
                strategy,
                flags: flags | abi::UNMAP_LIST,
                list: list.addr() as u64,
                nr_list: 2,
                ..Default::default()
            };
            // SAFETY: The pages are the mapping's, and big enough; what the call leaves there is an
            // `Unmap`, of plain numbers.
            let reply = unsafe {
                place.cast::<abi::Unmap>().write_volatile(call);
                device.call_at(abi::UNMAP, place)?;
                place.cast::<abi::Unmap>().read_volatile()
            };
            // Deferred, what it said may have gone to the old page, by an old translation, and be read
            // from there, or not any more.
            let is_lost = flags != 0 && reply.nr_pages == 0;
            ensure!(
                reply.nr_pages == 2 || is_lost,
                "{}: {reply:?}",
                strategy_name(strategy)
            );
            device.flush()?;
            let value = mapping.word(1, 0).load(Relaxed);
            ensure!(value == 0, "an old page: {value}");
            let counters = device.counters()?;
            ensure!(counters.nr_pending == 0, "{counters:?}");
            ensure!(counters.nr_stale_writes == 0, "{counters:?}");
        }
    }
    Ok(())
}
