// SPDX-License-Identifier: GPL-2.0

//! Whether a flush is owed is asked of a mapping, not of an address space.

use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;

use anyhow::{ensure, Context, Result};
use rustix::mm::MprotectFlags;

use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::ktap::Options;
use crate::mapping::{Mapping, READ_WRITE};
use crate::selection::Selection;
use crate::tlb_events::{most_common, TlbEvents};

/// Deferrals in the one mapping, and operations in the other.
const NR: u64 = 20;

/// Keeps another CPU busy in this process, so that flushes have somebody to ask.
struct Busy(Arc<AtomicBool>, Option<thread::JoinHandle<()>>);

impl Busy {
    fn new() -> Result<Self> {
        let over: Arc<AtomicBool> = Arc::default();
        let (seen, up) = (over.clone(), Arc::new(AtomicBool::new(false)));
        let is_up = up.clone();
        let spinner = thread::spawn(move || {
            let pinned = cpu::pin_worker(0);
            is_up.store(true, Ordering::Release);
            while pinned.is_ok() && !seen.load(Ordering::Acquire) {
                hint::spin_loop();
            }
        });
        while !up.load(Ordering::Acquire) {
            hint::spin_loop();
        }
        Ok(Self(over, Some(spinner)))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
        // It only spins.
        let _ = self.1.take().map(thread::JoinHandle::join);
    }
}

fn rounds_of(what: impl FnOnce() -> Result<()>) -> Result<u64> {
    let events = || TlbEvents::read()?.context("the kernel does not count TLB flushes");
    let before = events()?;
    what()?;
    Ok(events()?.since(before).remote_flush)
}

/// One operation in the other mapping, on a page of its own each time.
type Operation = fn(&Device, &Mapping, u64) -> Result<()>;

fn fault(_: &Device, mapping: &Mapping, page: u64) -> Result<()> {
    mapping.word(page, 0).load(Ordering::Relaxed);
    Ok(())
}

fn mkwrite(_: &Device, mapping: &Mapping, page: u64) -> Result<()> {
    mapping.word(page, 0).store(1, Ordering::Relaxed);
    Ok(())
}

fn write_protect(device: &Device, _: &Mapping, page: u64) -> Result<()> {
    let one = Selection::run(page, 1);
    device.unmap(&one, strategy::BROADCAST, abi::UNMAP_TWO_PHASE)?;
    Ok(())
}

/// The kernel's own way, which asks the address space.
fn mprotect(_: &Device, mapping: &Mapping, page: u64) -> Result<()> {
    mapping.protect_part(page, 1, MprotectFlags::READ)?;
    Ok(())
}

/// Rounds that most of the operations made, with or without deferrals in another mapping before each.
fn rounds(operation: Operation, setup: u32, is_mapped: bool, defers: bool) -> Result<u64> {
    let (one, other) = (Device::open()?, Device::open()?);
    other.setup(setup)?;
    let (of_one, of_other) = (one.map(NR)?, other.map(NR)?);
    for page in 0..NR {
        of_one.word(page, 0).store(1, Ordering::Relaxed);
        if is_mapped {
            of_other.word(page, 0).load(Ordering::Relaxed);
        }
    }
    let mut all = Vec::new();
    for page in 0..NR {
        if defers {
            one.unmap(
                &Selection::run(page, 1),
                strategy::BROADCAST,
                abi::UNMAP_DEFER,
            )?;
        }
        all.push(rounds_of(|| operation(&other, &of_other, page))?);
    }
    if defers {
        let nr_pending = one.counters()?.nr_pending;
        ensure!(nr_pending == NR, "{nr_pending} pages are still pending");
    }
    // Before the mapping goes: what it is read-only for is over.
    of_other.protect(MprotectFlags::from_bits_retain(READ_WRITE.bits()))?;
    Ok(most_common(all))
}

/// Detection per mapping: deferrals elsewhere add no round at all. Detection per mm, as of mprotect:
/// one each time.
pub fn deferrals_elsewhere_cost_a_mapping_nothing(_: &Options) -> Result<()> {
    let _busy = Busy::new()?;
    let cases: [(&str, Operation, u32, bool); 4] = [
        ("fault", fault, 0, false),
        ("mkwrite", mkwrite, abi::SETUP_NOTIFY, true),
        ("write-protect", write_protect, 0, true),
        ("mprotect", mprotect, 0, true),
    ];
    for (name, operation, setup, is_mapped) in cases {
        let without = rounds(operation, setup, is_mapped, false)?;
        let with = rounds(operation, setup, is_mapped, true)?;
        println!("# {name}: {without} rounds each, with deferrals elsewhere {with}");
        match name {
            "mprotect" => ensure!(with > without, "the control asked the mapping"),
            _ => ensure!(with == without, "{name}: {without} rounds, then {with}"),
        }
    }
    Ok(())
}

/// On overlap it does flush, and has ended when the fault is over.
pub fn a_fault_on_what_is_pending_flushes(_: &Options) -> Result<()> {
    let _busy = Busy::new()?;
    let device = Device::open()?;
    let mapping = device.map(NR)?;
    for page in 0..NR {
        mapping.word(page, 0).store(1, Ordering::Relaxed);
    }
    let mut all = Vec::new();
    for page in 0..NR {
        let one = Selection::run(page, 1);
        device.unmap(&one, strategy::BROADCAST, abi::UNMAP_DEFER)?;
        // A new mapping: this CPU may still have the old translation.
        let again = device.map(NR)?;
        let nr_rounds = rounds_of(|| {
            let value = again.word(page, 0).load(Ordering::Relaxed);
            ensure!(value == 0, "the old page is there: {value:#x}");
            Ok(())
        })?;
        ensure!(nr_rounds > 0, "no round");
        all.push(nr_rounds);
        let counters = device.counters()?;
        ensure!(counters.nr_pending == 0, "{counters:?}");
        ensure!(counters.nr_pending_hits == page + 1, "{counters:?}");
    }
    ensure!(most_common(all.clone()) == 1, "{all:?} rounds");
    Ok(())
}
