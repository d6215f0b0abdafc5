// SPDX-License-Identifier: GPL-2.0

//! Under the eyes of the stale-access oracle: nobody reaches a page after its flush.

use std::sync::Arc;

use anyhow::{ensure, Result};

use super::ring_device;
use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::ktap::Options;
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::Access;
use crate::workers::Shape;

const NR_PAGES: u64 = 32;
const NR_ROUNDS: u32 = 6;
const NR_PASSES: u64 = 200;

fn start(by_threads: bool, device: &Device, access: Access) -> Result<Oracle> {
    let nr = cpu::nr_cpus() - 1;
    let oracle = if by_threads {
        let mapping = Arc::new(device.map(NR_PAGES)?);
        Oracle::of_threads(&mapping, nr, 0, access)
    } else {
        let shape = Shape {
            processes: nr,
            threads: 1,
        };
        Oracle::of_processes(device, NR_PAGES, shape, access)
    }?;
    oracle.await_passes(8)?;
    Ok(oracle)
}

/// Every other page, then all: exact, and as exact as the ceiling allows.
fn selection(round: u32) -> Selection {
    match round % 3 {
        2 => Selection::run(0, NR_PAGES),
        odd => Selection::scattered(u64::from(odd), NR_PAGES / 2),
    }
}

pub fn ring_is_silent(options: &Options) -> Result<()> {
    for strategy in [strategy::RING, strategy::AUTO] {
        for (by_threads, access) in [
            (true, Access::Read),
            (true, Access::ReadWrite),
            (true, Access::Write),
            (false, Access::ReadWrite),
        ] {
            let device = ring_device()?;
            let oracle = start(by_threads, &device, access)?;
            for round in 0..NR_ROUNDS * options.effort {
                oracle.unmap(&device, &selection(round), strategy, 0)?;
                oracle.await_passes(NR_PASSES)?;
            }
            let report = oracle.finish(&device)?;
            println!("# {strategy} {by_threads} {access:?}: {report:?}");
            report.expect_silence()?;
        }
    }
    Ok(())
}

/// The workers fault on what is pending, which flushes it.
pub fn deferred_ring_is_silent(options: &Options) -> Result<()> {
    for by_threads in [true, false] {
        let device = ring_device()?;
        let oracle = start(by_threads, &device, Access::ReadWrite)?;
        for round in 0..NR_ROUNDS * options.effort {
            let pages = selection(round);
            oracle.unmap(&device, &pages, strategy::RING, abi::UNMAP_DEFER)?;
            oracle.await_passes(NR_PASSES / 2)?;
            oracle.flush(&device)?;
            oracle.await_passes(NR_PASSES / 2)?;
        }
        let report = oracle.finish(&device)?;
        println!("# {by_threads}: {report:?}");
        report.expect_silence()?;
        ensure!(device.counters()?.nr_batches > 0, "no batch");
    }
    Ok(())
}
