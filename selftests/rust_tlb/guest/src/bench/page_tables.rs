// SPDX-License-Identifier: GPL-2.0

//! The workload that freeing empty page tables was argued for with, in 2024: 50 GiB of mapping, of
//! which one page per 2 MiB is used and taken back. What is left is a page table for each.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rust_tlb_results::names::TableUser;
pub use rust_tlb_results::said::PageTables as Row;

use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::device::Device;
use crate::kernel_module::{self, Unloaded};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::page_tables::vm_pte_kb;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;
use crate::workers::Workers;

use super::clock::timed;

/// 50 GiB, and what is enough to see it work.
const NR_TABLES: u64 = 25_600;
const NR_TABLES_QUICK: u64 = 2_560;

const HOWS: [TableUser; 4] = [
    TableUser::Madvise,
    TableUser::Unmap,
    TableUser::UnmapAsync,
    TableUser::None,
];

/// Each way, on a module that is loaded for it.
pub fn run(quick: bool, mut emit: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let nr_tables = if quick { NR_TABLES_QUICK } else { NR_TABLES };
    let _unloaded = Unloaded::new()?;
    let nr_pages = nr_tables * PAGES_PER_TABLE;
    kernel_module::load(&format!("pages_per_device={nr_pages} max_list={nr_tables}"))??;
    for how in HOWS {
        emit(measure(how, nr_tables)?)?;
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

fn measure(how: TableUser, nr_tables: u64) -> Result<Row> {
    let device = Device::open()?;
    device.setup(match how {
        TableUser::Unmap => abi::SETUP_FREE_TABLES,
        TableUser::UnmapAsync => abi::SETUP_FREE_TABLES | abi::SETUP_FREE_TABLES_LATER,
        TableUser::Madvise | TableUser::None => 0,
    })?;
    let nr_mapped = nr_tables * PAGES_PER_TABLE;
    let mapping = Arc::new(Mapping::of_tables(&device, nr_mapped)?);
    // Somebody who has to be asked.
    let workers = Workers::of_threads(&mapping, 1, Wait::Spin, |worker| {
        worker.step()?;
        worker.step()
    })?;
    workers.step()?;
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
        TableUser::Madvise => mapping.dont_need().map(|()| nr_tables),
        _ => {
            let reply = device.unmap(&pages, strategy::BROADCAST, abi::UNMAP_FREE);
            reply.map(|reply| reply.nr_pages)
        }
    });
    let held = vm_pte_kb()?;
    if matches!(how, TableUser::UnmapAsync) {
        await_worker(&device, nr_tables)?;
    }
    let rounds = events()?.since(counted).remote_flush;
    let after = vm_pte_kb()?;
    workers.step()?;
    workers.join()?;
    let taken = taken?;
    ensure!(taken == nr_tables, "{how}: {taken} pages");
    Ok(Row {
        how,
        nr_pages: nr_tables,
        vm_pte_before_kb: before,
        vm_pte_held_kb: held,
        vm_pte_after_kb: after,
        ticks_per_page: elapsed.ticks as f64 / nr_tables as f64,
        rounds,
        nr_tables_freed: device.counters()?.nr_tables_freed,
    })
}
