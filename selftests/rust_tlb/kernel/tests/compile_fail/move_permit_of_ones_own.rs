// SPDX-License-Identifier: GPL-2.0
// Fails with: E0423

//! That a moved page is pinned or flushed in time, only a move can say.

use kernel::mm::tlb::moves::{Move, Permit};

fn shift<M: Move>(from: &M::Table<'_>, to: &mut M::Nested<'_>, old: usize, new: usize) {
    M::move_pte(from, old, to, new, &Permit(()));
}

fn main() {}
