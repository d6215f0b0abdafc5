// SPDX-License-Identifier: GPL-2.0

//! Whether a strategy leaves stale translations behind, as the oracle sees it: what is fast because
//! it does not flush is not fast.

use anyhow::Result;
use rust_tlb_results::said::Stale;

use crate::cpu;
use crate::device::Device;
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::Access;
use crate::workers::Shape;

use super::way::WAYS;

/// Pages that are watched, and passes over them after each unmap.
const NR_PAGES: u64 = 64;
const NR_PASSES: u64 = 100;

/// Watches unmaps by each of the device's strategies.
pub fn run(nr_unmaps: usize, mut emit: impl FnMut(Stale) -> Result<()>) -> Result<()> {
    for way in WAYS {
        let Some((strategy, flags)) = way.of_device() else {
            continue;
        };
        for by_processes in [false, true] {
            let device = Device::open()?;
            let oracle =
                Oracle::of_processes(&device, NR_PAGES, shape(by_processes), Access::Read)?;
            oracle.await_passes(8)?;
            for _ in 0..nr_unmaps {
                oracle.unmap(&device, &Selection::run(0, NR_PAGES), strategy, flags)?;
                oracle.await_passes(NR_PASSES)?;
            }
            let report = oracle.finish(&device)?;
            emit(Stale {
                strategy: way.name.into(),
                by_processes,
                stale_accesses: report.nr_findings(),
                nr_reads: report.nr_accesses,
            })?;
        }
    }
    Ok(())
}

fn shape(by_processes: bool) -> Shape {
    let nr = cpu::nr_cpus() - 1;
    let (processes, threads) = match by_processes {
        true => (nr, 1),
        false => (1, nr),
    };
    Shape { processes, threads }
}
