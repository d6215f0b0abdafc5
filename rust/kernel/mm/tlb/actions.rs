// SPDX-License-Identifier: GPL-2.0

//! What a walk does with PTEs: clears them, or write-protects them.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::walk::{
    Action,
    Mapping,
    Permit,
    Unmap, //
};
use kernel::mm::{
    parts::{
        Changed,
        Cleared,
        Parts, //
    },
    stale::Stale, //
};

/// Clears them. The CPU is trusted: through a translation that was clean, nobody writes without a
/// fault.
pub(super) struct Clear;

impl<P: Stale, M: Unmap<P>> Action<M, P> for Clear {
    #[inline]
    fn change(
        &self,
        _mapping: &M,
        table: &mut M::Table<'_>,
        parts: &mut Parts<'_, P>,
        permit: &Permit,
    ) -> Changed {
        M::clear_each(table, parts, permit)
    }
}

/// Whether a clean PTE among those that were cleared is no proof that nobody writes: not if mprotect made
/// it writable again between the phases, nor if someone else made it read-only and has yet to flush that.
fn is_doubtful<M: Mapping>(cleared: Cleared, mapping: &M) -> bool {
    cleared.nr > 0 && (cleared.nr_writable > 0 || mapping.flush_is_pending())
}

/// Clears them: the second of [two phases](super::two_phase), in which the CPU is not trusted.
pub(super) struct ClearRest;

impl<P: Stale, M: Unmap<P>> Action<M, P> for ClearRest {
    fn change(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        parts: &mut Parts<'_, P>,
        permit: &Permit,
    ) -> Changed {
        let changed = M::clear_each(table, parts, permit);
        Changed {
            doubtful: is_doubtful(changed.cleared, mapping),
            ..changed
        }
    }
}

/// Write-protects it if it is writable and clean, else clears it: the first of
/// [two phases](super::two_phase).
pub(super) struct Protect;

impl<P: Stale, M: Unmap<P>> Action<M, P> for Protect {
    fn change(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        parts: &mut Parts<'_, P>,
        permit: &Permit,
    ) -> Changed {
        // A part at a time: each of its pages is one thing or the other.
        let Some(part) = parts.next() else {
            return Changed::default();
        };
        let mut changed = Changed::default();
        for page in part.single() {
            match M::protect(table, page, permit) {
                true => changed.add_protected(page.pages),
                false => changed.add_cleared(0, page.pages, M::clear(table, page, permit)),
            }
        }
        changed.doubtful = is_doubtful(changed.cleared, mapping);
        changed
    }
}
