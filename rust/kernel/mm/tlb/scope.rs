// SPDX-License-Identifier: GPL-2.0

//! A flush that several batches share.
//!
//! To hoist the flush out of a loop over unmaps, one batch is enough: whoever is given a
//! `&mut Batch` can add to it, and only its owner can flush it and have the pages. That is a scope,
//! nested as deep as the calls are, and an early return flushes. Where the batches are several
//! owners', for example several open files, they can share the flush alone: each makes a batch with
//! the policy [`Hoisted`] over one [`Scope`]. The first of them to need its flush, or whoever ends
//! the scope, flushes for all; the others then have theirs for nothing.
//!
//! # The protocol
//!
//! Flushes are numbered. What is recorded, is recorded for the next one, under the spinlock `next`,
//! and the recorder keeps its number. A flush takes the mutex `flushing`, then takes what was
//! recorded so far out under the spinlock, and flushes it after it let go of that. Then, under the
//! spinlock again, it is done. Whoever waits for number `n` takes the mutex, and so waits for a
//! flush that is being made; if number `n` is done by then, there is nothing left to do.
//!
//! Between the first PTE that a batch clears in a page table and its record, another batch may flush:
//! what the policies were told of each PTE is then in the one that was taken out, and that owed it to
//! nobody. So the recorder keeps the number of that time, too, and if it is another one, tells the next
//! policy of all it records anew.
//!
//! # Examples
//!
//! Two batches, and one flush for both:
//!
//! ```
//! use kernel::{
//!     mm::{
//!         rmap::AddressSpace,
//!         tlb::{AnyPolicy, Batch, Broadcast, Cpus, Hoisted, Scope}, //
//!     },
//!     page::Page,
//!     sync::Arc, //
//! };
//!
//! fn policy() -> Result<KBox<AnyPolicy>> {
//!     Ok(KBox::new(Broadcast::new(Cpus::new(GFP_KERNEL)?), GFP_KERNEL)?)
//! }
//!
//! let scope = Scope::new([policy()?, policy()?], GFP_KERNEL)?;
//! let file = AddressSpace::new()?;
//! let data = Arc::new((), GFP_KERNEL)?;
//!
//! let mut one = Batch::new(Hoisted::new(scope.clone()), 1, GFP_KERNEL)?;
//! let mut other = Batch::new(Hoisted::new(scope.clone()), 1, GFP_KERNEL)?;
//! for batch in [&mut one, &mut other] {
//!     let mut staging = batch.stage();
//!     staging.push(7, Page::alloc_page(GFP_KERNEL)?).map_err(|_| ENOSPC)?;
//!     staging.unmap(&file.over(data.as_arc_borrow()));
//! }
//!
//! // The flush that both owe. What they do themselves afterwards, they do for nothing.
//! scope.flush();
//! assert_eq!(one.flush().drain().count(), 1);
//! assert_eq!(other.flush().report().nr_calls, 0);
//! # Ok::<(), Error>(())
//! ```
//!
//! Locks: `flushing` → `next`; page-table lock → `next`. Nothing is allocated under either.
//!
//! Pure: on the host the locks are the standard library's.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    locks,
    policy::{
        sealed,
        Flush,
        Kind,
        Record,
        Report,
        Why, //
    },
    trace, //
};
use core::pin::Pin;
use kernel::{
    alloc::{
        Flags,
        KBox, //
    },
    mm::range::{
        PageRange,
        Pending, //
    },
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SpinLock, //
    }, //
};

/// What the next flush is for.
///
/// # Invariants
///
/// - `policy` has all that was recorded since flush `number - 1` began: it is what flush `number` will be
///   for.
/// - `done` is at most `number`.
struct Next<F: ?Sized> {
    policy: KBox<F>,
    number: u64,
    /// All flushes below this number are done.
    done: u64,
}

/// A flush that several batches share, over and over.
pub struct Scope<F: Flush + ?Sized> {
    next: Pin<KBox<SpinLock<Next<F>>>>,
    /// Owes nothing, unless a flush is being made.
    flushing: Pin<KBox<Mutex<KBox<F>>>>,
}

impl<F: Flush + ?Sized> Scope<F> {
    /// Makes a scope that owes nothing. `policies` are of one kind, and owe nothing: one of them is
    /// filled while the other is flushed.
    ///
    /// # Errors
    ///
    /// - `EINVAL` if one of them leaves its flush to a scope.
    /// - `ENOMEM` if there is no memory.
    pub fn new(policies: [KBox<F>; 2], flags: Flags) -> Result<Arc<Self>> {
        if policies.iter().any(|policy| policy.kind() == Kind::Hoisted) {
            return Err(EINVAL);
        }
        let [policy, other] = policies;
        let next = Next {
            policy,
            number: 0,
            done: 0,
        };
        let scope = Self {
            next: locks::spinlock(next, flags)?,
            flushing: locks::mutex(other, flags)?,
        };
        Ok(Arc::new(scope, flags)?)
    }

    /// Flushes what all batches of this scope owe so far.
    ///
    /// # Context
    ///
    /// May sleep. IRQs enabled, no spinlock held.
    pub fn flush(&self) -> Report {
        let number = self.next.lock().number;
        self.flush_up_to(number)
    }

    /// Flushes unless flush `number` was made already; waits for one that is being made.
    fn flush_up_to(&self, number: u64) -> Report {
        let mut flushing = self.flushing.lock();
        let mut next = self.next.lock();
        if next.done > number {
            return Report::default();
        }
        core::mem::swap(&mut next.policy, &mut *flushing);
        next.number += 1;
        let done = next.number;
        drop(next);
        let report = trace::flush(&mut **flushing, Why::Scope);
        flushing.wait();
        self.next.lock().done = done;
        report
    }
}

/// The policy of a batch that leaves its flush to a [`Scope`].
pub struct Hoisted<F: Flush + ?Sized> {
    scope: Arc<Scope<F>>,
    /// What this batch has recorded, and for which flush at the latest.
    own: Report,
    number: Option<u64>,
    /// The flush that was next when a PTE was cleared that is not recorded yet.
    cleared_for: Option<u64>,
}

impl<F: Flush + ?Sized> Hoisted<F> {
    /// Makes a policy that owes nothing.
    pub fn new(scope: Arc<Scope<F>>) -> Self {
        Self {
            scope,
            own: Report::default(),
            number: None,
            cleared_for: None,
        }
    }

    /// Records for the next flush, of which `record` is told the number.
    fn note(&mut self, record: impl FnOnce(&mut F, u64)) {
        let mut next = self.scope.next.lock();
        if self.number.is_some_and(|number| number < next.done) {
            self.own = Report::default();
        }
        let number = next.number;
        record(&mut *next.policy, number);
        self.number = Some(next.number);
        self.own.nr_mms = next.policy.owed().nr_mms;
    }
}

impl<F: Flush + ?Sized> sealed::Sealed for Hoisted<F> {}

impl<F: Flush + ?Sized> Record for Hoisted<F> {
    type Mm = F::Mm;

    fn flushes_each(&self) -> bool {
        self.scope.next.lock().policy.flushes_each()
    }

    fn cleared(&mut self, mm: &F::Mm, page: PageRange) {
        let mut next = self.scope.next.lock();
        self.cleared_for.get_or_insert(next.number);
        next.policy.cleared(mm, page);
    }

    fn record(&mut self, mm: &F::Mm, pending: Pending) {
        let cleared_for = self.cleared_for.take();
        self.note(|policy, number| {
            // Another batch of the scope has flushed in between. What was cleared before is in the other
            // policy, which did not owe it yet: to this one, all of it is told again.
            if cleared_for.is_some_and(|before| before != number) {
                policy.cleared(mm, pending.range());
            }
            policy.record(mm, pending);
        });
        self.own.nr_ptes += pending.nr_pages();
        self.own.dirty |= pending.is_dirty();
    }

    fn record_table(&mut self, mm: &F::Mm, range: PageRange) {
        self.note(|policy, _| policy.record_table(mm, range));
    }
}

impl<F: Flush + ?Sized> Flush for Hoisted<F> {
    fn kind(&self) -> Kind {
        Kind::Hoisted
    }

    /// As far as this batch has recorded it; the address spaces are those of the scope.
    fn owed(&self) -> Report {
        let done = self.scope.next.lock().done;
        match self.number {
            Some(number) if number >= done => self.own,
            _ => Report::default(),
        }
    }

    /// The pages and address spaces are this batch's, the calls those that were made now, for all.
    /// It waits at once, for who else waits has nobody else to ask.
    fn flush(&mut self) -> Report {
        let own = core::mem::take(&mut self.own);
        let nr_calls = match self.number.take() {
            Some(number) => self.scope.flush_up_to(number).nr_calls,
            None => 0,
        };
        Report { nr_calls, ..own }
    }
}
