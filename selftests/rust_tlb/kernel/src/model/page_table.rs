// SPDX-License-Identifier: GPL-2.0

//! Page tables, as both sides use them: the kernel, under the page-table lock, and a CPU that walks
//! them and does not ask.

use super::{ids::Vpn, memory::Frame};
use std::collections::BTreeMap;

/// An entry of a page table; and of a TLB, which keeps what was there when it was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pte {
    pub(super) frame: Frame,
    pub(super) writable: bool,
    pub(super) dirty: bool,
}

#[derive(Clone, Default)]
pub(super) struct PageTable {
    ptes: BTreeMap<Vpn, Pte>,
    /// The page-table lock is held: faults wait.
    pub(super) is_locked: bool,
}

impl PageTable {
    pub(super) fn get(&self, vpn: Vpn) -> Option<Pte> {
        self.ptes.get(&vpn).copied()
    }

    /// As `vmf_insert_page_mkwrite()` into a shared, writable mapping: dirty if it was a write.
    pub(super) fn map(&mut self, vpn: Vpn, frame: Frame, dirty: bool) {
        let pte = Pte {
            frame,
            writable: true,
            dirty,
        };
        self.ptes.insert(vpn, pte);
    }

    /// `ptep_get_and_clear()`.
    pub(super) fn clear(&mut self, vpn: Vpn) -> Option<Pte> {
        self.ptes.remove(&vpn)
    }

    /// There is no page table: the kernel frees one that is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.ptes.is_empty()
    }

    /// Changes the Writable bit alone, as `ptep_set_wrprotect()` and mprotect do: Dirty stays.
    pub(super) fn set_writable(&mut self, vpn: Vpn, writable: bool) {
        if let Some(pte) = self.ptes.get_mut(&vpn) {
            pte.writable = writable;
        }
    }

    /// A write fault on a page that is there: `wp_page_reuse()`.
    pub(super) fn make_writable(&mut self, vpn: Vpn) {
        if let Some(pte) = self.ptes.get_mut(&vpn) {
            pte.writable = true;
            pte.dirty = true;
        }
    }

    /// A CPU's walk before it writes: sets Dirty, in one step with the look at the rest of the PTE.
    pub(super) fn walk_to_write(&mut self, vpn: Vpn) -> Option<Pte> {
        let pte = self.ptes.get_mut(&vpn).filter(|pte| pte.writable)?;
        pte.dirty = true;
        Some(*pte)
    }
}
