// SPDX-License-Identifier: GPL-2.0

//! The kernel's own gather, as a strategy: how many rounds it takes beside the others, and what it
//! tracks.

mod context;
mod nested;
mod ranges;
mod rounds;

use context::a_gather_in_atomic_context_is_reported;
use nested::a_nested_gather_flushes_all;
use ranges::{
    a_freed_table_does_not_widen_the_flush, a_gather_tracks_what_a_batch_tracks,
    nothing_is_freed_without_the_switch, tables_are_freed_only_if_they_are_covered,
    what_is_far_apart_is_flushed_in_full,
};
use rounds::{
    a_batch_takes_one_round_for_many_vmas, a_gather_takes_one_round_for_many_vmas,
    many_processes_take_a_round_each_but_in_a_batch, munmap_of_pfns_takes_a_round_more,
    unmap_mapping_takes_a_round_per_vma, zap_takes_a_round_per_vma,
};

crate::tests! {
    unmap_mapping_takes_a_round_per_vma,
    zap_takes_a_round_per_vma,
    a_gather_takes_one_round_for_many_vmas,
    a_batch_takes_one_round_for_many_vmas,
    many_processes_take_a_round_each_but_in_a_batch within 120,
    munmap_of_pfns_takes_a_round_more,
    a_gather_tracks_what_a_batch_tracks,
    what_is_far_apart_is_flushed_in_full,
    a_freed_table_does_not_widen_the_flush,
    tables_are_freed_only_if_they_are_covered,
    nothing_is_freed_without_the_switch,
    a_gather_in_atomic_context_is_reported,
    a_nested_gather_flushes_all,
}
