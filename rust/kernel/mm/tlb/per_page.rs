// SPDX-License-Identifier: GPL-2.0

//! Per page: no batch at all, for comparison.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::policy::{
    note,
    sealed,
    settle,
    sum,
    Direct,
    Flush,
    Kind,
    Machine,
    Owed,
    Report, //
};
use super::range::{
    PageRange,
    Pending, //
};

/// A flush for each PTE, at once: what Linux did before it had batches. For comparison.
pub struct PerPage<M: Machine> {
    machine: M,
    owed: Owed<M>,
    nr_calls: usize,
}

impl<M: Machine> PerPage<M> {
    /// Makes a policy that owes nothing; it never does.
    pub fn new() -> Self {
        Self {
            machine: M::default(),
            owed: Owed::<M>::new(),
            nr_calls: 0,
        }
    }
}

impl<M: Machine> Default for PerPage<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> sealed::Sealed for PerPage<M> {}

impl<M: Machine> Direct for PerPage<M> {}

impl<M: Machine> Flush for PerPage<M> {
    type Mm = M::Mm;

    fn kind(&self) -> Kind {
        Kind::PerPage
    }

    fn flushes_each(&self) -> bool {
        true
    }

    fn cleared(&mut self, mm: &M::Mm, page: PageRange) {
        self.machine.flush_mm(mm, Some(page));
        self.nr_calls += 1;
    }

    fn record(&mut self, mm: &M::Mm, pending: Pending) {
        // Flushed already: this only counts.
        note::<M>(&mut self.owed, mm, pending);
    }

    fn owed(&self) -> Report {
        sum::<M>(&self.owed)
    }

    fn flush(&mut self) -> Report {
        settle::<M>(&mut self.owed, core::mem::take(&mut self.nr_calls))
    }
}
