// SPDX-License-Identifier: GPL-2.0

//! CPUs in lazy mode: they have the address space loaded, and run nothing of it. They may walk its
//! tables all the same, so that they are asked when a table goes, and only then.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::thread;

use anyhow::{ensure, Context, Result};

use super::{device, map, needs_faults, touch};
use crate::abi::{self, strategy};
use crate::barrier::Wait;
use crate::cpu;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::selection::Selection;
use crate::stillness::{self, this_thread, Stillness};
use crate::tlb_events::{most_common, TlbEvents};
use crate::workers::Workers;

const NR_CPUS: usize = 4;
const NR_ROUNDS: u32 = 7;
/// Rounds in which somebody has woken up count for nothing, and are repeated.
const MAX_SPOILT: u32 = 400;

/// Waits until these threads have left their CPUs to nobody.
fn await_sleep(threads: &[u64]) -> Result<()> {
    for thread in threads {
        while stillness::state(&thread.to_string())? != 'S' {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// IPIs for an unmap of all that is mapped, with threads of the process asleep on all other CPUs.
fn ipis(options: &Options, device: Device, strategy: u32, flags: u32) -> Result<u64> {
    let mapping = Arc::new(map(&device, 1)?);
    let threads: Arc<[AtomicU64; NR_CPUS - 1]> = Arc::default();
    let shown = threads.clone();
    let workers = Workers::of_threads(&mapping, NR_CPUS - 1, Wait::Sleep, move |worker| {
        shown[worker.index].store(this_thread(), Ordering::Release);
        loop {
            touch(worker.mapping, [worker.index as u64]);
            worker.step()?;
            worker.step()?;
        }
    })?;
    let read = || TlbEvents::read()?.context("the kernel has no CONFIG_DEBUG_TLBFLUSH");
    let (mut received, mut nr_spoilt) = (Vec::new(), 0);
    while received.len() < (NR_ROUNDS * options.effort) as usize {
        workers.step()?;
        let threads: Vec<u64> = threads.iter().map(|t| t.load(Ordering::Acquire)).collect();
        await_sleep(&threads)?;
        let stillness = Stillness::of(threads)?;
        let before = read()?;
        device.unmap(&Selection::run(0, NR_CPUS as u64), strategy, flags)?;
        let nr = read()?.since(before).remote_flush_received;
        match stillness.none_switched()? {
            true => received.push(nr),
            false => nr_spoilt += 1,
        }
        ensure!(nr_spoilt < MAX_SPOILT, "somebody wakes up each time");
        workers.step()?;
    }
    println!("# IPIs: {received:?}");
    Ok(most_common(received))
}

fn needs_cpus() -> Result<()> {
    if cpu::nr_cpus() < NR_CPUS {
        return skip(format!("{NR_CPUS} CPUs are needed"));
    }
    Ok(())
}

pub fn lazy_cpus_are_asked_too(options: &Options) -> Result<()> {
    needs_cpus()?;
    for (strategy, setup) in [
        (strategy::BROADCAST, 0),
        (strategy::PRECISE, 0),
        (strategy::RING, abi::SETUP_RING),
    ] {
        let with = ipis(options, device(setup)?, strategy, 0)?;
        ensure!(with == NR_CPUS as u64 - 1, "{with} IPIs with tables");
        let device = Device::open()?;
        device.setup(setup)?;
        let without = ipis(options, device, strategy, 0)?;
        ensure!(without == 0, "{without} IPIs without");
    }
    Ok(())
}

pub fn a_lazy_cpu_that_is_not_asked_shows(options: &Options) -> Result<()> {
    needs_cpus()?;
    let device = device(0)?;
    needs_faults(&device)?;
    let flags = abi::UNMAP_BREAK_TABLES_LAZY;
    let nr = ipis(options, device, strategy::BROADCAST, flags)?;
    ensure!(nr == 0, "{nr} IPIs, though the rule is broken");
    Ok(())
}
