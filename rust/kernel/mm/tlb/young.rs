// SPDX-License-Identifier: GPL-2.0

//! Which pages were accessed.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::walk::{
    self,
    At,
    Mapping,
    Mappings,
    Visitor, //
};

/// A mapping whose Accessed bits can be read.
pub trait Young: Mapping {
    /// Returns whether the page at `addr` was accessed, or [`None`] if none is mapped there. With
    /// `clear`, clears the Accessed bit and does *not* flush: a CPU that has the translation in its
    /// TLB does not set the bit again.
    fn test_young(table: &mut Self::Table<'_>, addr: usize, clear: bool) -> Option<bool>;
}

struct TestYoung<F> {
    clear: bool,
    found: F,
}

impl<M: Young, F: FnMut(usize, bool)> Visitor<M, usize> for TestYoung<F> {
    // An Accessed bit that goes takes no translation away.
    const CHANGES: bool = false;

    fn visit(&mut self, at: &At<'_, M>, pgoffs: &[usize]) {
        let Some(mut table) = at.lock() else {
            return;
        };
        for &pgoff in pgoffs {
            let Some(page) = at.page(pgoff) else {
                continue;
            };
            if let Some(young) = M::test_young(&mut table, page.start(), self.clear) {
                (self.found)(pgoff, young);
            }
        }
    }
}

/// Calls `found` for each of pages `pgoffs` of the file, which are sorted, and each place where it
/// is mapped, with whether it was accessed there: under a page-table lock. With `clear`, clears the
/// Accessed bits, and does not flush.
///
/// # Context
///
/// May sleep. Takes the lock of `mappings`.
pub fn test_young<T>(mappings: &T, pgoffs: &[usize], clear: bool, found: impl FnMut(usize, bool))
where
    T: Mappings<Mapping: Young>,
{
    walk::walk(mappings, pgoffs, &mut TestYoung { clear, found });
}
