// SPDX-License-Identifier: GPL-2.0

//! Page tables that come and go: madvise of all that one maps frees it (`PT_RECLAIM`), beside faults
//! that need it.

mod retried;

use retried::{a_table_that_goes_is_no_want_of_memory, faults_find_a_table_every_time};

crate::tests! {
    a_table_that_goes_is_no_want_of_memory,
    faults_find_a_table_every_time within 180,
}
