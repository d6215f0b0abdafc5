// SPDX-License-Identifier: GPL-2.0

//! Broadcast: one round for all.

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
use super::range::Pending;

/// One round for all address spaces: every CPU that runs one of them flushes everything.
pub struct Broadcast<M: Machine> {
    machine: M,
    owed: Owed<M>,
}

impl<M: Machine> Broadcast<M> {
    /// Makes a policy that owes nothing.
    pub fn new() -> Self {
        Self {
            machine: M::default(),
            owed: Owed::<M>::new(),
        }
    }
}

impl<M: Machine> Default for Broadcast<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> sealed::Sealed for Broadcast<M> {}

impl<M: Machine> Direct for Broadcast<M> {}

impl<M: Machine> Flush for Broadcast<M> {
    type Mm = M::Mm;

    fn kind(&self) -> Kind {
        Kind::Broadcast
    }

    fn record(&mut self, mm: &M::Mm, pending: Pending) {
        self.machine.add_pending(mm, pending.range());
        self.machine.note_batched(mm);
        note::<M>(&mut self.owed, mm, pending);
    }

    fn owed(&self) -> Report {
        sum::<M>(&self.owed)
    }

    fn flush(&mut self) -> Report {
        let owes = self.owed.nr_mms() > 0;
        if owes {
            // In the kernel `Cpus::flush_pending()` in `mechanism.rs`: `arch_tlbbatch_flush()`.
            self.machine.flush_pending();
        }
        settle::<M>(&mut self.owed, usize::from(owes))
    }
}
