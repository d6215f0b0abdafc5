// SPDX-License-Identifier: GPL-2.0
// Fails with: E0423

//! That a page was flushed, only a batch can say.

use kernel::mm::stale::{Proof, Stale};

fn pretend(page: &mut impl Stale) {
    page.flushed(Proof(()));
}

fn main() {}
