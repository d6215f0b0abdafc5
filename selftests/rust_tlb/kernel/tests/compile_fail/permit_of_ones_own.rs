// SPDX-License-Identifier: GPL-2.0
// Fails with: E0423

//! That a page is in a batch whose policy will be told, only the walk can say.

use kernel::mm::{
    parts::Part,
    stale::Stale,
    tlb::walk::{Permit, Unmap},
};

fn clear<P: Stale, M: Unmap<P>>(table: &mut M::Table<'_>, part: Part<'_, P>) {
    M::clear(table, part, &Permit(()));
}

fn main() {}
