// SPDX-License-Identifier: GPL-2.0

//! Precise: a range for each address space, as long as that is worth it.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    ceiling::{
        Decision,
        Limits, //
    },
    ledger::Entry,
    policy::{
        sealed,
        Kind,
        Machine,
        Owed,
        Rule,
        MAX_MMS, //
    }, //
};
use kernel::mm::range::{
    PageRange,
    Pending, //
};

/// Address spaces that get a round each. What a round more costs is measured in
/// `Documentation/mm/tlb_batch_numbers.rst`; it grows a little with their number. This bounds how long the
/// caller waits.
pub const MAX_PRECISE_MMS: usize = 8;

// The table has room for one more, with which a batch outgrows this: until the spill, nothing is
// owed that is not in the table.
const _: () = assert!(MAX_PRECISE_MMS < MAX_MMS);

/// A ranged flush for each address space; one for all if the batch outgrows that.
///
/// # Invariants
///
/// If `spilled`, all that is owed was handed to the machine's own batch; otherwise nothing was, and
/// every address space that is owed a flush is in the table.
#[derive(Default)]
pub struct Precise {
    // INVARIANT: At first, nothing is owed.
    spilled: bool,
}

fn limits<M: Machine>(machine: &M) -> Limits {
    Limits {
        ceiling_pages: machine.ceiling_pages(),
        max_mms: MAX_PRECISE_MMS,
    }
}

impl Precise {
    /// Hands what is owed to the machine's batch. That reads the generation and the CPUs of each
    /// address space later than its PTEs were cleared, which is as good: the order is what counts.
    fn spill<M: Machine>(&mut self, machine: &mut M, owed: &Owed<M>) {
        // INVARIANT: All entries are handed over.
        for Entry { mm, pending } in owed.iter() {
            machine.add_pending(mm, pending.range());
        }
        self.spilled = true;
    }

    /// Flushes address space by address space, unless it is better to flush them all at once.
    fn flush_each<M: Machine>(&mut self, machine: &mut M, owed: &Owed<M>) -> usize {
        let limits = limits(machine);
        let nr_mms = owed.nr_mms();
        let nr_far = owed.iter().filter(|e| limits.is_far(&e.pending)).count();
        let decide = |pending: &Pending| limits.decide(nr_mms, nr_far, pending);
        let is_all = |e: &Entry<M::Pin>| decide(&e.pending) == Decision::Broadcast;
        if owed.iter().any(is_all) {
            return self.flush_all(machine, owed);
        }
        for Entry { mm, pending } in owed.iter() {
            let is_ranged = decide(pending) == Decision::Ranged;
            machine.flush_mm(mm, is_ranged.then(|| pending.range()));
        }
        nr_mms
    }

    fn flush_all<M: Machine>(&mut self, machine: &mut M, owed: &Owed<M>) -> usize {
        if !self.spilled {
            self.spill(machine, owed);
        }
        machine.flush_pending();
        1
    }
}

impl sealed::Sealed for Precise {}

impl<M: Machine> Rule<M> for Precise {
    const KIND: Kind = Kind::Precise;

    fn record(&mut self, machine: &mut M, owed: &Owed<M>, mm: &M::Mm, pending: Pending) {
        if self.spilled {
            // INVARIANT: After a spill, what is recorded goes to the machine at once.
            machine.add_pending(mm, pending.range());
        } else if limits(machine).outgrown(owed.nr_mms()) {
            self.spill(machine, owed);
        }
        machine.note_batched(mm);
    }

    /// What a table mapped is more than any ceiling: all is flushed, in one round.
    fn record_table(&mut self, machine: &mut M, owed: &Owed<M>, mm: &M::Mm, range: PageRange) {
        if !self.spilled {
            self.spill(machine, owed);
        }
        // INVARIANT: Spilled, so it goes to the machine at once.
        machine.add_pending_table(mm, range);
    }

    fn flush(&mut self, machine: &mut M, owed: &Owed<M>) -> usize {
        let nr_calls = match self.spilled {
            true => self.flush_all(machine, owed),
            false => self.flush_each(machine, owed),
        };
        // INVARIANT: Nothing is owed.
        self.spilled = false;
        nr_calls
    }
}
