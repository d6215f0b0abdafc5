// SPDX-License-Identifier: GPL-2.0

//! The ring of flushes: one round, and each CPU loses what was unmapped, and no more; and what
//! happens if one of its rules is broken.

use anyhow::{ensure, Result};

use crate::abi;
use crate::device::Device;
use crate::flush_ring;
use crate::ktap::skip;

mod asked;
mod controls;
mod exact;
mod lazy;
mod life;
mod pending;
mod silent;
mod victim;

use asked::*;
use controls::*;
use exact::*;
use lazy::*;
use life::*;
use pending::*;
use silent::*;

crate::tests! {
    each_cpu_loses_exactly_what_was_unmapped,
    several_mms_are_one_round_and_exact,
    deferred_flushes_are_caught_up_together,
    above_the_ceiling_everything_is_flushed,
    auto_is_exact_for_few_pages_only,
    without_a_ring_everything_is_flushed,
    without_a_flush_nothing_is_lost,
    a_cpu_that_runs_another_mm_is_not_asked,
    slots_are_used_again,
    a_lazy_cpu_catches_up_exactly,
    a_lazy_cpu_that_missed_much_flushes_everything,
    a_child_starts_without_a_ring,
    generations_near_2_to_63_are_exact,
    every_mm_can_have_a_ring,
    deferrals_elsewhere_cost_a_mapping_nothing,
    a_fault_on_what_is_pending_flushes,
    ring_is_silent,
    deferred_ring_is_silent,
    to_bump_only_once_is_seen,
    to_clear_after_the_bump_is_seen,
    to_extend_a_slot_is_seen,
    to_run_ahead_is_seen,
    to_fill_a_slot_before_the_bump_is_seen,
    to_write_a_slot_unclaimed_is_seen,
    to_take_unpublished_for_nothing_is_seen,
    to_take_odd_for_nothing_is_seen,
    to_copy_a_ring_is_seen,
}

/// A file whose mappings give a ring.
fn ring_device() -> Result<Device> {
    if !flush_ring::exists() {
        skip("the kernel has no CONFIG_RUST_TLB_RING")?;
    }
    let device = Device::open()?;
    device.setup(abi::SETUP_RING)?;
    Ok(device)
}

/// Demands that all counts `names` have grown, and no others. But a CPU may have been lazy for a
/// moment, for something of the kernel's, and have caught up when it came back.
fn expect_grown(before: &flush_ring::Counts, names: &[&str]) -> Result<()> {
    let grown = flush_ring::Counts::read()?.grown(before)?;
    let is_expected = |(name, _): &(String, u64)| {
        names.contains(&name.as_str()) || name.starts_with("lazy_exact")
    };
    ensure!(grown.iter().all(is_expected), "{grown:?}, not {names:?}");
    for name in names {
        ensure!(grown.iter().any(|(n, _)| n == name), "{name}: {grown:?}");
    }
    Ok(())
}
