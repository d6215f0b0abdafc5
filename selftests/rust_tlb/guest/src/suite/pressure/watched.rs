// SPDX-License-Identifier: GPL-2.0

//! Idle pages are taken under the eyes of the stale-access oracle: idle is a promise about their
//! contents, nobody is kept from using them.

use std::sync::Arc;

use anyhow::{ensure, Result};

use crate::abi::{IDLE_MARK, IDLE_UNMARK};
use crate::cpu;
use crate::device::Device;
use crate::ktap::Options;
use crate::oracle::Oracle;
use crate::reclaim::Shrinkers;
use crate::watcher::Access;
use crate::workers::Shape;

const NR_PAGES: u64 = 32;
const NR_ROUNDS: u32 = 15;

pub fn idle_pages_of_threads_are_watched(options: &Options) -> Result<()> {
    watch(options, |device| {
        let mapping = Arc::new(device.map(NR_PAGES)?);
        Oracle::of_threads(&mapping, cpu::nr_cpus() - 1, 0, Access::ReadWrite)
    })
}

pub fn idle_pages_of_processes_are_watched(options: &Options) -> Result<()> {
    watch(options, |device| {
        let shape = Shape {
            processes: cpu::nr_cpus() - 1,
            threads: 1,
        };
        Oracle::of_processes(device, NR_PAGES, shape, Access::ReadWrite)
    })
}

fn watch(options: &Options, start: impl Fn(&Device) -> Result<Oracle>) -> Result<()> {
    let shrinkers = Shrinkers::open()?;
    for flavour in super::FLAVOURS {
        let device = Device::open()?;
        device.setup(flavour)?;
        let oracle = start(&device)?;
        let mut nr_taken = 0;
        for _ in 0..NR_ROUNDS * options.effort {
            oracle.await_passes(10)?;
            nr_taken += take_idle(&shrinkers, &device, &oracle)?;
        }
        let report = oracle.finish(&device)?;
        println!("# {nr_taken} pages taken, {report:?}");
        ensure!(nr_taken > 0, "nothing was taken");
        report.expect_silence()?;
    }
    Ok(())
}

/// The fresh page in the place of one that was taken is idle too, and may be taken in its turn: the
/// oracle has to think of more unmaps than there can be while the shrinkers run once.
const MOST_TIMES_TAKEN: usize = 64;

/// Has pages taken for as long as they are idle, and returns how many were. Those that were not are
/// still where they were, so that the oracle is not told of an end.
fn take_idle(shrinkers: &Shrinkers, device: &Device, oracle: &Oracle) -> Result<u64> {
    let ledger = oracle.ledger();
    for page in 0..NR_PAGES {
        (0..MOST_TIMES_TAKEN).for_each(|_| ledger.begin(page));
    }
    device.idle(0, NR_PAGES, IDLE_MARK)?;
    shrinkers.run()?;
    let mut nr_taken = 0;
    for page in 0..NR_PAGES {
        if device.idle(page, 1, IDLE_UNMARK)?.nr_taken > 0 {
            ledger.end(page);
            nr_taken += 1;
        }
    }
    Ok(nr_taken)
}
