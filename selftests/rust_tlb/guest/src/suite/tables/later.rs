// SPDX-License-Identifier: GPL-2.0

//! Page tables that are not freed at once: by a worker, or when memory is short.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use super::{map, touch};
use crate::abi::{self, strategy};
use crate::barrier::{Barrier, Wait};
use crate::child::Child;
use crate::device::Device;
use crate::held_moment;
use crate::kernel_module::{self, Unloaded};
use crate::ktap::{skip, Options};
use crate::mapping::PAGES_PER_TABLE;
use crate::page_tables::{vm_pte_kb, TABLE_KB};
use crate::reclaim::Shrinkers;
use crate::selection::Selection;

const NR_TABLES: u64 = 5;
const NR_PROCESSES: usize = 3;
/// Within this, the worker has been there.
const LIMIT: Duration = Duration::from_secs(20);

fn device() -> Result<Device> {
    let device = Device::open()?;
    device.setup(abi::SETUP_FREE_TABLES | abi::SETUP_FREE_TABLES_LATER)?;
    Ok(device)
}

/// A page of each table.
fn pages() -> Selection {
    Selection::Every {
        first: 0,
        nr: NR_TABLES,
        stride: PAGES_PER_TABLE,
    }
}

fn await_counters(
    device: &Device,
    is_it: impl Fn(&abi::Counters) -> bool,
) -> Result<abi::Counters> {
    let end = Instant::now() + LIMIT;
    loop {
        let counters = device.counters()?;
        if is_it(&counters) {
            return Ok(counters);
        }
        ensure!(Instant::now() < end, "{counters:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A module whose worker does not come by itself for as long as a test lasts.
fn with_late_worker() -> Result<Option<Unloaded>> {
    if kernel_module::path().is_none() {
        return Ok(None);
    }
    let again = Unloaded::new()?;
    kernel_module::load("tables_age_ms=600000")??;
    Ok(Some(again))
}

/// The unmap has one flush, and the worker one more, for the tables of all processes.
pub fn a_worker_frees_the_tables_of_all_processes(_: &Options) -> Result<()> {
    let device = device()?;
    let barrier = Barrier::new(NR_PROCESSES + 1, Wait::Sleep)?;
    let fork = |_| {
        Child::fork(|| {
            let mapping = map(&device, NR_TABLES)?;
            let before = vm_pte_kb()?;
            touch(&mapping, pages().pages());
            ensure!(vm_pte_kb()? == before + NR_TABLES * TABLE_KB, "no tables");
            barrier.wait()?;
            barrier.wait()?;
            let after = vm_pte_kb()?;
            ensure!(after == before, "{after} kB instead of {before}");
            Ok(())
        })
    };
    let children: Vec<Child> = (0..NR_PROCESSES).map(fork).collect::<Result<_>>()?;
    barrier.wait()?;
    let reply = device.unmap(&pages(), strategy::BROADCAST, 0)?;
    ensure!(reply.nr_flush_calls == 1, "{reply:?}");
    let nr_tables = NR_TABLES * NR_PROCESSES as u64;
    let counters = await_counters(&device, |c| c.nr_tables_freed == nr_tables)?;
    ensure!(
        counters.nr_tables_later == NR_TABLES && counters.nr_flush_calls == 2,
        "{counters:?}"
    );
    barrier.wait()?;
    children.into_iter().try_for_each(Child::join)
}

/// A process that changes its mappings is tried thrice. Its tables go next time.
pub fn a_busy_process_is_tried_again(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    let device = device()?;
    let barrier = Barrier::new(2, Wait::Sleep)?;
    let child = Child::fork(|| {
        let mapping = map(&device, 1)?;
        touch(&mapping, [0]);
        held_moment::hold_own_mappings()?;
        touch(&mapping, [0]);
        barrier.wait()?;
        barrier.wait()
    })?;
    held_moment::await_held()?;
    device.unmap(&Selection::run(0, 1), strategy::PRECISE, 0)?;
    let counters = await_counters(&device, |c| c.nr_tables_busy == 3)?;
    ensure!(counters.nr_tables_freed == 0, "{counters:?}");
    held_moment::go_on()?;
    barrier.wait()?;
    device.unmap(&Selection::run(0, 1), strategy::PRECISE, 0)?;
    await_counters(&device, |c| c.nr_tables_freed == 1)?;
    barrier.wait()?;
    child.join()
}

pub fn memory_pressure_frees_them_at_once(_: &Options) -> Result<()> {
    let Some(_again) = with_late_worker()? else {
        return skip("no module file is known");
    };
    let device = device()?;
    let mapping = map(&device, NR_TABLES)?;
    let before = vm_pte_kb()?;
    touch(&mapping, pages().pages());
    device.unmap(&pages(), strategy::BROADCAST, abi::UNMAP_FREE)?;
    let kept = vm_pte_kb()?;
    ensure!(kept == before + NR_TABLES * TABLE_KB, "gone by themselves");
    let shrinkers = Shrinkers::open()?;
    let end = Instant::now() + LIMIT;
    // It passes over a device that is busy.
    while device.counters()?.nr_tables_freed < NR_TABLES {
        ensure!(Instant::now() < end, "{:?}", device.counters()?);
        shrinkers.run()?;
    }
    ensure!(vm_pte_kb()? == before, "not all are gone");
    Ok(())
}

/// What was to be freed goes with the process, or with the file; nobody waits for the worker.
pub fn nothing_is_left_to_do_at_the_end(_: &Options) -> Result<()> {
    let Some(_again) = with_late_worker()? else {
        return skip("no module file is known");
    };
    let device = device()?;
    Child::fork(|| {
        let mapping = map(&device, NR_TABLES)?;
        touch(&mapping, pages().pages());
        device.unmap(&pages(), strategy::BROADCAST, 0)?;
        Ok(())
    })?
    .join()?;
    let mapping = map(&device, NR_TABLES)?;
    touch(&mapping, pages().pages());
    device.unmap(&pages(), strategy::BROADCAST, 0)?;
    drop((mapping, device));
    kernel_module::unload(kernel_module::NAME)?;
    Ok(())
}
