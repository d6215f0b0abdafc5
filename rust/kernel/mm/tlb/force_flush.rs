// SPDX-License-Identifier: GPL-2.0

//! Which PTE has to be flushed before its lock is dropped, when it moves.
//!
//! Between the move of a PTE and the flush, a CPU uses the page by its old address. Whoever meets the
//! page by the new one flushes that, and knows nothing of the old. So the flush of a PTE can be left
//! to later only for a page to which nobody but its driver does anything, and which the driver does
//! not let go of as long as it is pinned. What cannot be known without waiting is no reason to wait,
//! but one to flush.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use core::cell::Cell;
use kernel::mm::pte::{
    Look,
    Pte, //
};

/// Why a PTE is flushed before its lock is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The frame is no page: nothing pins it.
    NoPage = 0,
    /// Somebody has locked the page, for whatever.
    Locked = 1,
    /// Its memory is bad: it is about to be taken away.
    Bad = 2,
    /// Others find it by the reverse map.
    HasRmap = 3,
    /// It is under I/O: what is written meanwhile may be lost.
    Writeback = 4,
}

impl Reason {
    /// How many there are.
    pub const NR: usize = 5;
}

/// Returns why `pte` has to be flushed before its lock is dropped, if it has to. `look` is called
/// only if it maps something.
pub fn reason<'t>(pte: Pte<'t>, look: impl FnOnce(Pte<'t>) -> Look) -> Option<Reason> {
    if !pte.is_present() {
        // No CPU caches it.
        return None;
    }
    match look(pte) {
        Look::NoPage => Some(Reason::NoPage),
        Look::Locked => Some(Reason::Locked),
        Look::Page(page) if page.bad => Some(Reason::Bad),
        Look::Page(page) if page.has_rmap => Some(Reason::HasRmap),
        Look::Page(page) if page.writeback => Some(Reason::Writeback),
        Look::Page(_) => None,
    }
}

/// How often there was which [`Reason`].
#[derive(Default)]
pub struct Reasons([Cell<usize>; Reason::NR]);

impl Reasons {
    /// Counts `reason`, if there is one, and returns whether there is.
    pub(super) fn count(&self, reason: Option<Reason>) -> bool {
        if let Some(count) = reason.and_then(|reason| self.0.get(reason as usize)) {
            count.set(count.get() + 1);
        }
        reason.is_some()
    }

    /// Returns how often there was each, by number.
    pub fn get(&self) -> [usize; Reason::NR] {
        self.0.each_ref().map(Cell::get)
    }
}

#[cfg(any(test, CONFIG_RUST_TLB_KUNIT_TEST))]
#[cfg_attr(not(test), kernel::macros::kunit_tests(rust_tlb_force_flush))]
#[cfg_attr(CONFIG_KUNIT, allow(unsafe_code))]
mod tests {
    use super::*;
    use kernel::mm::pte::PageState;

    const PTE: Pte<'static> = Pte::new(7, true, true);

    #[test]
    fn what_is_not_known_is_flushed() {
        let state = |bad, has_rmap, writeback| {
            Look::Page(PageState {
                bad,
                has_rmap,
                writeback,
            })
        };
        for (look, expected) in [
            (Look::NoPage, Some(Reason::NoPage)),
            (Look::Locked, Some(Reason::Locked)),
            (state(true, true, true), Some(Reason::Bad)),
            (state(false, true, true), Some(Reason::HasRmap)),
            (state(false, false, true), Some(Reason::Writeback)),
            (state(false, false, false), None),
        ] {
            assert_eq!(reason(PTE, |_| look), expected);
        }
    }

    #[test]
    fn nothing_is_looked_at_where_nothing_is_mapped() {
        let none = Pte::new(7, false, false);
        let mut nr_looks = 0;
        let found = reason(none, |_| {
            nr_looks += 1;
            Look::NoPage
        });
        assert_eq!((found, nr_looks), (None, 0));
    }

    #[test]
    fn each_reason_is_counted() {
        let reasons = Reasons::default();
        assert!(!reasons.count(None));
        assert!(reasons.count(Some(Reason::Locked)));
        assert!(reasons.count(Some(Reason::Locked)));
        assert!(reasons.count(Some(Reason::Writeback)));
        assert_eq!(reasons.get(), [0, 2, 0, 0, 1]);
    }
}
