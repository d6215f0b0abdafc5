// SPDX-License-Identifier: GPL-2.0

//! Mappings of 2 MiB, by frame numbers or of a folio: a leaf in the place of a page table. When there
//! is one, and when pages are mapped one by one; how a batch takes its pages out, and what else comes
//! across one; what is flushed before one goes in, and when one has gone; and what shows if a rule is
//! broken.

mod flushes;
mod folios;
mod made;
mod moving;
mod taken;

use core::ops::Range;

use anyhow::{ensure, Result};

use crate::abi;
use crate::device::Device;
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::numbered::{expect_filled, expect_fresh, fill};
use crate::selection::Selection;

use flushes::{
    a_deferred_unmap_flushes_leaves_at_its_end, a_leaf_that_is_left_to_later_shows,
    a_leaf_that_is_passed_over_shows, no_one_returns_before_a_leaf_is_flushed,
    what_others_owe_is_flushed_before_a_leaf,
};
use folios::{
    a_deferred_unmap_flushes_a_folio_at_its_end, a_fault_maps_a_folio,
    a_folio_is_mapped_by_frame_numbers_too, a_folio_that_is_held_is_not_used_again,
    a_fork_leaves_a_folio_behind, a_mapping_of_folios_may_move,
    a_setup_that_makes_no_leaf_is_refused, a_split_gives_back_what_was_accounted,
    contents_of_a_folio_are_saved, every_strategy_takes_a_folio, the_oracle_is_silent_about_folios,
    the_switch_decides,
};
use made::{
    a_fault_maps_all_of_it, a_fault_needs_no_more_than_the_lock_of_the_vma,
    a_leaf_comes_back_when_its_table_is_freed, nothing_behind_the_mapping_is_mapped,
    what_is_asked_for_wrongly_is_refused, where_it_does_not_fit_pages_are_mapped,
};
use moving::a_leaf_on_its_way_is_not_missed;
use taken::{
    a_batch_takes_it_out_of_all_processes, a_batch_takes_one_page_out, a_leaf_has_one_accessed_bit,
    a_mapping_may_move_and_be_split, a_move_leaves_leaves_alone, contents_are_saved,
    every_strategy_takes_all_of_it, forks_while_leaves_are_taken, the_oracle_is_silent,
    two_phases_take_it_in_the_first,
};

crate::tests! {
    a_fault_maps_all_of_it,
    a_fault_needs_no_more_than_the_lock_of_the_vma,
    what_is_asked_for_wrongly_is_refused,
    where_it_does_not_fit_pages_are_mapped,
    nothing_behind_the_mapping_is_mapped,
    a_leaf_comes_back_when_its_table_is_freed,
    every_strategy_takes_all_of_it,
    a_batch_takes_one_page_out,
    a_batch_takes_it_out_of_all_processes,
    two_phases_take_it_in_the_first,
    contents_are_saved,
    a_leaf_has_one_accessed_bit,
    a_mapping_may_move_and_be_split,
    a_move_leaves_leaves_alone,
    a_leaf_on_its_way_is_not_missed,
    forks_while_leaves_are_taken within 120,
    the_oracle_is_silent within 120,
    a_deferred_unmap_flushes_leaves_at_its_end,
    what_others_owe_is_flushed_before_a_leaf,
    a_leaf_that_is_passed_over_shows,
    no_one_returns_before_a_leaf_is_flushed,
    a_leaf_that_is_left_to_later_shows within 60,
    a_fault_maps_a_folio,
    a_folio_is_mapped_by_frame_numbers_too,
    the_switch_decides,
    a_setup_that_makes_no_leaf_is_refused,
    every_strategy_takes_a_folio,
    a_fork_leaves_a_folio_behind,
    contents_of_a_folio_are_saved,
    a_folio_that_is_held_is_not_used_again,
    a_split_gives_back_what_was_accounted,
    a_mapping_of_folios_may_move,
    a_deferred_unmap_flushes_a_folio_at_its_end,
    the_oracle_is_silent_about_folios within 120,
}

/// An open file whose mappings may have leaves, with other flags of `SETUP`.
fn device(setup: u32) -> Result<Device> {
    let device = Device::open()?;
    device.setup(abi::SETUP_PFNMAP | abi::SETUP_HUGE | setup)?;
    Ok(device)
}

/// A device, and a mapping of so many leaves, of which none is there yet.
fn mapped(nr_leaves: u64) -> Result<(Device, Mapping)> {
    let device = device(0)?;
    let mapping = Mapping::of_tables(&device, nr_leaves * PAGES_PER_TABLE)?;
    Ok((device, mapping))
}

/// The pages of the first leaf.
fn whole() -> Range<u64> {
    0..PAGES_PER_TABLE
}

fn all() -> Selection {
    Selection::run(0, PAGES_PER_TABLE)
}

/// So many leaves were mapped since the file was opened.
fn expect_leaves(device: &Device, nr: u64) -> Result<()> {
    let counters = device.counters()?;
    ensure!(counters.nr_huge_faults == nr, "not {nr}: {counters:?}");
    Ok(())
}
