// SPDX-License-Identifier: GPL-2.0

//! What can be watched: the events of `rust_tlb`, against what was done and against the kernel's own
//! events, and the sums in debugfs.

mod lined_up;
mod order;
mod scripts;
mod statistics;
mod whys;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{Context, Result};
use rust_tlb_trace::event::Event;

use crate::device::Device;
use crate::ftrace::Tracing;
use crate::mapping::Mapping;

use lined_up::{
    a_broadcast_asks_every_cpu_once, a_precise_flush_asks_those_of_each_mm,
    each_page_is_a_round_where_it_is_flushed_by_itself, rounds_of_the_core_are_nobodys_calls,
};
use order::{
    a_deferred_batch_is_opened_once, a_precise_call_has_the_range,
    a_refault_hits_whose_flush_is_owed, an_unmap_is_told_in_order, what_is_off_is_not_recorded,
};
use scripts::{
    a_killed_bpftrace_leaves_nothing, a_killed_perf_leaves_nothing, a_killed_recording_is_put_back,
    bpftrace_is_answered_and_put_back, each_program_of_bpftrace_is_one,
    ftrace_is_read_and_put_back, perf_is_read_and_put_back,
};
use statistics::{batches_are_counted, deferrals_are_timed, reset_starts_anew};
use whys::every_flush_says_why;

crate::tests! {
    an_unmap_is_told_in_order,
    a_precise_call_has_the_range,
    a_deferred_batch_is_opened_once,
    a_refault_hits_whose_flush_is_owed,
    what_is_off_is_not_recorded,
    every_flush_says_why within 120,
    a_broadcast_asks_every_cpu_once,
    a_precise_flush_asks_those_of_each_mm,
    each_page_is_a_round_where_it_is_flushed_by_itself,
    rounds_of_the_core_are_nobodys_calls,
    batches_are_counted,
    deferrals_are_timed,
    reset_starts_anew,
    ftrace_is_read_and_put_back,
    perf_is_read_and_put_back,
    bpftrace_is_answered_and_put_back,
    each_program_of_bpftrace_is_one within 120,
    a_killed_recording_is_put_back,
    a_killed_perf_leaves_nothing within 120,
    a_killed_bpftrace_leaves_nothing within 120,
}

const NR_PAGES: u64 = 32;

/// Ours, and those of the kernel that they line up with.
const EVENTS: [&str; 9] = [
    "rust_tlb",
    "tlb/tlb_flush",
    "ipi/ipi_send_cpu",
    "ipi/ipi_send_cpumask",
    "csd",
    "irq_vectors/call_function_entry",
    "irq_vectors/call_function_exit",
    "irq_vectors/call_function_single_entry",
    "irq_vectors/call_function_single_exit",
];

/// A device with all pages mapped and written to.
fn written() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    Ok((device, mapping))
}

/// Tracing with all events on. A kernel without them is none that the suite is for.
fn tracing() -> Result<Tracing> {
    Tracing::new(&EVENTS)?.context("the kernel does not have the events")
}

/// Our own events of this process: others flush, too.
fn ours(events: &[Event]) -> Vec<Event> {
    let pid = std::process::id();
    let is_ours = |event: &&Event| event.pid == pid && event.name.starts_with("rust_tlb_");
    events.iter().filter(is_ours).cloned().collect()
}

/// The names of events, without what all of them begin with.
fn names(events: &[Event]) -> Vec<&str> {
    let names = events.iter();
    names
        .filter_map(|event| event.name.strip_prefix("rust_tlb_"))
        .collect()
}

/// The only event of this name.
fn only<'a>(events: &'a [Event], name: &str) -> Result<&'a Event> {
    let mut found = events.iter().filter(|event| event.name == name);
    match (found.next(), found.next()) {
        (Some(event), None) => Ok(event),
        _ => anyhow::bail!("not one {name} in {:?}", names(events)),
    }
}
