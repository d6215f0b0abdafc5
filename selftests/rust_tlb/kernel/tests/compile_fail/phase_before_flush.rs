// SPDX-License-Identifier: GPL-2.0
// Fails with: E0308

//! The second of two phases cannot come before the flush of the first.

use kernel::mm::{
    stale::Stale,
    tlb::{
        policy::Flush,
        two_phase::{Quiesced, WriteProtected},
    },
};

fn second_phase<P: Stale, F: Flush>(_: Quiesced<'_, P, F>) {}

fn at_once<P: Stale, F: Flush>(first: WriteProtected<'_, P, F>) {
    second_phase(first);
}

fn main() {}
