// SPDX-License-Identifier: GPL-2.0
// Fails with: E0505

//! The old addresses are flushed before the process is unlocked, for which its mappings stand.

use kernel::{
    alloc::{KBox, GFP_KERNEL},
    mm::tlb::{
        moves::{move_pages, Move, When},
        policy::Flush,
    },
};

fn unlock_first<M: Move, F: Flush<Mm = M::Mm>>(from: M, to: M, policy: KBox<F>) {
    let moved = move_pages(&from, &to, &[7], When::Deferred, policy, GFP_KERNEL);
    drop(from);
    drop(moved);
}

fn main() {}
