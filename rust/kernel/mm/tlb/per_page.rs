// SPDX-License-Identifier: GPL-2.0

//! Per page: no batch at all, for comparison.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::policy::{
    sealed,
    Kind,
    Machine,
    Owed,
    Rule, //
};
use kernel::mm::range::{
    PageRange,
    Pending, //
};

/// A flush for each PTE, at once: what Linux did before it had batches. For comparison.
#[derive(Default)]
pub struct PerPage {
    nr_calls: usize,
    owes_tables: bool,
}

impl sealed::Sealed for PerPage {}

impl<M: Machine> Rule<M> for PerPage {
    const KIND: Kind = Kind::PerPage;
    const FLUSHES_EACH: bool = true;

    fn cleared(&mut self, machine: &mut M, mm: &M::Mm, page: PageRange) {
        machine.flush_mm(mm, Some(page));
        self.nr_calls += 1;
    }

    /// Flushed already: what is owed is only counted.
    fn record(&mut self, _: &mut M, _: &Owed<M>, _: &M::Mm, _: Pending) {}

    fn record_table(&mut self, machine: &mut M, _: &Owed<M>, mm: &M::Mm, range: PageRange) {
        machine.add_pending_table(mm, range);
        self.owes_tables = true;
    }

    fn flush(&mut self, machine: &mut M, _: &Owed<M>) -> usize {
        if core::mem::take(&mut self.owes_tables) {
            machine.flush_pending();
            self.nr_calls += 1;
        }
        core::mem::take(&mut self.nr_calls)
    }
}
