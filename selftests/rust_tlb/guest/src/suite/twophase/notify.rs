// SPDX-License-Identifier: GPL-2.0

//! Mappings that are read-only until the first write, which the device is told of: by
//! `page_mkwrite`, and by `pfn_mkwrite` where pages are mapped by number.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;

use anyhow::{ensure, Result};

use super::{all, expect_protected, expect_released, mapped_as, read, write, NR_PAGES, STRATEGIES};
use crate::abi;
use crate::attempts::{caught_every_time, Attempt};
use crate::device::{strategy_name, Device};
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::suite::neighbours::{await_started, await_stuck, tid};
use crate::writers::Writers;

const OF_PAGES: u32 = abi::SETUP_NOTIFY;
const OF_PFNS: u32 = abi::SETUP_NOTIFY | abi::SETUP_PFNMAP;

fn expect_noticed(device: &Device, nr: u64, what: &str) -> Result<()> {
    let noticed = device.counters()?.nr_mkwrites;
    ensure!(noticed == nr, "{what}: {noticed} noticed, not {nr}");
    Ok(())
}

pub fn writes_to_pages_are_noticed_once(_: &Options) -> Result<()> {
    are_noticed_once(OF_PAGES)
}

pub fn writes_to_pfns_are_noticed_once(_: &Options) -> Result<()> {
    are_noticed_once(OF_PFNS)
}

fn are_noticed_once(flags: u32) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = mapped_as(flags)?;
        for round in 1..=3 {
            read(&mapping);
            expect_noticed(&device, (round - 1) * NR_PAGES, "reads")?;
            write(&mapping);
            expect_noticed(&device, round * NR_PAGES, "first writes")?;
            write(&mapping);
            expect_noticed(&device, round * NR_PAGES, "second writes")?;
            // Then all pages are mapped anew, and have a first write again.
            let reply = device.unmap(&all(), strategy, abi::UNMAP_WRITE_BACK)?;
            ensure!(reply.nr_written_back == NR_PAGES, "{reply:?}");
        }
        ensure!(
            read(&mapping) == (1..=NR_PAGES).sum::<u64>(),
            "contents were lost"
        );
        // Also where nobody has read before.
        device.unmap(&all(), strategy, 0)?;
        write(&mapping);
        expect_noticed(&device, 4 * NR_PAGES, "first accesses")?;
    }
    Ok(())
}

/// Others than those that were asked for do not know of writes.
pub fn without_setup_no_write_is_noticed(_: &Options) -> Result<()> {
    for flags in [0, abi::SETUP_PFNMAP] {
        let (device, mapping) = mapped_as(flags)?;
        read(&mapping);
        write(&mapping);
        expect_noticed(&device, 0, "writes")?;
    }
    Ok(())
}

/// They are read-only, or dirty, and nothing in between.
pub fn notified_pages_are_never_protected(_: &Options) -> Result<()> {
    for flags in [OF_PAGES, OF_PFNS] {
        for strategy in STRATEGIES {
            let (device, mapping) = mapped_as(flags)?;
            read(&mapping);
            let reply = expect_protected(&device, strategy, 0)?;
            ensure!(reply.nr_ptes == NR_PAGES, "{reply:?}");
            expect_released(&device, &mapping)?;
            write(&mapping);
            expect_protected(&device, strategy, 0)?;
            expect_released(&device, &mapping)?;
        }
    }
    Ok(())
}

const NR_UNMAPS: u32 = 20;

pub fn no_write_to_notified_pages_is_lost(options: &Options) -> Result<()> {
    for flags in [OF_PAGES, OF_PFNS] {
        for strategy in STRATEGIES {
            let (device, mapping) = mapped_as(flags)?;
            let writers = Writers::start(&Arc::new(mapping))?;
            for _ in 0..NR_UNMAPS * options.effort {
                writers.await_passes(1)?;
                let in_two = abi::UNMAP_TWO_PHASE | abi::UNMAP_WRITE_BACK;
                let reply = device.unmap(&all(), strategy, in_two)?;
                ensure!(reply.nr_protected == 0, "{reply:?}");
                ensure!(reply.nr_written_back > 0, "{reply:?}");
            }
            let nr_lost = writers.finish()?;
            ensure!(
                nr_lost == 0,
                "{}: {nr_lost} writes",
                strategy_name(strategy)
            );
            ensure!(device.counters()?.nr_mkwrites > 0, "nobody wrote");
        }
    }
    Ok(())
}

/// The moment held open in which a write looks for a page that a read is just mapping. What the read
/// has mapped stays read-only: the write is noticed, and finds no PTE that is writable and clean.
pub fn a_fault_leaves_what_is_there(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    caught_every_time(1, read_beside_a_write)
}

/// Spoilt, if the moment is over before the write has come to it.
fn read_beside_a_write() -> Result<Attempt> {
    let (device, mapping) = mapped_as(OF_PAGES)?;
    let (writing_tid, is_held) = (AtomicU32::new(0), AtomicBool::new(false));
    let is_stuck = thread::scope(|scope| {
        // To start a thread waits for whoever is in a fault.
        let writing = scope.spawn(|| {
            writing_tid.store(tid(), Relaxed);
            while !is_held.load(Relaxed) {
                thread::yield_now();
            }
            mapping.populate_writable(0)
        });
        await_started(&writing_tid);
        let reading = scope.spawn(|| {
            held_moment::hold_own_fault()?;
            mapping.word(0, 0).load(Relaxed);
            anyhow::Ok(())
        });
        let held = held_moment::await_held();
        is_held.store(true, Relaxed);
        held?;
        let stuck = await_stuck(&format!("self/task/{}", writing_tid.load(Relaxed)));
        held_moment::go_on()?;
        reading.join().expect("nobody panics")?;
        writing.join().expect("nobody panics")?;
        stuck
    })?;
    if !is_stuck {
        return Ok(Attempt::Spoilt);
    }
    // By the fault that came too late, and when it was tried again.
    expect_noticed(&device, 2, "the write")?;
    let in_two = abi::UNMAP_TWO_PHASE | abi::UNMAP_WRITE_BACK;
    let reply = device.unmap(&all(), abi::strategy::PRECISE, in_two)?;
    ensure!(reply.nr_ptes == 1 && reply.nr_protected == 0, "{reply:?}");
    ensure!(reply.nr_written_back == 1, "{reply:?}");
    Ok(Attempt::Caught)
}
