// SPDX-License-Identifier: GPL-2.0

//! Scopes under the eyes of the stale-access oracle: nobody reaches an old page after the last one
//! has left, nor after somebody was given a fresh one.

use std::sync::Arc;

use anyhow::{ensure, Result};

use super::{NR_PAGES, STRATEGIES};
use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::ktap::{skip, Options};
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::{Access, Report};
use crate::workers::Shape;

const NR_ROUNDS: u32 = 5;
const NR_PASSES: u64 = 100;

/// A file, and those who use it.
struct Watched {
    device: Device,
    oracle: Oracle,
}

impl Watched {
    fn by_threads(nr: usize, access: Access) -> Result<Self> {
        let device = Device::open()?;
        let mapping = Arc::new(device.map(NR_PAGES)?);
        let oracle = Oracle::of_threads(&mapping, nr, 0, access)?;
        Ok(Self { device, oracle })
    }

    fn by_processes(processes: usize, threads: usize) -> Result<Self> {
        let device = Device::open()?;
        let shape = Shape { processes, threads };
        let oracle = Oracle::of_processes(&device, NR_PAGES, shape, Access::ReadWrite)?;
        Ok(Self { device, oracle })
    }

    /// Unmaps half of the pages. They may be used until the flush.
    fn unmap(&self, strategy: u32, odd: u64) -> Result<()> {
        let pages = Selection::scattered(odd, NR_PAGES / 2);
        self.oracle
            .unmap(&self.device, &pages, strategy, abi::UNMAP_DEFER)?;
        Ok(())
    }

    /// From now on nobody may use a page that was unmapped before.
    fn flushed(&self) {
        self.oracle.ledger().end_all();
    }

    fn finish(self) -> Result<Report> {
        self.oracle.finish(&self.device)
    }

    fn expect_silence(self) -> Result<()> {
        let report = self.finish()?;
        println!("# {report:?}");
        report.expect_silence()
    }
}

/// The workers fault on what is pending while the scope lasts, which flushes early.
pub fn scopes_are_silent(options: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        println!("# {}", strategy_name(strategy));
        let nr = cpu::nr_cpus() - 1;
        for access in [Access::Read, Access::ReadWrite, Access::Write] {
            watch(options, strategy, Watched::by_threads(nr, access)?)?;
        }
        watch(options, strategy, Watched::by_processes(nr, 1)?)?;
    }
    Ok(())
}

fn watch(options: &Options, strategy: u32, watched: Watched) -> Result<()> {
    watched.oracle.await_passes(8)?;
    for _ in 0..NR_ROUNDS * options.effort {
        watched.device.enter(strategy, None)?;
        watched.unmap(strategy, 0)?;
        watched.oracle.await_next_pass()?;
        watched.unmap(strategy, 1)?;
        let left = watched.device.leave()?;
        ensure!(left.nr_levels == 0, "{left:?}");
        watched.flushed();
        watched.oracle.await_passes(NR_PASSES)?;
    }
    watched.expect_silence()
}

/// Two files, each in use by a process, or by a thread of the driver's.
pub fn shared_scopes_are_silent(options: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        println!("# {}", strategy_name(strategy));
        let processes = [Watched::by_processes(2, 1)?, Watched::by_processes(2, 1)?];
        watch_both(options, strategy, processes)?;
        let by_thread = || Watched::by_threads(2, Access::ReadWrite);
        watch_both(options, strategy, [by_thread()?, by_thread()?])?;
    }
    Ok(())
}

fn watch_both(options: &Options, strategy: u32, [one, two]: [Watched; 2]) -> Result<()> {
    for round in 0..NR_ROUNDS * options.effort {
        let (outer, inner) = if round % 2 == 0 {
            (&one, &two)
        } else {
            (&two, &one)
        };
        outer.device.enter(strategy, None)?;
        inner.device.enter(strategy, Some(&outer.device))?;
        for watched in [outer, inner] {
            watched.unmap(strategy, u64::from(round) / 2 % 2)?;
        }
        let (first, last) = if round % 3 == 0 {
            (outer, inner)
        } else {
            (inner, outer)
        };
        first.device.leave()?;
        let left = last.device.leave()?;
        ensure!(left.nr_levels == 0, "{left:?}");
        [outer, inner].into_iter().for_each(Watched::flushed);
        outer.oracle.await_passes(NR_PASSES)?;
        inner.oracle.await_passes(NR_PASSES)?;
    }
    one.expect_silence()?;
    two.expect_silence()
}

const NR_ALARMS: u32 = 20;

/// The negative control: a scope that ends without a flush is noticed, in 20 of 20 runs.
pub fn a_scope_without_a_flush_is_seen_every_time(_: &Options) -> Result<()> {
    if Device::open()?.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    caught_every_time(NR_ALARMS, || {
        let (report, undisturbed) = end_without_flush()?;
        let caught = report.nr_stale > 0;
        Ok(Attempt::judge(caught, undisturbed, || {
            format!("{report:?}")
        }))
    })
}

/// Not with threads of the driver's process, who would keep their stale translations.
fn end_without_flush() -> Result<(Report, bool)> {
    let watched = Watched::by_processes(1, cpu::nr_cpus() - 1)?;
    watched.oracle.await_passes(8)?;
    let stillness = watched.oracle.await_residency(&watched.device)?;
    watched.device.enter(strategy::NONE, None)?;
    watched.unmap(strategy::NONE, 0)?;
    watched.unmap(strategy::NONE, 1)?;
    let left = watched.device.leave()?;
    ensure!(left.nr_levels == 0 && left.nr_flush_calls == 0, "{left:?}");
    watched.flushed();
    watched.oracle.await_passes(NR_PASSES)?;
    let undisturbed = stillness.map_or(Ok(false), |s| s.lasted())?;
    Ok((watched.finish()?, undisturbed))
}
