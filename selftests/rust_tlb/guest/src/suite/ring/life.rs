// SPDX-License-Identifier: GPL-2.0

//! Rings come and go with address spaces, and whatever their generations are.

use std::process::Command;

use anyhow::{ensure, Result};

use super::exact::each_cpu_loses_exactly_what_was_unmapped;
use super::{expect_grown, ring_device};
use crate::abi::strategy;
use crate::child::Child;
use crate::device::Device;
use crate::flush_ring::{self, Counts, FirstGeneration, ForAll};
use crate::ktap::{skip, Options};

/// Flushes that others see, if they have a ring to see it in.
fn flush_some(device: &Device) -> Result<()> {
    let mapping = device.map(1)?;
    for _ in 0..10 {
        mapping
            .word(0, 0)
            .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        device.invalidate(0, 1, strategy::PRECISE)?;
    }
    Ok(())
}

/// A fork copies the context; the child is not to use the ring of its parent.
pub fn a_child_starts_without_a_ring(_: &Options) -> Result<()> {
    let device = ring_device()?;
    flush_some(&device)?;
    let child = Child::fork(|| {
        let without = Device::open()?;
        flush_some(&without)?;
        let before = Counts::read()?;
        flush_some(&without)?;
        expect_grown(&before, &[])?;
        let with = ring_device()?;
        flush_some(&with)?;
        let published = Counts::read()?.since(&before, "published")?;
        ensure!(published >= 10, "published {published}");
        Ok(())
    })?;
    child.join()
}

/// Generations are signed numbers where they are counted, and not where they are compared.
pub fn generations_near_2_to_63_are_exact(options: &Options) -> Result<()> {
    if !flush_ring::breaks() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    let first = FirstGeneration::new((1 << 63) - 60)?;
    let child = Child::fork(|| each_cpu_loses_exactly_what_was_unmapped(options))?;
    drop(first);
    child.join()
}

/// Fork, exec, copy-on-write, threads, exit: with a ring for everybody. How often it was exact is
/// told; that it never was would prove nothing.
pub fn every_mm_can_have_a_ring(options: &Options) -> Result<()> {
    drop(ring_device()?);
    let for_all = ForAll::new()?;
    let before = Counts::read()?;
    for _ in 0..2 * options.effort {
        let child = Child::fork(|| {
            let device = Device::open()?;
            flush_some(&device)?;
            let status = Command::new("/bin/sh")
                .args(["-c", "for i in 1 2 3 4 5 6 7 8; do (echo $i | cat); done"])
                .stdout(std::process::Stdio::null())
                .status()?;
            ensure!(status.success(), "{status}");
            churn()
        })?;
        child.join()?;
    }
    drop(for_all);
    let grown = Counts::read()?.grown(&before)?;
    println!("# {grown:?}");
    let nr = |name: &str| -> u64 {
        let of = |(n, by): &(String, u64)| if n.starts_with(name) { *by } else { 0 };
        grown.iter().map(of).sum()
    };
    let nr_exact = nr("asked_exact") + nr("lazy_exact");
    ensure!(nr("published") > 0 && nr_exact > 0, "{grown:?}");
    Ok(())
}

/// Threads that map, protect and unmap memory beside each other.
fn churn() -> Result<()> {
    let nr = crate::cpu::nr_cpus();
    let work = |index: usize| -> Result<()> {
        crate::cpu::pin_worker(index)?;
        for _ in 0..100 {
            let device = Device::open()?;
            let mapping = device.map(4)?;
            mapping
                .word(1, 0)
                .store(1, core::sync::atomic::Ordering::Relaxed);
            mapping.protect_part(1, 1, rustix::mm::MprotectFlags::READ)?;
            ensure!(
                mapping
                    .word(1, 0)
                    .load(core::sync::atomic::Ordering::Relaxed)
                    == 1,
                "lost"
            );
            mapping.dont_need()?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..nr).map(|n| scope.spawn(move || work(n))).collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|_| anyhow::bail!("panicked")))
    })
}
