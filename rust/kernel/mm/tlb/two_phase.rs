// SPDX-License-Identifier: GPL-2.0

//! Unmap in two phases, for CPUs that are not trusted.
//!
//! A translation that is writable and clean is a promise: before the CPU writes through it, it sets
//! the Dirty bit in the PTE, and faults if the PTE is gone. Linux trusts that promise, and so does
//! [`Staging::unmap`](super::Staging::unmap): what was clean needs no flush before its contents are
//! saved. Whoever does not trust it goes
//!
//! 1. write-protect the PTEs that are writable and clean, clear the others ([`WriteProtected`]);
//! 2. flush ([`Quiesced`]): no CPU has a writable translation to the pages left, so that each write
//!    faults, and sets the Dirty bit under the page-table lock, where phase 2 sees it;
//! 3. clear the rest; a PTE that is dirty now was written to meanwhile;
//! 4. flush, as ever.
//!
//! That is a second round, but for all pages, and only if there was a PTE to protect. The order is
//! in the types: nothing but a flush makes a [`Quiesced`]. What is mapped as a whole, by a leaf, is
//! never write-protected: the first phase clears it, counts it as written to if it was writable, and
//! flushes it before it ends.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::{
//!         rmap::AddressSpace,
//!         tlb::{Batch, Cpus, Phases, Precise}, //
//!     },
//!     page::Page,
//!     sync::Arc, //
//! };
//!
//! let file = AddressSpace::new()?;
//! let data = Arc::new((), GFP_KERNEL)?;
//! let mappings = file.over(data.as_arc_borrow());
//!
//! let mut batch = Batch::new(Precise::new(Cpus::new(GFP_KERNEL)?), 1, GFP_KERNEL)?;
//! let mut staging = batch.stage();
//! staging.push(7, Page::alloc_page(GFP_KERNEL)?).map_err(|_| ENOSPC)?;
//! let quiesced = staging.write_protect(&mappings).flush();
//! let phases = quiesced.unmap(&mappings);
//! // No process maps the page: there was nothing to protect, and nothing to flush in between.
//! assert_eq!(phases, Phases::default());
//! assert_eq!(batch.flush().drain().count(), 1);
//! # Ok::<(), Error>(())
//! ```
//!
//! Pure.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    actions::{
        ClearRest,
        Protect, //
    },
    batch::{
        Staging,
        Walked, //
    },
    policy::{
        Flush,
        Report, //
    },
    walk::{
        Mappings,
        Unmap,
        Walk, //
    }, //
};
use kernel::mm::stale::Stale;

/// What both phases did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// PTEs cleared, in both phases.
    pub nr_ptes: usize,
    /// PTEs that were write-protected first.
    pub nr_protected: usize,
    /// PTEs that were written to between the phases.
    pub nr_redirtied: usize,
    /// What the flush between the phases did.
    pub report: Report,
}

/// Pages of which no PTE is writable and clean. Stale translations may be: the flush is owed.
///
/// Dropped, it leaves the pages to the batch, and some of them mapped.
#[must_use = "the pages are not unmapped yet"]
pub struct WriteProtected<'b, P: Stale, F: Flush + ?Sized> {
    walked: Walked<'b, P, F>,
    first: Walk,
}

impl<'b, P: Stale, F: Flush + ?Sized> Staging<'b, P, F> {
    /// The first of [two phases](self): PTEs of the staged pages that are writable and clean are
    /// write-protected, all others cleared. See [`Staging::unmap`] otherwise.
    ///
    /// # Context
    ///
    /// As [`Staging::unmap`].
    pub fn write_protect<T>(self, mappings: &T) -> WriteProtected<'b, P, F>
    where
        T: Mappings<Mapping: Unmap<P, Mm = F::Mm>>,
    {
        let (first, walked) = self.walk(mappings, Protect);
        WriteProtected { walked, first }
    }
}

impl<'b, P: Stale, F: Flush + ?Sized> WriteProtected<'b, P, F> {
    /// Flushes, if a PTE was write-protected.
    ///
    /// # Context
    ///
    /// As [`Batch::flush`](super::Batch::flush).
    pub fn flush(self) -> Quiesced<'b, P, F> {
        let report = match self.first.nr_protected {
            0 => Report::default(),
            _ => self.walked.batch.flush_phase(),
        };
        Quiesced {
            walked: self.walked,
            first: self.first,
            report,
        }
    }
}

/// Pages that nobody writes to without a fault.
///
/// Dropped, it leaves the pages to the batch, and some of them mapped.
#[must_use = "the pages are not unmapped yet"]
pub struct Quiesced<'b, P: Stale, F: Flush + ?Sized> {
    walked: Walked<'b, P, F>,
    first: Walk,
    report: Report,
}

impl<P: Stale, F: Flush + ?Sized> Quiesced<'_, P, F> {
    /// The second of [two phases](self): clears what the first has left, in the same mappings. A
    /// PTE that is dirty now was written to between the phases.
    ///
    /// # Context
    ///
    /// As [`Staging::unmap`].
    pub fn unmap<T>(mut self, mappings: &T) -> Phases
    where
        T: Mappings<Mapping: Unmap<P, Mm = F::Mm>>,
    {
        let second = self.walked.walk_again(mappings, ClearRest);
        self.walked.note_unmapped(mappings);
        Phases {
            nr_ptes: self.first.nr_cleared + second.nr_cleared,
            nr_protected: self.first.nr_protected,
            nr_redirtied: second.nr_dirty,
            report: self.report,
        }
    }
}
