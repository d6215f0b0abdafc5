// SPDX-License-Identifier: GPL-2.0

//! Code that the kernel patches while it runs: each event that goes on or off changes the calls of a
//! tracepoint, in place, on all CPUs. An emulator that runs an instruction half of which is new dies of
//! it (`int3`), and the oracle sees whether a flush was lost in between.

use std::sync::Arc;

use anyhow::{ensure, Context, Result};

use crate::abi::strategy;
use crate::cpu;
use crate::device::Device;
use crate::ftrace::Tracing;
use crate::ktap::Options;
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::Access;

crate::tests! {
    events_go_on_and_off_under_the_oracle within 1800,
}

/// Of ours and of the core's, on the path of every flush.
const EVENTS: [&str; 2] = ["rust_tlb/rust_tlb_call_begin", "tlb/tlb_flush"];
const NR_PAGES: u64 = 16;
/// How often they go on and off. An effort of 100 makes it 5000 times.
const NR_TIMES: u32 = 50;

fn events_go_on_and_off_under_the_oracle(options: &Options) -> Result<()> {
    let tracing = Tracing::new(&EVENTS)?.context("the kernel does not have the events")?;
    let device = Device::open()?;
    let mapping = Arc::new(device.map(NR_PAGES)?);
    let oracle = Oracle::of_threads(&mapping, cpu::nr_cpus() - 1, 0, Access::ReadWrite)?;
    oracle.await_passes(2)?;
    let selection = Selection::scattered(0, NR_PAGES / 2);
    let unmap = || oracle.unmap(&device, &selection, strategy::PRECISE, 0);
    let nr_times = NR_TIMES * options.effort;
    let ((), events) = tracing.record(|| {
        for _ in 0..nr_times {
            tracing.switch(true)?;
            unmap()?;
            tracing.switch(false)?;
            unmap()?;
            oracle.await_passes(1)?;
        }
        Ok(())
    })?;
    let report = oracle.finish(&device)?;
    println!(
        "# {nr_times} times, {} events kept: {report:?}",
        events.len()
    );
    // What is not recorded was not patched.
    ensure!(!events.is_empty(), "the events were never on");
    report.expect_silence()
}
