// SPDX-License-Identifier: GPL-2.0

//! Which thread runs on which CPU.

use std::sync::OnceLock;

use anyhow::{ensure, Result};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// The CPUs that this process was given when it started, before it pinned itself.
fn all() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let set = sched_getaffinity(None).expect("the affinity of a running thread");
        (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect()
    })
}

/// How many CPUs there are.
pub fn nr_cpus() -> usize {
    all().len()
}

/// Pins the calling thread to the first CPU: it is the one that drives the device.
///
/// To be called before anything is forked or spawned, so that no mm has run elsewhere by chance:
/// a CPU that an mm ran on counts in its cpumask, and so in the rounds.
pub fn pin_driver() -> Result<()> {
    pin(all()[0])
}

/// Pins the calling thread to a CPU other than the driver's: worker number `index` goes to
/// the CPU after the one of number `index - 1`, around and around.
pub fn pin_worker(index: usize) -> Result<()> {
    ensure!(nr_cpus() > 1, "a second CPU is needed");
    pin(worker(index))
}

/// Pins the calling thread to a CPU that is neither the driver's nor that of one of the first
/// `nr_workers` workers, as long as there is such a CPU. All that say so share those that are left,
/// number `index` as [`pin_worker`] has it.
pub fn pin_beside(nr_workers: usize, index: usize) -> Result<()> {
    let nr_left = nr_cpus().saturating_sub(1 + nr_workers).max(1);
    pin_worker(nr_workers + index % nr_left)
}

/// The number of the CPU that worker `index` is pinned to.
pub fn worker(index: usize) -> usize {
    let others = &all()[1..];
    others[index % others.len()]
}

/// Lets the calling thread, and whatever it starts, run on all CPUs again.
pub fn unpin() -> Result<()> {
    run_on(all())
}

fn pin(cpu: usize) -> Result<()> {
    run_on(&[cpu])
}

fn run_on(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}
