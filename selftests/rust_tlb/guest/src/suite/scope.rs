// SPDX-License-Identifier: GPL-2.0

//! Scopes: unmaps of one file, or of several, that share a flush at the end of the outermost level,
//! or before anything that needs it.

mod cost;
mod early;
mod ends;
mod levels;
mod refusals;
mod watched;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};

use crate::abi;
use crate::device::Device;
use crate::device::DEFERRING_STRATEGIES as STRATEGIES;
use crate::mapping::Mapping;
use crate::selection::Selection;

use cost::{
    sixteen_unmaps_in_a_scope_take_one_round, sixteen_unmaps_take_sixteen_rounds,
    unmaps_of_two_files_in_a_scope_take_one_round,
};
use early::{
    a_fault_on_a_pending_page_flushes, a_fault_on_one_file_flushes_for_the_other,
    a_full_batch_flushes, an_old_batch_flushes, dirty_pages_that_are_saved_flush_at_once,
    the_flush_call_flushes,
};
use ends::{
    a_dead_process_of_another_file_has_left, a_killed_process_leaves_the_rest_to_others,
    a_refused_unmap_changes_nothing, a_scope_ends_with_the_file,
    nobody_has_to_leave_for_old_pages_to_be_released, the_first_file_may_be_closed_first,
};
use levels::{
    a_third_file_enters_through_the_second, an_empty_scope_flushes_nothing,
    of_two_files_the_first_may_leave_first, of_two_files_the_second_may_leave_first,
    only_the_outermost_level_flushes,
};
use refusals::{
    a_file_is_in_one_scope, a_scope_has_one_strategy, a_scope_has_so_many_levels,
    outer_files_are_in_a_scope, who_has_not_entered_cannot_leave,
};
use watched::{
    a_scope_without_a_flush_is_seen_every_time, scopes_are_silent, shared_scopes_are_silent,
};

crate::tests! {
    sixteen_unmaps_in_a_scope_take_one_round,
    sixteen_unmaps_take_sixteen_rounds,
    unmaps_of_two_files_in_a_scope_take_one_round,
    an_empty_scope_flushes_nothing,
    only_the_outermost_level_flushes,
    of_two_files_the_second_may_leave_first,
    of_two_files_the_first_may_leave_first,
    a_third_file_enters_through_the_second,
    a_fault_on_a_pending_page_flushes,
    a_fault_on_one_file_flushes_for_the_other,
    dirty_pages_that_are_saved_flush_at_once,
    the_flush_call_flushes,
    a_full_batch_flushes,
    an_old_batch_flushes,
    a_refused_unmap_changes_nothing,
    a_killed_process_leaves_the_rest_to_others,
    nobody_has_to_leave_for_old_pages_to_be_released,
    a_dead_process_of_another_file_has_left,
    a_scope_ends_with_the_file,
    the_first_file_may_be_closed_first,
    who_has_not_entered_cannot_leave,
    a_scope_has_one_strategy,
    outer_files_are_in_a_scope,
    a_file_is_in_one_scope,
    a_scope_has_so_many_levels,
    scopes_are_silent,
    shared_scopes_are_silent,
    a_scope_without_a_flush_is_seen_every_time,
}

const NR_PAGES: u64 = 32;

/// Pages that one unmap of these tests takes.
const NR_AT_ONCE: u64 = 4;

/// A device with all pages mapped and written to.
fn written() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    Ok((device, mapping))
}

/// Unmaps a few pages from `first`, and demands that their flush is owed.
fn unmap_and_owe(device: &Device, strategy: u32, first: u64) -> Result<()> {
    let before = device.counters()?.nr_pending;
    let reply = device.unmap(&Selection::run(first, NR_AT_ONCE), strategy, 0)?;
    ensure!(
        reply.nr_pages == NR_AT_ONCE && reply.nr_flush_calls == 0,
        "{reply:?}"
    );
    let pending = device.counters()?.nr_pending - before;
    ensure!(pending == NR_AT_ONCE, "{pending} pages are pending");
    Ok(())
}

/// Leaves, and demands that it took so many flushes, and that so many levels are left.
fn leave(device: &Device, nr_flush_calls: u64, depth: u32, nr_levels: u32) -> Result<()> {
    let left = device.leave()?;
    ensure!(
        left.nr_flush_calls == nr_flush_calls,
        "{left:?}, not {nr_flush_calls} flushes"
    );
    expect_levels(&left, depth, nr_levels)
}

/// Enters the scope of `outer`, or one of its own.
fn enter(device: &Device, strategy: u32, outer: Option<&Device>, nr_levels: u32) -> Result<()> {
    let entered = device.enter(strategy, outer)?;
    ensure!(entered.nr_flush_calls == 0, "{entered:?}");
    expect_levels(&entered, 1, nr_levels)
}

fn expect_levels(scope: &abi::Scope, depth: u32, nr_levels: u32) -> Result<()> {
    ensure!(
        scope.depth == depth && scope.nr_levels == nr_levels,
        "{scope:?}, not {depth} of {nr_levels} levels"
    );
    Ok(())
}

/// Demands that the first `nr` pages are new ones, to this CPU too, and the others are not.
fn expect_fresh(mapping: &Mapping, nr: u64) -> Result<()> {
    for page in 0..NR_PAGES {
        let expected = if page < nr { 0 } else { page + 1 };
        let value = mapping.word(page, 0).load(Relaxed);
        ensure!(value == expected, "page {page} holds {value:#x}");
    }
    Ok(())
}

/// Demands that nothing is owed, and `nr` pages were released.
fn expect_released(device: &Device, nr: u64) -> Result<()> {
    // If another file has flushed for this one, it learns of it now.
    let flush = device.flush()?;
    ensure!(flush.nr_flush_calls == 0, "still owed: {flush:?}");
    let counters = device.counters()?;
    ensure!(
        counters.nr_recycled == nr && counters.nr_pending == 0,
        "{counters:?}, not {nr} pages released"
    );
    ensure!(counters.nr_stale_writes == 0, "{counters:?}");
    Ok(())
}
