// SPDX-License-Identifier: GPL-2.0

//! Ringed: one round for all, and each CPU loses what was unmapped, and no more.
//!
//! What was cleared is kept page by page, merged into runs, and published in the
//! [ring](super::ring) of each address space at the flush; then the machine's own batch is flushed,
//! once for all. A CPU that is asked catches up with the address space that it has loaded.
//!
//! | address space                          | published as                              |
//! |----------------------------------------|-------------------------------------------|
//! | up to the limit of pages               | its runs: a generation for each 7 of them |
//! | above it, or more than 64 runs         | everything, in one generation             |
//! | without a ring                         | nothing: everything, in one generation    |
//! | more of them than are told apart       | their range, when it is recorded          |
//!
//! The limit is the machine's ceiling, for those who ask for exactness; or [`AUTO_PAGES`], for those
//! who want what is cheaper: above that, to walk the tables again for what is hot costs a CPU less
//! than to invalidate page by page.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    policy::{
        sealed,
        Kind,
        Machine,
        Owed,
        Rule, //
    },
    run_list::{
        RunList,
        MAX_RUNS_MM, //
    }, //
};
use kernel::{
    alloc::{
        AllocError,
        Flags, //
    },
    mm::{
        range::{
            PageRange,
            Pending, //
        },
        run::Run, //
    }, //
};

/// Pages of an address space up to which invalidating them one by one is cheaper than to lose all.
/// An INVLPG takes about 100 ns, a walk of tables that are cached about 10 ns, and few of a TLB's
/// entries are hot.
pub const AUTO_PAGES: usize = 8;

/// One round for all address spaces: every CPU that runs one of them invalidates what was unmapped
/// from it.
///
/// # Invariants
///
/// `runs` has all pages that were cleared since the last flush, or says that it has not. Address
/// spaces are known to it by their place in memory. Those that are owed a flush are pinned; another
/// one's place may be that of one which is gone, and the pages of both are flushed.
pub struct Ringed {
    runs: RunList,
    max_pages: usize,
}

impl Ringed {
    /// Makes a rule that is exact as far as the machine's ceiling.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory for its runs.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        Self::up_to(usize::MAX, flags)
    }

    /// Makes a rule that is exact for up to [`AUTO_PAGES`] pages of an address space.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory for its runs.
    pub fn auto(flags: Flags) -> Result<Self, AllocError> {
        Self::up_to(AUTO_PAGES, flags)
    }

    fn up_to(max_pages: usize, flags: Flags) -> Result<Self, AllocError> {
        Ok(Self {
            runs: RunList::new(flags)?,
            max_pages,
        })
    }

    fn publish<M: Machine>(&mut self, machine: &mut M, owed: &Owed<M>) {
        let max_pages = self.max_pages.min(machine.ceiling_pages());
        self.runs.sort();
        for entry in owed.iter() {
            let mut runs = [Run::FULL; MAX_RUNS_MM];
            let nr_runs = self
                .runs
                .merge(place::<M::Mm>(&entry.mm), max_pages, &mut runs);
            // What is not known is everything.
            let runs = runs.get(..nr_runs).filter(|runs| !runs.is_empty());
            machine.publish(&entry.mm, runs.unwrap_or(&[Run::FULL]));
        }
    }
}

fn place<T>(mm: &T) -> usize {
    core::ptr::from_ref(mm).addr()
}

impl sealed::Sealed for Ringed {}

impl<M: Machine> Rule<M> for Ringed {
    const KIND: Kind = Kind::Ringed;
    const FLUSHES_EACH: bool = true;

    fn cleared(&mut self, _machine: &mut M, mm: &M::Mm, page: PageRange) {
        self.runs.push(place(mm), page);
    }

    fn record(&mut self, machine: &mut M, owed: &Owed<M>, mm: &M::Mm, pending: Pending) {
        let mut noted = owed.iter().map(|entry| place::<M::Mm>(&entry.mm));
        if !noted.any(|noted| noted == place(mm)) {
            // One too many for the table: nobody else is going to flush it.
            machine.add_pending(mm, pending.range());
        }
        machine.note_batched(mm);
    }

    /// In a generation that is not published: who misses it flushes everything, and the round goes
    /// to CPUs in lazy mode, too.
    fn record_table(&mut self, machine: &mut M, _: &Owed<M>, mm: &M::Mm, range: PageRange) {
        machine.add_pending_table(mm, range);
    }

    fn flush(&mut self, machine: &mut M, owed: &Owed<M>) -> usize {
        let owes = owed.nr_mms() > 0;
        if owes {
            self.publish(machine, owed);
            machine.flush_pending();
        }
        self.runs.clear();
        usize::from(owes)
    }
}
