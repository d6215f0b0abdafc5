// SPDX-License-Identifier: GPL-2.0

//! Which tables go, and when: by `VmPTE`.

use anyhow::{ensure, Context, Result};

use super::{device, map, touch};
use crate::abi::{self, strategy};
use crate::device::{strategy_name, Device, BATCH_STRATEGIES, DEFERRING_STRATEGIES};
use crate::ftrace::Tracing;
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::page_tables::{vm_pte_kb, TABLE_KB};
use crate::selection::Selection;

const NR_TABLES: u64 = 3;

/// Pages in each of the tables: the first, the last, and some between them.
fn some_pages() -> Vec<u64> {
    let of_table = |table| [0, 1, 77, PAGES_PER_TABLE - 1].map(|n| table * PAGES_PER_TABLE + n);
    (0..NR_TABLES).flat_map(of_table).collect()
}

pub fn tables_go_with_the_unmap(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        for setup in [0, abi::SETUP_PFNMAP, abi::SETUP_NOTIFY, abi::SETUP_RING] {
            go_with_the_unmap(strategy, setup)
                .with_context(|| format!("{}, setup {setup}", strategy_name(strategy)))?;
        }
    }
    Ok(())
}

fn go_with_the_unmap(strategy: u32, setup: u32) -> Result<()> {
    let device = device(setup)?;
    let mapping = map(&device, NR_TABLES)?;
    for round in 1..=3 {
        let without = vm_pte_kb()?;
        touch(&mapping, some_pages());
        let with = vm_pte_kb()?;
        ensure!(with == without + NR_TABLES * TABLE_KB, "{without} {with}");
        let reply = device.unmap(&Selection::List(some_pages()), strategy, 0)?;
        ensure!(reply.nr_pages == some_pages().len() as u64, "{reply:?}");
        let after = vm_pte_kb()?;
        ensure!(after == without, "{after} kB instead of {without}");
        let counters = device.counters()?;
        ensure!(
            counters.nr_tables_freed == round * NR_TABLES && counters.nr_tables_used == 0,
            "{counters:?}"
        );
    }
    Ok(())
}

/// Two mappings of one process, at different offsets into their tables' pages.
pub fn all_mappings_lose_them(_: &Options) -> Result<()> {
    let device = device(0)?;
    let mappings = [map(&device, 1)?, map(&device, 2)?];
    let before = vm_pte_kb()?;
    mappings.iter().for_each(|mapping| touch(mapping, [3, 9]));
    ensure!(vm_pte_kb()? == before + 2 * TABLE_KB, "not two tables");
    device.unmap(&Selection::List(vec![3, 9]), strategy::BROADCAST, 0)?;
    ensure!(vm_pte_kb()? == before, "not all are gone");
    ensure!(device.counters()?.nr_tables_freed == 2, "not two tables");
    Ok(())
}

pub fn without_the_switch_they_stay(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let mapping = map(&device, NR_TABLES)?;
    touch(&mapping, some_pages());
    let before = vm_pte_kb()?;
    for strategy in BATCH_STRATEGIES {
        device.unmap(&Selection::List(some_pages()), strategy, 0)?;
        ensure!(vm_pte_kb()? == before, "{}", strategy_name(strategy));
        touch(&mapping, some_pages());
    }
    ensure!(device.counters()?.nr_tables_freed == 0, "some are freed");
    Ok(())
}

/// While a flush is owed, the empty table is what tells munmap and mprotect of it.
pub fn a_deferred_batch_keeps_them_until_it_is_flushed(_: &Options) -> Result<()> {
    for strategy in DEFERRING_STRATEGIES {
        let device = device(0)?;
        let mapping = map(&device, NR_TABLES)?;
        let before = vm_pte_kb()?;
        touch(&mapping, some_pages());
        let mapped = vm_pte_kb()?;
        let selection = Selection::List(some_pages());
        device.unmap(&selection, strategy, abi::UNMAP_DEFER)?;
        ensure!(vm_pte_kb()? == mapped, "gone before the flush");
        device.flush()?;
        ensure!(vm_pte_kb()? == before, "not gone with the flush");
    }
    Ok(())
}

/// Tables that were looked at, by the event of it.
fn looked_at(what: impl FnOnce() -> Result<()>) -> Result<usize> {
    let tracing = Tracing::new(&["rust_tlb"])?.context("the kernel has no events")?;
    let ((), events) = tracing.record(what)?;
    let pid = std::process::id();
    let is_it = |name: &str, by: u32| name == "rust_tlb_table_take" && by == pid;
    Ok(events.iter().filter(|e| is_it(&e.name, e.pid)).count())
}

/// As long as the device has a page that a table shows, the table is not even read.
pub fn what_is_in_use_is_not_looked_at(_: &Options) -> Result<()> {
    let device = device(0)?;
    let mapping = map(&device, NR_TABLES)?;
    touch(&mapping, some_pages());
    let before = vm_pte_kb()?;
    let unmap = |pages: Vec<u64>| {
        let selection = Selection::List(pages);
        device.unmap(&selection, strategy::PRECISE, 0)?;
        Ok(())
    };
    let mut pages = some_pages();
    let last = pages.pop().context("no pages")?;
    let nr = looked_at(|| unmap(pages))?;
    ensure!(nr as u64 == NR_TABLES - 1, "{nr} tables");
    let kept = vm_pte_kb()?;
    ensure!(kept == before - (NR_TABLES - 1) * TABLE_KB, "{kept} kB");
    let nr = looked_at(|| unmap(vec![last]))?;
    ensure!(nr == 1, "{nr} tables");
    ensure!(vm_pte_kb()? == before - NR_TABLES * TABLE_KB, "it stays");
    Ok(())
}

/// Else other VMAs would lose the table, that the device knows nothing of.
pub fn a_mapping_of_a_half_keeps_them(_: &Options) -> Result<()> {
    let device = device(0)?;
    let mut mapping = map(&device, 1)?;
    // Two VMAs now, and three.
    mapping.replace(&device, 0, PAGES_PER_TABLE / 2)?;
    expect_kept(&device, &mapping)?;
    mapping.replace(&device, PAGES_PER_TABLE - 1, 1)?;
    expect_kept(&device, &mapping)
}

fn expect_kept(device: &Device, mapping: &Mapping) -> Result<()> {
    touch(mapping, [0, PAGES_PER_TABLE - 2, PAGES_PER_TABLE - 1]);
    let before = vm_pte_kb()?;
    let all = Selection::run(0, PAGES_PER_TABLE);
    device.unmap(&all, strategy::BROADCAST, 0)?;
    ensure!(vm_pte_kb()? == before, "a table is gone");
    Ok(())
}
