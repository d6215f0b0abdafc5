// SPDX-License-Identifier: GPL-2.0

//! Two phases under the eyes of the stale-access oracle.

use std::sync::Arc;

use anyhow::{ensure, Result};

use super::NR_PAGES;
use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::ktap::Options;
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::Access;
use crate::workers::Shape;

const NR_ROUNDS: u32 = 6;
const NR_PASSES: u64 = 200;

pub fn two_phase_broadcast_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::BROADCAST)
}

pub fn two_phase_precise_is_silent(options: &Options) -> Result<()> {
    is_silent(options, strategy::PRECISE)
}

fn is_silent(options: &Options, strategy: u32) -> Result<()> {
    for access in [Access::Read, Access::ReadWrite, Access::Write] {
        let device = Device::open()?;
        let mapping = Arc::new(device.map(NR_PAGES)?);
        let oracle = Oracle::of_threads(&mapping, cpu::nr_cpus() - 1, 0, access)?;
        unmap_rounds(options, device, oracle, strategy)?;
    }
    let device = Device::open()?;
    let shape = Shape {
        processes: cpu::nr_cpus() - 1,
        threads: 1,
    };
    let oracle = Oracle::of_processes(&device, NR_PAGES, shape, Access::ReadWrite)?;
    unmap_rounds(options, device, oracle, strategy)
}

fn unmap_rounds(options: &Options, device: Device, oracle: Oracle, strategy: u32) -> Result<()> {
    oracle.await_passes(8)?;
    for round in 0..u64::from(NR_ROUNDS * options.effort) {
        let pages = Selection::scattered(round % 2, NR_PAGES / 2);
        let reply = oracle.unmap(&device, &pages, strategy, abi::UNMAP_TWO_PHASE)?;
        ensure!(reply.nr_pages == NR_PAGES / 2, "{reply:?}");
        oracle.await_passes(NR_PASSES)?;
    }
    let report = oracle.finish(&device)?;
    println!("# {report:?}");
    report.expect_silence()
}
