// SPDX-License-Identifier: GPL-2.0

//! The workload that freeing empty page tables was argued for with, in 2024: 50 GiB of mapping, of
//! which one page per 2 MiB is used and taken back. What is left is a page table for each.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use serde::Serialize;

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::crew::Crew;
use crate::device::Device;
use crate::kernel_module::{self, Unloaded};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::page_tables::vm_pte_kb;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;

use super::clock::timed;

/// 50 GiB, and what is enough to see it work.
const NR_TABLES: u64 = 25_600;
const NR_TABLES_QUICK: u64 = 2_560;

/// How pages are taken back.
#[derive(Clone, Copy, Debug)]
enum How {
    /// `MADV_DONTNEED`, in the process that maps them: the kernel frees the tables. The device keeps
    /// its pages.
    Madvise,
    /// By the device, which frees the tables.
    Unmap,
    /// By the device, whose worker frees the tables.
    UnmapAsync,
    /// By the device, which leaves them.
    None,
}

const HOWS: [(&str, How); 4] = [
    ("madvise", How::Madvise),
    ("unmap", How::Unmap),
    ("unmap_async", How::UnmapAsync),
    ("none", How::None),
];

/// What became of the tables.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    pub how: &'static str,
    pub nr_pages: u64,
    pub vm_pte_before_kb: u64,
    /// When the call returns, ...
    pub vm_pte_held_kb: u64,
    /// ... and when all that it left to others is done.
    pub vm_pte_after_kb: u64,
    /// Of the time-stamp counter: instructions, by a clock that counts them.
    pub ticks_per_page: f64,
    pub rounds: u64,
    /// As the device counts them; of madvise there is no count.
    pub nr_tables_freed: u64,
}

/// Each way, on a module that is loaded for it.
pub fn run(quick: bool, mut emit: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let nr_tables = if quick { NR_TABLES_QUICK } else { NR_TABLES };
    let _unloaded = Unloaded::new()?;
    let nr_pages = nr_tables * PAGES_PER_TABLE;
    kernel_module::load(&format!("pages_per_device={nr_pages} max_list={nr_tables}"))??;
    for (name, how) in HOWS {
        emit(measure(name, how, nr_tables)?)?;
    }
    Ok(())
}

/// Waits until the worker has freed all tables.
fn await_worker(device: &Device, nr_tables: u64) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let end = Instant::now() + LIMIT;
    while device.counters()?.nr_tables_freed < nr_tables {
        ensure!(Instant::now() < end, "{:?}", device.counters()?);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn measure(name: &'static str, how: How, nr_tables: u64) -> Result<Row> {
    let device = Device::open()?;
    device.setup(match how {
        How::Unmap => abi::SETUP_FREE_TABLES,
        How::UnmapAsync => abi::SETUP_FREE_TABLES | abi::SETUP_FREE_TABLES_LATER,
        How::Madvise | How::None => 0,
    })?;
    let nr_mapped = nr_tables * PAGES_PER_TABLE;
    let mapping = Arc::new(Mapping::of_tables(&device, nr_mapped)?);
    // Somebody who has to be asked.
    let crew = Crew::of_threads(&mapping, 1, Wait::Spin, |member| {
        member.step()?;
        member.step()
    })?;
    crew.step()?;
    let pages = Selection::Every {
        first: 0,
        nr: nr_tables,
        stride: PAGES_PER_TABLE,
    };
    for page in pages.pages() {
        mapping.word(page, 0).store(page + 1, Relaxed);
    }
    let before = vm_pte_kb()?;
    let events = || TlbEvents::read()?.context("the kernel does not count TLB flushes");
    let counted = events()?;
    let (taken, elapsed) = timed(|| match how {
        How::Madvise => mapping.dont_need().map(|()| nr_tables),
        _ => {
            let reply = device.unmap(&pages, strategy::BROADCAST, abi::UNMAP_FREE);
            reply.map(|reply| reply.nr_pages)
        }
    });
    let held = vm_pte_kb()?;
    if matches!(how, How::UnmapAsync) {
        await_worker(&device, nr_tables)?;
    }
    let rounds = events()?.since(counted).remote_flush;
    let after = vm_pte_kb()?;
    crew.step()?;
    crew.join()?;
    let taken = taken?;
    ensure!(taken == nr_tables, "{name}: {taken} pages");
    Ok(Row {
        how: name,
        nr_pages: nr_tables,
        vm_pte_before_kb: before,
        vm_pte_held_kb: held,
        vm_pte_after_kb: after,
        ticks_per_page: elapsed.ticks as f64 / nr_tables as f64,
        rounds,
        nr_tables_freed: device.counters()?.nr_tables_freed,
    })
}
