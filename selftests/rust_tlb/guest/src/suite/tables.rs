// SPDX-License-Identifier: GPL-2.0

//! Page tables that come and go: madvise of all that one maps frees it (`PT_RECLAIM`), beside faults
//! that need it, and beside a batch that has yet to flush what it mapped. And mremap moves them as
//! they are, beside a walk.

mod freed;
mod moved;
mod retried;

use freed::{a_freed_table_is_flushed_by_broadcast, a_freed_table_is_flushed_by_precise};
use moved::tables_that_move_are_unmapped;
use retried::{a_table_that_goes_is_no_want_of_memory, faults_find_a_table_every_time};

crate::tests! {
    a_table_that_goes_is_no_want_of_memory,
    faults_find_a_table_every_time within 180,
    a_freed_table_is_flushed_by_broadcast,
    a_freed_table_is_flushed_by_precise,
    tables_that_move_are_unmapped within 120,
}
