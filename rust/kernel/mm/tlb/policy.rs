// SPDX-License-Identifier: GPL-2.0

//! When to flush what: the policies a batch can have.
//!
//! | policy        | rounds for `p` pages of `m` address spaces       | a round flushes           |
//! |---------------|--------------------------------------------------|---------------------------|
//! | [`PerPage`]   | `p` × `m`, each under the page-table lock        | one page                  |
//! | [`Broadcast`] | 1                                                | everything, on those CPUs |
//! | [`Ringed`]    | 1                                                | those pages, up to a limit|
//! | [`Precise`]   | `m`, or 1 where [that is better](super::ceiling) | one range, or one mm      |
//!
//! Pure: CPUs, generations and IPIs are behind [`Machine`], which the kernel implements in
//! `cpus.rs` and the host with a model.
//!
//! # What each call is for
//!
//! 1. A walker clears PTEs under a page-table lock, each with a locked read-modify-write. Where it
//!    finds none, but someone else has yet to flush that mm, it goes on as if it had (H2).
//! 2. [`Record::cleared`] for each of them; only [`PerPage`] and [`Ringed`] act on it.
//! 3. [`Record::record`] once for all PTEs cleared under this lock, *before* it is released:
//!    mprotect, munmap, mremap and madvise of that mm learn that a flush is owed (H4). From here
//!    on, now or at the flush, the generation is bumped and then `mm_cpumask()` read (H1).
//! 4. The lock is released. Other CPUs may use the stale entries until:
//! 5. [`Flush::flush`], with no lock held: CPUs are asked to drop them.
//! 6. [`Flush::wait`]: afterwards no CPU has them. A policy that interrupts CPUs has waited for
//!    them already; one that lets them come by themselves waits here.
//!
//! A [`Policy`] is what is owed, the machine that it was handed, and one [`Rule`]: what of that the
//! machine is told at once, and what it is asked at the flush.
//!
//! Rules H1 to H14 are those of
//! [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).
//!
//! [`Broadcast`]: super::broadcast::Broadcast
//! [`PerPage`]: super::per_page::PerPage
//! [`Precise`]: super::precise::Precise
//! [`Ringed`]: super::ringed::Ringed

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::ledger::Ledger;
use core::ops::Deref;
use kernel::mm::{
    range::{
        PageRange,
        Pending, //
    },
    run::Run, //
};

/// Address spaces that a policy tells apart.
pub const MAX_MMS: usize = 16;

pub(crate) mod sealed {
    /// Only this crate says what a flush is: a policy that does not flush would break every batch.
    pub trait Sealed {}
}

/// What a policy asks of the machine below it.
pub trait Machine: sealed::Sealed {
    /// An address space.
    type Mm;
    /// What keeps an address space from being freed (it may die).
    type Pin: Deref<Target = Self::Mm>;

    /// Pins `mm`. Does not sleep.
    fn pin(mm: &Self::Mm) -> Self::Pin;
    /// Returns the most pages that the machine flushes one by one.
    fn ceiling_pages(&self) -> usize;
    /// Owes `mm` a flush of `range`: bumps its generation, then notes its CPUs. Does not sleep.
    fn add_pending(&mut self, mm: &Self::Mm, range: PageRange);
    /// As [`Machine::add_pending`], for a page table that was taken out, and mapped `range`: CPUs in
    /// lazy mode are asked, too.
    fn add_pending_table(&mut self, mm: &Self::Mm, range: PageRange);
    /// Tells whoever else changes page tables of `mm` that a flush is owed. Does not sleep.
    fn note_batched(&mut self, mm: &Self::Mm);
    /// Owes `mm` a flush of all of `runs`, and of nothing else if there is a way to say so to its
    /// CPUs: bumps its generation, says what for, then notes its CPUs. Does not sleep.
    fn publish(&mut self, mm: &Self::Mm, _runs: &[Run]) {
        self.add_pending(mm, PageRange::ALL);
    }
    /// Flushes all that [`Machine::add_pending`] and [`Machine::publish`] noted, in one round.
    fn flush_pending(&mut self);
    /// Flushes `range` of `mm`, or all of it, in one round.
    fn flush_mm(&mut self, mm: &Self::Mm, range: Option<PageRange>);
}

/// What a flush did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// PTEs cleared since the flush before.
    pub nr_ptes: usize,
    /// Address spaces they were in, or that someone else has yet to flush; [`MAX_MMS`] stands for
    /// that many or more.
    pub nr_mms: usize,
    /// One of these PTEs was dirty: until the flush, its page could be written to.
    pub dirty: bool,
    /// Calls into the machine's flush functions. Each is one round, if other CPUs have to be asked.
    pub nr_calls: usize,
}

impl Report {
    /// Adds what another flush of the same batch did. Address spaces that are in both count once.
    pub(super) fn merge(&mut self, other: Self) {
        self.nr_ptes += other.nr_ptes;
        self.nr_mms = self.nr_mms.max(other.nr_mms);
        self.dirty |= other.dirty;
        self.nr_calls += other.nr_calls;
    }
}

/// Which policy it is, for those who watch: numbered as in `include/trace/events/rust_tlb.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// One round for all.
    Broadcast = 0,
    /// A range per address space.
    Precise = 1,
    /// A flush per page.
    PerPage = 2,
    /// None: a negative control.
    Unflushed = 3,
    /// Another batch's.
    Hoisted = 4,
    /// One round for all, and exact.
    Ringed = 5,
}

/// Why a batch is flushed, for those who watch: numbered as in `include/trace/events/rust_tlb.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Why {
    /// All that was to be unmapped is.
    End = 0,
    /// Contents are to be saved, and a PTE was dirty.
    Dirty = 1,
    /// Between the phases of an unmap.
    Phase = 2,
    /// A page that is pending is touched.
    Refault = 3,
    /// No room for more.
    Full = 4,
    /// Too long ago.
    Old = 5,
    /// Memory is short.
    Pressure = 6,
    /// A scope ends.
    Scope = 7,
    /// Somebody asked for it.
    Asked = 8,
    /// What comes next does not go with it.
    Other = 9,
    /// The batch is dropped.
    Dropped = 10,
    /// A leaf was cleared, whose flush cannot be left to later.
    Leaf = 11,
}

impl Why {
    /// How many there are.
    pub const NR: usize = 12;
}

/// Why a range is owed a flush: numbered as in `include/trace/events/rust_tlb.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Touched {
    /// PTEs were cleared or write-protected.
    Unmapped = 0,
    /// Someone else cleared PTEs, and has yet to flush.
    OwedElsewhere = 1,
    /// It is to be flushed, and stays mapped.
    Kept = 2,
    /// PTEs were moved elsewhere.
    Moved = 3,
}

/// Who is told which PTEs a walk has changed, and which page tables it took out. Sealed, as is [`Flush`]: all policies are in this
/// folder.
pub trait Record: sealed::Sealed {
    /// The address spaces it is for.
    type Mm;

    /// Returns whether [`Record::cleared`] does anything: it is called for each page only then.
    fn flushes_each(&self) -> bool {
        false
    }

    /// The PTE of `page` was cleared, by the caller under the page-table lock that it still holds
    /// or by someone else, or is to be flushed without being cleared; or it lies between others of its
    /// folio that were.
    fn cleared(&mut self, _mm: &Self::Mm, _page: PageRange) {}

    /// `pending` is all that [`Record::cleared`] was called for since the last call. If the caller
    /// cleared any of it, it still holds their page-table lock.
    fn record(&mut self, mm: &Self::Mm, pending: Pending);

    /// A page table that maps nothing was taken out of `mm`; it mapped `range`. The flush has to
    /// cover all of that, for others may have left a translation there to flush, and to ask CPUs in
    /// lazy mode, too: they may walk the table. Others know of the flush already.
    fn record_table(&mut self, mm: &Self::Mm, range: PageRange);
}

/// A flush policy.
pub trait Flush: Record {
    /// Returns which policy it is.
    fn kind(&self) -> Kind;

    /// Returns what a flush now would be for; its `nr_calls` is zero.
    fn owed(&self) -> Report;

    /// Begins to flush all that was recorded. IRQs are enabled, no spinlock is held.
    fn flush(&mut self) -> Report;

    /// Waits until no CPU has any more what [`Flush::flush`] was called for. May sleep.
    fn wait(&mut self) {}
}

/// Who waits for a flush, by address space.
pub type Owed<M> = Ledger<<M as Machine>::Pin, MAX_MMS>;

/// When to flush what is owed, and how: all in which one [`Policy`] differs from another.
pub trait Rule<M: Machine>: sealed::Sealed {
    /// Which policy it makes.
    const KIND: Kind;
    /// As [`Record::flushes_each`].
    const FLUSHES_EACH: bool = false;

    /// As [`Record::cleared`].
    fn cleared(&mut self, _machine: &mut M, _mm: &M::Mm, _page: PageRange) {}

    /// As [`Record::record`]. `owed` has `pending` already, if it had room for `mm`: it has for the
    /// first [`MAX_MMS`].
    fn record(&mut self, machine: &mut M, owed: &Owed<M>, mm: &M::Mm, pending: Pending);

    /// As [`Record::record_table`]. `owed` has the range already, if it had room for `mm`.
    fn record_table(&mut self, machine: &mut M, owed: &Owed<M>, mm: &M::Mm, range: PageRange);

    /// Begins to flush what is `owed`, and returns how many calls into the machine's flush
    /// functions that took.
    fn flush(&mut self, machine: &mut M, owed: &Owed<M>) -> usize;

    /// As [`Flush::wait`].
    fn wait(&mut self, _machine: &mut M) {}
}

/// A policy of its own: what is owed, and a rule for it.
pub struct Policy<M: Machine, R: Rule<M>> {
    machine: M,
    owed: Owed<M>,
    rule: R,
}

impl<M: Machine, R: Rule<M> + Default> Policy<M, R> {
    /// Makes a policy for `machine` that owes nothing.
    pub fn new(machine: M) -> Self {
        Self::with(machine, R::default())
    }
}

impl<M: Machine, R: Rule<M>> Policy<M, R> {
    /// Makes a policy for `machine` and a `rule` that is new.
    pub fn with(machine: M, rule: R) -> Self {
        Self {
            machine,
            owed: Owed::<M>::new(),
            rule,
        }
    }
}

impl<M: Machine, R: Rule<M>> Policy<M, R> {
    /// Notes that `mm` is owed `pending`, if there is room for it.
    fn note(&mut self, mm: &M::Mm, pending: Pending) {
        let same = |pin: &M::Pin| core::ptr::eq::<M::Mm>(&**pin, mm);
        let _ = self.owed.note(pending, same, || M::pin(mm));
    }
}

impl<M: Machine, R: Rule<M>> sealed::Sealed for Policy<M, R> {}

impl<M: Machine, R: Rule<M>> Record for Policy<M, R> {
    type Mm = M::Mm;

    fn flushes_each(&self) -> bool {
        R::FLUSHES_EACH
    }

    fn cleared(&mut self, mm: &M::Mm, page: PageRange) {
        self.rule.cleared(&mut self.machine, mm, page);
    }

    fn record(&mut self, mm: &M::Mm, pending: Pending) {
        // A full table counts the pages, and leaves the address space to the rule.
        self.note(mm, pending);
        self.rule.record(&mut self.machine, &self.owed, mm, pending);
    }

    fn record_table(&mut self, mm: &M::Mm, range: PageRange) {
        self.note(mm, Pending::new(range, 0));
        self.rule
            .record_table(&mut self.machine, &self.owed, mm, range);
    }
}

impl<M: Machine, R: Rule<M>> Flush for Policy<M, R> {
    fn kind(&self) -> Kind {
        R::KIND
    }

    fn owed(&self) -> Report {
        Report {
            nr_ptes: self.owed.nr_pages(),
            nr_mms: self.owed.nr_mms(),
            dirty: self.owed.is_dirty(),
            nr_calls: 0,
        }
    }

    fn flush(&mut self) -> Report {
        let report = Report {
            nr_calls: self.rule.flush(&mut self.machine, &self.owed),
            ..self.owed()
        };
        self.owed.clear();
        report
    }

    fn wait(&mut self) {
        self.rule.wait(&mut self.machine);
    }
}
