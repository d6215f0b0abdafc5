// SPDX-License-Identifier: GPL-2.0

//! Precise: a range for each address space, as long as that is worth it.

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
use super::{
    ceiling::{
        self,
        Decision, //
    },
    ledger::Entry,
    range::Pending, //
};

/// Address spaces that get a round each. What a round more costs is measured in
/// `Documentation/mm/tlb_batch.rst`; it does not depend on how many there are, so that this bounds
/// only how long the caller waits.
pub const MAX_PRECISE_MMS: usize = 8;

/// A ranged flush for each address space; one for all if the batch outgrows that.
///
/// # Invariants
///
/// If `spilled`, all that is owed was handed to the machine's own batch; otherwise nothing was, and
/// every address space that is owed a flush is in `owed`.
pub struct Precise<M: Machine> {
    machine: M,
    owed: Owed<M>,
    spilled: bool,
}

impl<M: Machine> Precise<M> {
    /// Makes a policy that owes nothing.
    pub fn new() -> Self {
        // INVARIANT: Nothing is owed.
        Self {
            machine: M::default(),
            owed: Owed::<M>::new(),
            spilled: false,
        }
    }

    fn limits() -> ceiling::Limits {
        ceiling::Limits {
            ceiling_pages: M::ceiling_pages(),
            max_mms: MAX_PRECISE_MMS,
        }
    }

    /// Hands what is owed to the machine's batch. That reads the generation and the CPUs of each
    /// address space later than its PTEs were cleared, which is as good: the order is what counts.
    fn spill(&mut self) {
        // INVARIANT: All entries are handed over.
        for Entry { mm, pending } in self.owed.iter() {
            self.machine.add_pending(mm, pending.range());
        }
        self.spilled = true;
    }

    /// Flushes address space by address space, unless it is better to flush them all at once.
    fn flush_each(&mut self) -> usize {
        let limits = Self::limits();
        let nr_mms = self.owed.nr_mms();
        let nr_far = self
            .owed
            .iter()
            .filter(|e| limits.is_far(&e.pending))
            .count();
        let decide = |pending: &Pending| limits.decide(nr_mms, nr_far, pending);
        let is_all = |e: &Entry<M::Pin>| decide(&e.pending) == Decision::Broadcast;
        if self.owed.iter().any(is_all) {
            return self.flush_all();
        }
        for Entry { mm, pending } in self.owed.iter() {
            let is_ranged = decide(pending) == Decision::Ranged;
            let range = is_ranged.then(|| pending.range());
            self.machine.flush_mm(mm, range);
        }
        nr_mms
    }

    fn flush_all(&mut self) -> usize {
        if !self.spilled {
            self.spill();
        }
        self.machine.flush_pending();
        1
    }
}

impl<M: Machine> Default for Precise<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> sealed::Sealed for Precise<M> {}

impl<M: Machine> Direct for Precise<M> {}

impl<M: Machine> Flush for Precise<M> {
    type Mm = M::Mm;

    fn kind(&self) -> Kind {
        Kind::Precise
    }

    fn record(&mut self, mm: &M::Mm, pending: Pending) {
        let noted = note::<M>(&mut self.owed, mm, pending);
        let was_spilled = self.spilled;
        if !was_spilled && (!noted || Self::limits().outgrown(self.owed.nr_mms())) {
            self.spill();
        }
        // INVARIANT: After a spill, what is recorded goes to the machine at once; and so does what
        // the spill did not find in the table.
        if was_spilled || !noted {
            self.machine.add_pending(mm, pending.range());
        }
        self.machine.note_batched(mm);
    }

    fn owed(&self) -> Report {
        sum::<M>(&self.owed)
    }

    fn flush(&mut self) -> Report {
        let nr_calls = match self.spilled {
            true => self.flush_all(),
            false => self.flush_each(),
        };
        // INVARIANT: Nothing is owed.
        self.spilled = false;
        settle::<M>(&mut self.owed, nr_calls)
    }
}
