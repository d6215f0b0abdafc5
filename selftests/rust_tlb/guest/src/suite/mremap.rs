// SPDX-License-Identifier: GPL-2.0

//! The kernel's own `mremap()` with `CONFIG_MREMAP_BATCH_FLUSH`: how many rounds a move takes, that
//! nothing old is left in a TLB, that nobody comes to a moved page before, and that each broken rule
//! is noticed.

use anyhow::{Context, Result};

use crate::ktap::skip;
use crate::mremap_runs::Runs;

mod allocations;
mod bracket;
mod contents;
mod memory;
mod races;
mod rounds;
mod stale;
mod window;

use allocations::{control_an_allocation_under_the_locks, nothing_is_allocated_under_the_locks};
use bracket::{control_a_bracket_that_ends_before_the_flush, the_bracket_ends_after_the_flush};
use contents::{contents_survive, contents_survive_without_memory};
use races::{
    a_race_with_a_punch, a_race_with_a_truncate, a_race_with_compaction, a_race_with_reclaim,
    a_race_with_writeback,
};
use rounds::{
    a_small_move_has_no_run, an_aligned_gib_takes_eight_rounds,
    an_unaligned_gib_takes_sixteen_rounds, huge_pages_of_a_gib_take_eight_rounds,
    without_runs_each_entry_takes_a_round,
};
use stale::{
    a_run_that_stops_early_flushes, control_a_flush_by_pmd, control_a_stop_without_its_flush,
    old_translations_are_gone,
};
use window::a_punch_waits_for_the_flush;

crate::tests! {
    an_aligned_gib_takes_eight_rounds,
    huge_pages_of_a_gib_take_eight_rounds,
    an_unaligned_gib_takes_sixteen_rounds,
    without_runs_each_entry_takes_a_round within 120,
    a_small_move_has_no_run,
    old_translations_are_gone,
    a_run_that_stops_early_flushes,
    control_a_stop_without_its_flush,
    control_a_flush_by_pmd,
    a_punch_waits_for_the_flush,
    the_bracket_ends_after_the_flush,
    control_a_bracket_that_ends_before_the_flush,
    nothing_is_allocated_under_the_locks,
    control_an_allocation_under_the_locks,
    contents_survive,
    contents_survive_without_memory,
    a_race_with_a_punch within 120,
    a_race_with_a_truncate within 120,
    a_race_with_compaction within 120,
    a_race_with_reclaim within 120,
    a_race_with_writeback within 120,
}

/// The kernel's runs. A kernel without them is none that the suite is for.
fn runs() -> Result<Runs> {
    Runs::take()?.context("the kernel has no CONFIG_MREMAP_BATCH_FLUSH")
}

/// The kernel's runs with `faults`; the test is skipped if they cannot be broken.
fn broken(faults: u32) -> Result<Runs> {
    let runs = runs()?;
    if !runs.can_be_broken() {
        skip("the kernel has no CONFIG_RUST_TLB_FAULTS")?;
    }
    runs.set_faults(faults)?;
    Ok(runs)
}
