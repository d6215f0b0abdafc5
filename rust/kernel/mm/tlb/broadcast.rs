// SPDX-License-Identifier: GPL-2.0

//! Broadcast: one round for all.

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

/// One round for all address spaces: every CPU that runs one of them flushes everything.
#[derive(Default)]
pub struct Broadcast;

impl sealed::Sealed for Broadcast {}

impl<M: Machine> Rule<M> for Broadcast {
    const KIND: Kind = Kind::Broadcast;

    fn record(&mut self, machine: &mut M, _owed: &Owed<M>, mm: &M::Mm, pending: Pending) {
        machine.add_pending(mm, pending.range());
        machine.note_batched(mm);
    }

    fn record_table(&mut self, machine: &mut M, _: &Owed<M>, mm: &M::Mm, range: PageRange) {
        machine.add_pending_table(mm, range);
    }

    fn flush(&mut self, machine: &mut M, owed: &Owed<M>) -> usize {
        if owed.nr_mms() == 0 {
            return 0;
        }
        // In the kernel `Cpus::flush_pending()` in `cpus.rs`: `arch_tlbbatch_flush()`.
        machine.flush_pending();
        1
    }
}
