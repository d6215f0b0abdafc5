// SPDX-License-Identifier: GPL-2.0

//! Page tables that come and go. An unmap leaves them empty: which of them are freed and when, who is
//! asked to flush for it, what races with it; and what shows if a rule is broken. madvise of all that
//! one maps frees it (`PT_RECLAIM`), beside faults that need it, and beside a batch that has yet to
//! flush what it mapped. And mremap moves them as they are, beside a walk.

mod askew;
mod controls;
mod crowded;
mod emptied;
mod freed;
mod later;
mod lazy;
mod moved;
mod races;
mod retried;
mod sparse;

use core::sync::atomic::Ordering::Relaxed;

use anyhow::Result;

use crate::abi::{self, strategy};
use crate::device::Device;
use crate::ktap::skip;
use crate::mapping::{Mapping, PAGES_PER_TABLE};

use askew::{a_table_that_ptes_move_into_stays, ptes_that_move_into_a_freed_table_are_lost};
use controls::{
    a_flush_of_one_page_for_a_table_shows, a_flush_that_others_do_not_know_of_shows,
    a_table_that_is_not_looked_at_is_lost, all_that_a_table_maps_is_flushed,
    no_one_returns_before_the_flush, tables_of_a_process_that_maps_stay,
    the_lock_is_what_keeps_them,
};
use crowded::{refaults_race_in_every_slot, refaults_race_in_every_slot_while_tables_go_later};
use emptied::{
    a_deferred_batch_keeps_them_until_it_is_flushed, a_mapping_of_a_half_keeps_them,
    all_mappings_lose_them, tables_go_with_the_unmap, what_is_in_use_is_not_looked_at,
    without_the_switch_they_stay,
};
use freed::{a_freed_table_is_flushed_by_broadcast, a_freed_table_is_flushed_by_precise};
use later::{
    a_busy_process_is_tried_again, a_worker_frees_the_tables_of_all_processes,
    memory_pressure_frees_them_at_once, nothing_is_left_to_do_at_the_end,
};
use lazy::{a_lazy_cpu_that_is_not_asked_shows, lazy_cpus_are_asked_too};
use moved::{a_gigabyte_that_moves_is_unmapped, tables_that_move_are_unmapped};
use races::{
    everything_at_once, fork, madvise_dontneed, mremap, munmap, pagemap_and_smaps, process_vm_readv,
};
use retried::{a_table_that_goes_is_no_want_of_memory, faults_find_a_table_every_time};
use sparse::a_sparse_mapping_gives_its_tables_back;

crate::tests! {
    a_table_that_goes_is_no_want_of_memory,
    faults_find_a_table_every_time within 180,
    a_freed_table_is_flushed_by_broadcast,
    a_freed_table_is_flushed_by_precise,
    tables_that_move_are_unmapped within 120,
    a_gigabyte_that_moves_is_unmapped within 120,
    tables_go_with_the_unmap,
    all_mappings_lose_them,
    without_the_switch_they_stay,
    a_deferred_batch_keeps_them_until_it_is_flushed,
    what_is_in_use_is_not_looked_at,
    a_mapping_of_a_half_keeps_them,
    tables_of_a_process_that_maps_stay,
    the_lock_is_what_keeps_them,
    a_table_that_ptes_move_into_stays,
    ptes_that_move_into_a_freed_table_are_lost,
    all_that_a_table_maps_is_flushed,
    a_flush_of_one_page_for_a_table_shows,
    lazy_cpus_are_asked_too,
    a_lazy_cpu_that_is_not_asked_shows,
    no_one_returns_before_the_flush,
    a_flush_that_others_do_not_know_of_shows,
    a_table_that_is_not_looked_at_is_lost,
    a_worker_frees_the_tables_of_all_processes,
    a_busy_process_is_tried_again,
    memory_pressure_frees_them_at_once,
    nothing_is_left_to_do_at_the_end,
    a_sparse_mapping_gives_its_tables_back within 60,
    refaults_race_in_every_slot,
    refaults_race_in_every_slot_while_tables_go_later,
    munmap,
    madvise_dontneed,
    mremap,
    fork,
    process_vm_readv,
    pagemap_and_smaps,
    everything_at_once,
}

/// An open file that frees tables, with other flags of `SETUP`.
fn device(setup: u32) -> Result<Device> {
    let device = Device::open()?;
    device.setup(abi::SETUP_FREE_TABLES | setup)?;
    Ok(device)
}

/// All of so many tables, mapped.
fn map(device: &Device, nr_tables: u64) -> Result<Mapping> {
    Ok(Mapping::of_tables(device, nr_tables * PAGES_PER_TABLE)?)
}

fn touch(mapping: &Mapping, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        mapping.word(page, 0).store(page + 1, Relaxed);
    }
}

/// Ends a test that the kernel was not built for.
fn needs_faults(device: &Device) -> Result<()> {
    if device.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    Ok(())
}
