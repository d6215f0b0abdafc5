// SPDX-License-Identifier: GPL-2.0

//! What a walk does with a PTE: clears it, or write-protects it.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::walk::{
    Action,
    Changed,
    Permit,
    Unmap, //
};

/// Clears it. The CPU is trusted: through a translation that was clean, nobody writes without a
/// fault.
pub(super) struct Clear;

impl<P, M: Unmap<P>> Action<M, P> for Clear {
    fn change(
        &self,
        _mapping: &M,
        table: &mut M::Table<'_>,
        addr: usize,
        page: &P,
        permit: &Permit,
    ) -> Option<Changed> {
        let dirty = M::clear(table, addr, page, permit)?.dirty;
        Some(Changed::Cleared {
            dirty,
            doubtful: false,
        })
    }
}

/// Clears it: the second of [two phases](super::two_phase), in which the CPU is not trusted. So a
/// clean PTE is no proof that nobody writes: not if mprotect made it writable again between the
/// phases, nor if someone else made it read-only and has yet to flush that.
pub(super) struct ClearRest;

impl<P, M: Unmap<P>> Action<M, P> for ClearRest {
    fn change(
        &self,
        mapping: &M,
        table: &mut M::Table<'_>,
        addr: usize,
        page: &P,
        permit: &Permit,
    ) -> Option<Changed> {
        let cleared = M::clear(table, addr, page, permit)?;
        Some(Changed::Cleared {
            dirty: cleared.dirty,
            doubtful: cleared.writable || mapping.flush_is_pending(),
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
        addr: usize,
        page: &P,
        permit: &Permit,
    ) -> Option<Changed> {
        if M::protect(table, addr, page, permit) {
            return Some(Changed::Protected);
        }
        ClearRest.change(mapping, table, addr, page, permit)
    }
}
