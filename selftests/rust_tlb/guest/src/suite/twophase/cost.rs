// SPDX-License-Identifier: GPL-2.0

//! What the first phase costs: a flush round, if there is anything to write-protect. Counted by the
//! kernel, as in the suite `counts`.

use anyhow::{ensure, Result};

use super::super::counts::{for_each_mapped_by, NR_OTHER_CPUS};
use crate::abi::{self, strategy};
use crate::counted::{CountedDevice, MappedBy, Touch};
use crate::device::Device;
use crate::ktap::Options;
use crate::selection::Selection;
use crate::tlb_events::most_common;

/// Pages that are mapped, every other one of which is unmapped, at most.
const NR_MAPPED: u64 = 512;

const NR_ROUNDS: u32 = 3;

/// Flush rounds of an unmap by broadcast, the most common number of several.
fn rounds(options: &Options, counted: &CountedDevice, nr_pages: u64, flags: u32) -> Result<u64> {
    let pages = Selection::scattered(0, nr_pages);
    let mut counts = Vec::new();
    for _ in 0..NR_ROUNDS * options.effort {
        let (reply, events) =
            counted.counted(|device| Ok(device.unmap(&pages, strategy::BROADCAST, flags)?))?;
        ensure!(reply.nr_pages == nr_pages, "{reply:?}");
        counts.push((reply.nr_flush_calls, events));
    }
    let calls = most_common(counts.iter().map(|(calls, _)| *calls));
    let remote = most_common(counts.iter().map(|(_, events)| events.remote_flush));
    let ipis = most_common(
        counts
            .iter()
            .map(|(_, events)| events.remote_flush_received),
    );
    println!("# {nr_pages} pages: {calls} calls, {remote} rounds, {ipis} IPIs");
    ensure!(calls == remote, "{calls} calls");
    ensure!((1..=remote * NR_OTHER_CPUS).contains(&ipis), "{ipis} IPIs");
    Ok(remote)
}

/// Demands `expected` rounds, whatever the number of pages and processes.
fn expect_rounds(options: &Options, touch: Touch, flags: u32, expected: u64) -> Result<()> {
    for_each_mapped_by(|mapped_by: MappedBy| {
        let counted = CountedDevice::touched(Device::open()?, mapped_by, NR_MAPPED, touch)?;
        for nr_pages in [1, 16, NR_MAPPED / 2] {
            let found = rounds(options, &counted, nr_pages, flags)?;
            ensure!(found == expected, "{mapped_by:?}: {found} rounds");
        }
        Ok(())
    })
}

pub fn trust_takes_one_round(options: &Options) -> Result<()> {
    expect_rounds(options, Touch::Read, 0, 1)
}

pub fn clean_pages_take_two_rounds(options: &Options) -> Result<()> {
    expect_rounds(options, Touch::Read, abi::UNMAP_TWO_PHASE, 2)
}

pub fn dirty_pages_take_one_round(options: &Options) -> Result<()> {
    expect_rounds(options, Touch::Write, abi::UNMAP_TWO_PHASE, 1)
}

pub fn read_only_pages_take_one_round(options: &Options) -> Result<()> {
    expect_rounds(options, Touch::ReadOnly, abi::UNMAP_TWO_PHASE, 1)
}
