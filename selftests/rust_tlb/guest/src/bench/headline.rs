// SPDX-License-Identifier: GPL-2.0

//! The workload that batched flushes were invented for, in 2015: more mapped pages than there is
//! memory, read by a thread on each CPU, while pages are taken back to make room.
//!
//! Linux does it with a file. With the device, each thread makes room itself, like a task in direct
//! reclaim: when its share of memory is mapped, it has the oldest pages of its own device taken back,
//! and other CPUs are interrupted since all threads are of one process.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::fs;
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, ensure, Context, Result};
use rust_tlb_results::said::Headline;

use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::selection::Selection;
use crate::tlb_events::TlbEvents;

use super::mapped_file::MappedFile;
use super::workload::touch;

/// Reclaim takes 31 pages at a time; a driver knows more of its pages.
const RECLAIMS_BATCH: u64 = 32;
const LARGE_BATCH: u64 = 512;
/// Of the memory that is available, the part in which pages of the device are mapped.
const PART: f64 = 0.75;

/// What makes room.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    Reclaim,
    Device {
        name: &'static str,
        strategy: u32,
        batch: u64,
    },
}

/// All that are compared.
pub const WAYS: [Way; 4] = [
    Way::Reclaim,
    Way::Device {
        name: "device, a flush per page",
        strategy: strategy::PAGE,
        batch: RECLAIMS_BATCH,
    },
    Way::Device {
        name: "device, a flush for 32 pages",
        strategy: strategy::BROADCAST,
        batch: RECLAIMS_BATCH,
    },
    Way::Device {
        name: "device, a flush for 512 pages",
        strategy: strategy::BROADCAST,
        batch: LARGE_BATCH,
    },
];

/// How much to read, in memories, and for how long at most.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub memories: f64,
    pub limit: Duration,
    pub nr_turns: usize,
}

/// Each way in turn. `path` is where a file with nothing but holes can be.
pub fn run(
    path: &str,
    size: Size,
    rng: &mut fastrand::Rng,
    mut emit: impl FnMut(Headline) -> Result<()>,
) -> Result<()> {
    let memory_pages = meminfo("MemTotal")?;
    let nr_pages = (memory_pages as f64 * size.memories) as u64;
    let mut order = WAYS;
    for _ in 0..size.nr_turns {
        rng.shuffle(&mut order);
        for way in order {
            let turn = turn(way, path, nr_pages, size.limit)?;
            emit(Headline {
                memory_pages,
                ..turn
            })?;
        }
    }
    Ok(())
}

fn turn(way: Way, path: &str, nr_pages: u64, limit: Duration) -> Result<Headline> {
    let nr_cpus = cpu::nr_cpus();
    let share = nr_pages / nr_cpus as u64;
    let window = (meminfo("MemAvailable")? as f64 * PART) as u64 / nr_cpus as u64;
    let before = Reading::now()?;
    let end = before.time + limit;
    let nr_read = AtomicU64::new(0);
    let file = match way {
        Way::Reclaim => Some(MappedFile::with_holes(path, share * nr_cpus as u64)?),
        Way::Device { .. } => None,
    };
    on_each_cpu(nr_cpus, |index| {
        let nr = match (way, &file) {
            (
                Way::Device {
                    strategy, batch, ..
                },
                _,
            ) => read_device(strategy, batch, share, window, end)?,
            (Way::Reclaim, Some(file)) => read_file(file, index as u64 * share, share, end),
            (Way::Reclaim, None) => 0,
        };
        nr_read.fetch_add(nr, Ordering::Relaxed);
        Ok(())
    })?;
    let after = Reading::now()?;
    let events = after.events.since(before.events);
    Ok(Headline {
        way: match way {
            Way::Reclaim => "reclaim of a file",
            Way::Device { name, .. } => name,
        }
        .into(),
        nr_cpus: nr_cpus as u64,
        memory_pages: 0,
        nr_pages: nr_read.into_inner(),
        seconds: (after.time - before.time).as_secs_f64(),
        system_seconds: after.system - before.system,
        interrupts: events.interrupts,
        rounds: events.remote_flush,
    })
}

/// Runs `body` in a thread on each CPU.
fn on_each_cpu(nr: usize, body: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let body = &body;
    thread::scope(|scope| {
        let spawn = |index: usize| {
            scope.spawn(move || {
                match index.checked_sub(1) {
                    Some(worker) => cpu::pin_worker(worker)?,
                    None => cpu::pin_driver()?,
                }
                body(index)
            })
        };
        let threads: Vec<_> = (0..nr).map(spawn).collect();
        let mut ends = threads.into_iter().map(|thread| thread.join());
        ends.try_for_each(|end| end.unwrap_or_else(|_| Err(anyhow!("a reader panicked"))))
    })
}

fn read_file(file: &MappedFile, first: u64, nr: u64, end: Instant) -> u64 {
    let mut done = 0;
    while done < nr && Instant::now() < end {
        let next = (done + RECLAIMS_BATCH).min(nr);
        (done..next).for_each(|page| file.touch(first + page));
        done = next;
    }
    done
}

/// Reads `nr` pages, around and around through a device, of which only the last `window` stay mapped.
fn read_device(strategy: u32, batch: u64, nr: u64, window: u64, end: Instant) -> Result<u64> {
    let device = Device::open()?;
    let nr_pages = whole_batches(device.describe()?.nr_pages, batch);
    let window = whole_batches(window, batch);
    ensure!(
        (batch..nr_pages).contains(&window),
        "a device of {nr_pages} pages is too small to have {window} mapped"
    );
    let mapping = device.map(nr_pages)?;
    let mut done = 0;
    while done < nr && Instant::now() < end {
        (done..done + batch).for_each(|page| touch(&mapping, page % nr_pages));
        done += batch;
        if let Some(oldest) = done.checked_sub(window) {
            let oldest = Selection::run(oldest % nr_pages, batch);
            device.unmap(&oldest, strategy, abi::UNMAP_FREE)?;
        }
    }
    Ok(done)
}

/// So that no batch goes over the end.
fn whole_batches(nr_pages: u64, batch: u64) -> u64 {
    nr_pages / batch * batch
}

/// What is read before and after.
struct Reading {
    time: Instant,
    events: TlbEvents,
    system: f64,
}

impl Reading {
    fn now() -> Result<Self> {
        let events = TlbEvents::read()?;
        Ok(Self {
            events: events.context("the kernel does not count TLB flushes")?,
            system: system_seconds(&fs::read_to_string("/proc/stat")?)?,
            time: Instant::now(),
        })
    }
}

/// Time of all CPUs in the kernel: for tasks, for interrupts, for what interrupts left to do.
fn system_seconds(stat: &str) -> Result<f64> {
    const COLUMNS: [usize; 3] = [3, 6, 7];
    const TICKS_PER_SECOND: f64 = 100.0;
    let cpus = stat.lines().next().context("/proc/stat is empty")?;
    let words: Vec<&str> = cpus.split_whitespace().collect();
    let ticks = COLUMNS.iter().map(|&column| {
        let word = words.get(column).context("/proc/stat is too short")?;
        Ok(word.parse::<u64>()?)
    });
    Ok(ticks.sum::<Result<u64>>()? as f64 / TICKS_PER_SECOND)
}

/// A line of `/proc/meminfo`, in pages.
fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|rest| rest.strip_prefix(':')?.split_whitespace().next());
    let kilobytes = kilobytes.with_context(|| format!("no {name}"))?;
    Ok(kilobytes.parse::<u64>()? / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_time_is_in_three_columns() {
        let stat = "cpu  1000 0 250 4000 5 30 20 0 0 0\ncpu0 1 1 1 1 1 1 1\n";
        assert_eq!(system_seconds(stat).unwrap(), 3.0);
        assert!(system_seconds("cpu 1 2\n").is_err());
        assert!(system_seconds("").is_err());
    }

    #[test]
    fn no_batch_goes_over_the_end() {
        for batch in [RECLAIMS_BATCH, LARGE_BATCH] {
            assert_eq!(whole_batches(8257, batch) % batch, 0);
            assert!(8257 - whole_batches(8257, batch) < batch);
        }
    }
}
