// SPDX-License-Identifier: GPL-2.0

//! A gather that ends while another one is at work in the same mm: the kernel's `tlb_finish_mmu()` does
//! not trust its range then (`mm_tlb_flush_nested()`).
//!
//! The other one is madvise's. It has zapped what there was, and waits for the lock that it takes to free
//! the page table, which a third thread holds.

use core::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{bail, ensure, Context, Result};

use super::ranges::{named, pages, touch, with_tables};
use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::ftrace::Tracing;
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::selection::Selection;

/// Besides the driver, the one that holds the lock, and the one that waits for it.
const NR_CPUS: usize = 3;
/// Reasons of `tlb_flush`, as in `enum tlb_flush_reason`: on the CPU itself, and on others.
const REASONS: [u64; 2] = [3, 4];
/// What `tlb_flush` says for all of them.
const ALL: &str = "-1";

/// What a gather of one page does.
struct Gathering {
    tracing: Tracing,
    device: Device,
    mapping: Mapping,
}

impl Gathering {
    fn new() -> Result<Self> {
        let tracing = Tracing::new(&["rust_tlb/rust_tlb_gather_end", "tlb/tlb_flush"])?;
        let device = Device::open()?;
        Ok(Self {
            tracing: tracing.context("the kernel has no events")?,
            mapping: device.map(1)?,
            device,
        })
    }

    /// Unmaps the page, which was touched.
    fn unmap(&self) -> Result<()> {
        let one = Selection::run(0, 1);
        let reply = self.device.unmap(&one, strategy::GATHER, 0)?;
        ensure!(reply.nr_pages == 1, "{reply:?}");
        Ok(())
    }

    /// Does `what`, which is to unmap the page: the gather has tracked it, and each flush that it made
    /// is of `flushed`.
    fn expect(&self, flushed: &str, what: impl FnOnce() -> Result<()>) -> Result<()> {
        touch(&self.mapping, [0]);
        let ((), events) = self.tracing.record(what)?;
        let ended = named(&events, "rust_tlb_gather_end");
        let [end] = &ended[..] else {
            bail!("{} gathers", ended.len());
        };
        let tracked = (pages(end, &self.mapping), end.number("freed_tables"));
        ensure!(tracked == (Some((0, 1)), Some(0)), "{tracked:?}");
        let flushes = named(&events, "tlb_flush");
        let flushes = flushes.iter().filter(|event| {
            let code = event.code();
            code.is_some_and(|code| REASONS.contains(&code))
        });
        let found: Vec<_> = flushes.filter_map(|event| event.text("pages")).collect();
        let is_it = !found.is_empty() && found.iter().all(|&nr| nr == flushed);
        ensure!(is_it, "{found:?} pages instead of {flushed}");
        Ok(())
    }
}

/// What the driver tells the others.
#[derive(Default)]
struct Desk {
    may_hold: AtomicBool,
    is_held: AtomicBool,
    is_over: AtomicBool,
}

impl Desk {
    /// Waits for it, or for the end; false if that has come.
    fn is_told(&self, what: &AtomicBool) -> bool {
        while !what.load(Ordering::Acquire) {
            if self.is_over.load(Ordering::Acquire) {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    }

    fn hold(&self, mapping: &Mapping) -> Result<()> {
        cpu::pin_worker(0)?;
        match self.is_told(&self.may_hold) {
            true => held_moment::hold_table(mapping),
            false => Ok(()),
        }
    }

    fn zap(&self, mapping: &Mapping) -> Result<()> {
        cpu::pin_worker(1)?;
        if self.is_told(&self.is_held) {
            mapping.dont_need()?;
        }
        Ok(())
    }

    /// Has the page table held, and a gather of madvise open; `nest` lets go of both.
    fn drive(&self, outer: &Device, nest: impl FnOnce() -> Result<()>) -> Result<()> {
        self.may_hold.store(true, Ordering::Release);
        held_moment::await_held()?;
        self.is_held.store(true, Ordering::Release);
        while outer.accessed(0, 1, abi::ACCESSED_READ)?.mapped != 0 {
            core::hint::spin_loop();
        }
        nest()
    }
}

pub fn a_nested_gather_flushes_all(_: &Options) -> Result<()> {
    if cpu::nr_cpus() < NR_CPUS {
        return skip(format!("{NR_CPUS} CPUs are needed"));
    }
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    let gathering = Gathering::new()?;
    gathering.expect("1", || gathering.unmap())?;
    let (outer, mapping) = with_tables(1)?;
    touch(&mapping, [0]);
    let desk = Desk::default();
    let unmap_within = || {
        let unmapped = gathering.unmap();
        let is_held = held_moment::is_held()?;
        held_moment::go_on()?;
        ensure!(is_held, "the other gather had ended by then");
        unmapped
    };
    // All threads are there before and until after the lock is held, or they would wait for it.
    thread::scope(|scope| {
        let threads = [
            scope.spawn(|| desk.hold(&mapping)),
            scope.spawn(|| desk.zap(&mapping)),
        ];
        // The holder does not let RCU go on, which recording begins with.
        let driven = gathering.expect(ALL, || desk.drive(&outer, unmap_within));
        desk.is_over.store(true, Ordering::Release);
        // Also where the driver has failed before.
        held_moment::go_on()?;
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("nobody panics");
        threads.into_iter().map(join).fold(driven, Result::and)
    })?;
    gathering.expect("1", || gathering.unmap())
}
