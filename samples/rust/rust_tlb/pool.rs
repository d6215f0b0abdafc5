// SPDX-License-Identifier: GPL-2.0

//! Released pages that are kept for the next fault.
//!
//! They are poisoned, so that a write through a stale translation shows: the pool counts pages whose
//! poison was overwritten. A page that has gone bad meanwhile is never handed out again.
//!
//! Nothing here allocates, but for the pool itself: memory pressure comes here, too.

#![forbid(unsafe_code)]

use kernel::alloc::{
    AllocError,
    Flags,
    KVVec, //
};

/// What a pool keeps.
pub(crate) trait Pooled {
    /// Returns whether its memory has gone bad.
    fn is_bad(&self) -> bool;

    /// Overwrites all of it.
    fn poison(&mut self);

    /// Returns whether it is as [`Pooled::poison`] left it.
    fn is_poisoned(&self) -> bool;

    /// Clears all of it.
    fn zero(&mut self);
}

/// What was found in a pool beside pages that can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Pages that had gone bad, and are not in the pool any more.
    pub(crate) nr_bad: usize,
    /// Pages that someone has written to.
    pub(crate) nr_written: usize,
}

/// Pages of which nobody else has any.
///
/// # Invariants
///
/// All were poisoned when they came.
pub(crate) struct Pool<P> {
    pages: KVVec<P>,
}

impl<P: Pooled> Pool<P> {
    /// Makes room for `nr` pages.
    ///
    /// # Errors
    ///
    /// - [`AllocError`] (`ENOMEM`) if there is no memory for it.
    pub(crate) fn new(nr: usize, flags: Flags) -> Result<Self, AllocError> {
        // INVARIANT: There are none.
        Ok(Self {
            pages: KVVec::with_capacity(nr, flags)?,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// Poisons `page` and keeps it, or returns it, poisoned, if there is no room.
    pub(crate) fn keep(&mut self, mut page: P) -> Result<(), P> {
        page.poison();
        // INVARIANT: It was poisoned just now.
        self.pages
            .push_within_capacity(page)
            .map_err(|refused| refused.0)
    }

    /// Takes a page out, if there is one that has not gone bad, and clears it. Adds to `found` what
    /// was found on the way.
    pub(crate) fn take(&mut self, found: &mut Findings) -> Option<P> {
        while let Some(mut page) = self.pages.pop() {
            if page.is_bad() {
                found.nr_bad += 1;
                continue;
            }
            found.nr_written += usize::from(!page.is_poisoned());
            page.zero();
            return Some(page);
        }
        None
    }

    /// Looks for pages that someone has written to, and poisons those anew.
    pub(crate) fn check(&mut self) -> Findings {
        let mut found = Findings::default();
        let good = self.pages.iter_mut().filter(|page| !page.is_bad());
        for page in good.filter(|page| !page.is_poisoned()) {
            found.nr_written += 1;
            page.poison();
        }
        found
    }

    /// Drops up to `nr` pages, and returns how many.
    pub(crate) fn shrink(&mut self, nr: usize) -> usize {
        let nr = nr.min(self.pages.len());
        self.pages.truncate(self.pages.len() - nr);
        nr
    }

    /// Takes all pages out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = P> + '_ {
        self.pages.drain_all()
    }
}
