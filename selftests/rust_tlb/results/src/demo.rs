// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the demo counts: a row of its table, and of `run.json`.

use serde::{Deserialize, Serialize};

use crate::said::Told;

/// One strategy of the device, in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub scenario: String,
    pub strategy: String,
    pub nr_pages: u64,
    pub nr_mms: u64,
    pub nr_cpus: u64,
    pub rounds: u64,
    pub ipis_received: u64,
    pub local_full_flushes: u64,
    pub local_page_flushes: u64,
    pub stale_accesses: u64,
    pub ns_per_page: f64,
    pub ns_per_page_min: f64,
    pub ns_per_page_max: f64,
    pub nr_flush_calls: u64,
    pub nr_reads: u64,
}

impl Told for Row {
    const WORD: &'static str = "ROW";
}
