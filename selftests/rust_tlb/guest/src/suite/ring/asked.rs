// SPDX-License-Identifier: GPL-2.0

//! Who is asked to flush: the CPUs that run an address space, and not those that once did.

use core::hint;
use core::sync::atomic::{AtomicU32, Ordering};
use std::io::{pipe, PipeWriter, Read, Write};
use std::thread;

use anyhow::{bail, ensure, Context, Result};

use super::ring_device;
use crate::abi::strategy;
use crate::busy::Busy;
use crate::child::Child;
use crate::cpu;
use crate::device::Device;
use crate::ktap::Options;
use crate::mapping::Mapping;
use crate::selection::Selection;
use crate::shared::Shared;
use crate::tlb_events::{most_common, TlbEvents};

const NR_PAGES: u64 = 8;
const NR_TIMES: usize = 10;
/// Processes that look, until one has CPUs in its mask; and how they end otherwise.
const NR_TRIES: usize = 10;
const FAILED: i32 = 1;
const TRIMMED: i32 = 2;

/// Processes with nothing to do with the device, each on a CPU of its own, that wait until they are
/// let go.
struct Strangers {
    go: PipeWriter,
    nr_running: Shared<AtomicU32>,
    // Killed in the end.
    children: Vec<Child>,
}

impl Strangers {
    fn new(nr: usize) -> Result<Self> {
        let (start, go) = pipe()?;
        let nr_running = Shared::<AtomicU32>::new(1)?;
        let spin = |index: usize| {
            Child::fork(|| {
                cpu::pin_worker(index)?;
                (&start).read_exact(&mut [0])?;
                nr_running[0].fetch_add(1, Ordering::Release);
                loop {
                    hint::spin_loop();
                }
            })
        };
        let children: Result<Vec<_>> = (0..nr).map(spin).collect();
        Ok(Self {
            go,
            nr_running,
            children: children?,
        })
    }

    /// Returns when all of them run.
    fn let_go(&mut self) -> Result<()> {
        let nr = self.children.len();
        self.go.write_all(&vec![0; nr])?;
        while (self.nr_running[0].load(Ordering::Acquire) as usize) < nr {
            thread::yield_now();
        }
        Ok(())
    }
}

/// How many CPUs each of some unmaps of some pages interrupted. The kernel's counters are everybody's,
/// and a CPU may be in a kernel thread for a moment.
fn nr_asked(device: &Device, mapping: &Mapping, strategy: u32) -> Result<Vec<u64>> {
    let once = |_| -> Result<u64> {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Ordering::Relaxed));
        let before = read_events()?;
        let done = device.unmap(&Selection::run(0, NR_PAGES), strategy, 0)?;
        let events = read_events()?.since(before);
        ensure!(done.nr_ptes == NR_PAGES, "{done:?}");
        Ok(events.remote_flush_received)
    };
    (0..NR_TIMES).map(once).collect()
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// Threads run on all CPUs, and go; other processes take their place. The mask keeps the CPUs, or some:
/// who flushes a range may trim it, once a second. Returns whether it has any.
fn leave_cpus_to_strangers() -> Result<bool> {
    let nr_others = cpu::nr_cpus() - 1;
    let mut strangers = Strangers::new(nr_others)?;
    // Without a ring, as long as nobody asks for one.
    let plain = Device::open()?;
    let of_plain = plain.map(NR_PAGES)?;
    drop(Busy::start(nr_others));
    strangers.let_go()?;
    let by_mask = nr_asked(&plain, &of_plain, strategy::BROADCAST)?;

    let ringed = ring_device()?;
    let of_ringed = ringed.map(NR_PAGES)?;
    let elsewhere = nr_asked(&ringed, &of_ringed, strategy::RING)?;
    // All that defer ask so, if there is a ring.
    let by_broadcast = nr_asked(&ringed, &of_ringed, strategy::BROADCAST)?;

    println!("# by the mask {by_mask:?}; with a ring {elsewhere:?}, {by_broadcast:?}");
    for asked in [elsewhere, by_broadcast] {
        // Others may flush meanwhile: not each time.
        let nr = asked.into_iter().min();
        ensure!(nr == Some(0), "{nr:?} asked that run something else");
    }
    Ok(most_common(by_mask) > 0)
}

pub fn a_cpu_that_runs_another_mm_is_not_asked(_: &Options) -> Result<()> {
    // If there are rings at all.
    drop(ring_device()?);
    for _ in 0..NR_TRIES {
        // Each in an mm of its own, which has no ring yet.
        let child = Child::fork_with_code(|| match leave_cpus_to_strangers() {
            Ok(true) => 0,
            Ok(false) => TRIMMED,
            Err(error) => {
                println!("# {error:#}");
                FAILED
            }
        })?;
        match child.wait()?.exit_status() {
            Some(0) => return Ok(()),
            Some(TRIMMED) => println!("# the mask was trimmed"),
            status => bail!("ended with {status:?}"),
        }
    }
    bail!("the mask was trimmed each time")
}
