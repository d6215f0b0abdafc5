// SPDX-License-Identifier: GPL-2.0
// Fails with: E0423

//! That a page is in a batch whose policy will be told, only the walk can say.

use kernel::mm::tlb::walk::{Permit, Unmap};

fn clear<P, M: Unmap<P>>(table: &mut M::Table<'_>, addr: usize, page: &P) {
    M::clear(table, addr, page, &Permit(()));
}

fn main() {}
