// SPDX-License-Identifier: GPL-2.0

//! What a walk does with PTEs: clears them, or write-protects them.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    range::PageRange,
    walk::{
        Action,
        Changed,
        Permit,
        Unmap, //
    }, //
};

/// Clears them. The CPU is trusted: through a translation that was clean, nobody writes without a
/// fault.
pub(super) struct Clear;

impl<P, M: Unmap<P>> Action<M, P> for Clear {
    fn change(
        &self,
        _mapping: &M,
        table: &mut M::Table<'_>,
        pages: PageRange,
        entry: &P,
        nth: usize,
        permit: &Permit,
    ) -> Option<Changed> {
        let cleared = M::clear(table, pages, entry, nth, permit);
        (cleared.nr > 0).then_some(Changed::Cleared {
            nr: cleared.nr,
            nr_dirty: cleared.nr_dirty,
            doubtful: false,
        })
    }
}

/// Clears them: the second of [two phases](super::two_phase), in which the CPU is not trusted. So a
/// clean PTE is no proof that nobody writes: not if mprotect made it writable again between the
/// phases, nor if someone else made it read-only and has yet to flush that.
pub(super) struct ClearRest;

impl<P, M: Unmap<P>> Action<M, P> for ClearRest {
    fn change(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        pages: PageRange,
        entry: &P,
        nth: usize,
        permit: &Permit,
    ) -> Option<Changed> {
        let cleared = M::clear(table, pages, entry, nth, permit);
        (cleared.nr > 0).then(|| Changed::Cleared {
            nr: cleared.nr,
            nr_dirty: cleared.nr_dirty,
            doubtful: cleared.nr_writable > 0 || mapping.flush_is_pending(),
        })
    }
}

/// Write-protects it if it is writable and clean, else clears it: the first of
/// [two phases](super::two_phase).
pub(super) struct Protect;

impl<P, M: Unmap<P>> Action<M, P> for Protect {
    fn change(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        pages: PageRange,
        entry: &P,
        nth: usize,
        permit: &Permit,
    ) -> Option<Changed> {
        if M::protect(table, pages.start(), entry, nth, permit) {
            return Some(Changed::Protected);
        }
        // What is behind it may have to be write-protected.
        let (page, _) = pages.split_at(1);
        ClearRest.change(mapping, table, page, entry, nth, permit)
    }
}
