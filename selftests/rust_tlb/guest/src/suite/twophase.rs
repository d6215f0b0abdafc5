// SPDX-License-Identifier: GPL-2.0

//! Write-protect, flush, unmap, flush: which PTEs are write-protected first, what that costs, and
//! that a write between the phases is seen and not lost.

mod cost;
mod notify;
mod redirtied;
mod watched;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::device::DEFERRING_STRATEGIES as STRATEGIES;
use crate::device::{strategy_name, Device};
use crate::ktap::Options;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::workers::{Shape, Workers};

use cost::{
    clean_pages_take_two_rounds, dirty_pages_take_one_round, read_only_pages_take_one_round,
    trust_takes_one_round,
};
use notify::{
    a_fault_leaves_what_is_there, no_write_to_notified_pages_is_lost,
    notified_pages_are_never_protected, without_setup_no_write_is_noticed,
    writes_to_pages_are_noticed_once, writes_to_pfns_are_noticed_once,
};
use redirtied::{a_write_between_the_phases_is_seen, no_write_is_lost};
use watched::{two_phase_broadcast_is_silent, two_phase_precise_is_silent};

crate::tests! {
    clean_pages_are_protected_first,
    clean_pages_are_protected_in_every_process,
    dirty_pages_go_straight_to_the_unmap,
    read_only_pages_go_straight_to_the_unmap,
    of_a_mixture_the_clean_are_protected,
    contents_come_back,
    two_phases_need_a_batch,
    trust_takes_one_round,
    clean_pages_take_two_rounds,
    dirty_pages_take_one_round,
    read_only_pages_take_one_round,
    writes_to_pages_are_noticed_once,
    writes_to_pfns_are_noticed_once,
    without_setup_no_write_is_noticed,
    notified_pages_are_never_protected,
    no_write_to_notified_pages_is_lost,
    a_fault_leaves_what_is_there,
    a_write_between_the_phases_is_seen,
    no_write_is_lost,
    two_phase_broadcast_is_silent,
    two_phase_precise_is_silent,
}

const NR_PAGES: u64 = 32;

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

fn read(mapping: &Mapping) -> u64 {
    let pages = 0..mapping.nr_pages();
    pages.map(|page| mapping.word(page, 7).load(Relaxed)).sum()
}

fn write(mapping: &Mapping) {
    (0..mapping.nr_pages()).for_each(|page| mapping.word(page, 7).store(page + 1, Relaxed));
}

fn mapped() -> Result<(Device, Mapping)> {
    mapped_as(0)
}

/// A device that is mapped in the given way.
fn mapped_as(setup: u32) -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    device.setup(setup)?;
    let mapping = device.map(NR_PAGES)?;
    Ok((device, mapping))
}

fn clean() -> Result<(Device, Mapping)> {
    clean_as(0)
}

/// A device whose pages are mapped writable and clean, with contents.
fn clean_as(setup: u32) -> Result<(Device, Mapping)> {
    let (device, mapping) = mapped_as(setup)?;
    write(&mapping);
    let reply = device.unmap(&all(), strategy::BROADCAST, abi::UNMAP_WRITE_BACK)?;
    ensure!(reply.nr_written_back == NR_PAGES, "{reply:?}");
    ensure!(read(&mapping) > 0, "the contents are gone");
    Ok((device, mapping))
}

/// Unmaps everything in two phases, and demands that `nr` of the PTEs were write-protected first.
fn expect_protected(device: &Device, strategy: u32, nr: u64) -> Result<abi::Unmap> {
    let reply = device.unmap(&all(), strategy, abi::UNMAP_TWO_PHASE)?;
    ensure!(
        reply.nr_pages == NR_PAGES && reply.nr_protected == nr && reply.nr_redirtied == 0,
        "{}: {reply:?}, not {nr} PTEs protected",
        strategy_name(strategy)
    );
    Ok(reply)
}

/// Released, poisoned, and replaced by pages of zeroes.
fn expect_released(device: &Device, mapping: &Mapping) -> Result<()> {
    let counters = device.counters()?;
    ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    ensure!(counters.nr_recycled >= NR_PAGES, "{counters:?}");
    ensure!(read(mapping) == 0, "the old pages are still there");
    Ok(())
}

fn clean_pages_are_protected_first(_: &Options) -> Result<()> {
    for setup in [0, abi::SETUP_PFNMAP] {
        for strategy in STRATEGIES {
            let (device, mapping) = clean_as(setup)?;
            let reply = expect_protected(&device, strategy, NR_PAGES)?;
            ensure!(reply.nr_ptes == NR_PAGES, "{reply:?}");
            expect_released(&device, &mapping)?;
            // Not without the flag.
            let reply = device.unmap(&all(), strategy, 0)?;
            ensure!(reply.nr_protected == 0, "{reply:?}");
        }
    }
    Ok(())
}

fn clean_pages_are_protected_in_every_process(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        for processes in [2, 5] {
            let reply = unmap_from_sleepers(strategy, processes)?;
            let nr_ptes = NR_PAGES * processes as u64;
            ensure!(
                reply.nr_protected == nr_ptes && reply.nr_ptes == nr_ptes,
                "{processes} processes: {reply:?}"
            );
            ensure!(reply.nr_mms == processes as u64, "{reply:?}");
        }
    }
    Ok(())
}

/// Unmaps pages that so many processes have read, in two phases.
fn unmap_from_sleepers(strategy: u32, processes: usize) -> Result<abi::Unmap> {
    let device = Device::open()?;
    let shape = Shape {
        processes,
        threads: 1,
    };
    let workers = Workers::of_processes(&device, NR_PAGES, shape, Wait::Sleep, |worker| {
        read(worker.mapping);
        worker.step()?;
        worker.step()?;
        ensure!(read(worker.mapping) == 0, "the pages are not fresh");
        Ok(())
    })?;
    workers.step()?;
    let reply = device.unmap(&all(), strategy, abi::UNMAP_TWO_PHASE)?;
    workers.step()?;
    workers.join()?;
    Ok(reply)
}

fn dirty_pages_go_straight_to_the_unmap(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = mapped()?;
        write(&mapping);
        let reply = expect_protected(&device, strategy, 0)?;
        ensure!(reply.nr_ptes == NR_PAGES, "{reply:?}");
        expect_released(&device, &mapping)?;
    }
    Ok(())
}

/// Mapped so, or made so.
fn read_only_pages_go_straight_to_the_unmap(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let device = Device::open()?;
        let mapping = Mapping::with(&device, 0, NR_PAGES, ProtFlags::READ, MapFlags::SHARED)?;
        read(&mapping);
        let reply = expect_protected(&device, strategy, 0)?;
        ensure!(reply.nr_ptes == NR_PAGES, "{reply:?}");
        expect_released(&device, &mapping)?;

        let (device, mapping) = clean()?;
        mapping.protect(MprotectFlags::READ)?;
        expect_protected(&device, strategy, 0)?;
        expect_released(&device, &mapping)?;
    }
    Ok(())
}

/// Of the same page, one PTE may be clean and another one not.
fn of_a_mixture_the_clean_are_protected(_: &Options) -> Result<()> {
    const NR_DIRTY: u64 = NR_PAGES / 4;
    for strategy in STRATEGIES {
        let (device, mapping) = clean()?;
        let (dirty, clean) = (device.map(NR_PAGES)?, device.map(NR_PAGES)?);
        let read_only = Mapping::with(&device, 0, NR_PAGES, ProtFlags::READ, MapFlags::SHARED)?;
        write(&dirty);
        read(&clean);
        read(&read_only);
        for page in 0..NR_DIRTY {
            mapping.word(4 * page, 0).store(1, Relaxed);
        }
        let nr_clean = 2 * NR_PAGES - NR_DIRTY;
        let reply = expect_protected(&device, strategy, nr_clean)?;
        ensure!(reply.nr_ptes == 4 * NR_PAGES, "{reply:?}");
        for mapping in [&mapping, &dirty, &clean, &read_only] {
            ensure!(read(mapping) == 0, "the old pages are still there");
        }
    }
    Ok(())
}

fn contents_come_back(_: &Options) -> Result<()> {
    let flags = abi::UNMAP_TWO_PHASE | abi::UNMAP_WRITE_BACK;
    for strategy in STRATEGIES {
        let (device, mapping) = clean()?;
        let contents = read(&mapping);
        for nr_protected in [NR_PAGES, NR_PAGES - 1, NR_PAGES - 1] {
            let reply = device.unmap(&all(), strategy, flags)?;
            ensure!(reply.nr_written_back == NR_PAGES, "{reply:?}");
            ensure!(reply.nr_protected == nr_protected, "{reply:?}");
            ensure!(read(&mapping) == contents, "contents were lost");
            // Dirty, as the last one next time.
            mapping.word(3, 7).store(4, Relaxed);
        }
    }
    Ok(())
}

fn two_phases_need_a_batch(_: &Options) -> Result<()> {
    let (device, mapping) = clean()?;
    let contents = read(&mapping);
    for strategy in [strategy::ZAP, strategy::UNMAP_MAPPING, strategy::GATHER] {
        let refused = device.unmap(&all(), strategy, abi::UNMAP_TWO_PHASE);
        ensure!(refused == Err(Errno::INVAL), "{refused:?}");
    }
    ensure!(read(&mapping) == contents, "the pages have changed");
    let counters = device.counters()?;
    ensure!(counters.nr_unmapped == NR_PAGES, "{counters:?}");
    Ok(())
}
