// SPDX-License-Identifier: GPL-2.0
// Fails with: E0451

//! Only a move makes a token, and only with what it has pinned.

use kernel::{
    alloc::KVVec,
    mm::tlb::{
        moves::{Move, Moved},
        policy::Flush,
    },
};

fn unpinned<'m, M: Move, F: Flush>(moved: Moved<'m, M, F>) -> Moved<'m, M, F> {
    Moved {
        pins: KVVec::default(),
        ..moved
    }
}

fn main() {}
