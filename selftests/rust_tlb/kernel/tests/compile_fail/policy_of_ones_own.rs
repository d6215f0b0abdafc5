// SPDX-License-Identifier: GPL-2.0
// Fails with: E0277

//! A policy that does not flush cannot be written outside of the kernel crate.

use kernel::mm::{
    range::{PageRange, Pending},
    tlb::policy::{Flush, Kind, Record, Report},
};

struct Lazy;

impl Record for Lazy {
    type Mm = u32;

    fn record(&mut self, _mm: &u32, _pending: Pending) {}

    fn record_table(&mut self, _mm: &u32, _range: PageRange) {}
}

impl Flush for Lazy {
    fn kind(&self) -> Kind {
        Kind::Unflushed
    }

    fn owed(&self) -> Report {
        Report::default()
    }

    fn flush(&mut self) -> Report {
        Report::default()
    }
}

fn main() {}
