// SPDX-License-Identifier: GPL-2.0
// Fails with: E0616

//! The pages of a move cannot be let go of while its flush is owed.

use kernel::mm::tlb::{
    moves::{Move, Moved},
    policy::Flush,
};

fn release<M: Move, F: Flush>(moved: &mut Moved<'_, M, F>) {
    moved.pins.clear();
}

fn main() {}
