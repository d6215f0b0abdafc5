// SPDX-License-Identifier: GPL-2.0
// Fails with: E0382

//! A move is over when it is flushed.

use kernel::mm::tlb::{
    moves::{Done, Move, Moved},
    policy::Flush,
};

fn look_late<M: Move, F: Flush>(moved: Moved<'_, M, F>) -> Done {
    moved.flush();
    moved.done()
}

fn main() {}
