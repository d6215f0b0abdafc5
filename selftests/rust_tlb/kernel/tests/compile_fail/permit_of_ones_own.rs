// SPDX-License-Identifier: GPL-2.0
// Fails with: E0423

//! That a page is in a batch whose policy will be told, only the walk can say.

use kernel::mm::tlb::range::PageRange;
use kernel::mm::tlb::walk::{Permit, Unmap};

fn clear<P, M: Unmap<P>>(table: &mut M::Table<'_>, pages: PageRange, entry: &P) {
    M::clear(table, pages, entry, 0, &Permit(()));
}

fn main() {}
