// SPDX-License-Identifier: GPL-2.0
// Fails with: E0624

//! What is in a PTE is known as long as its table is locked, and not by anybody's word.

use kernel::mm::{pte::Pte, tlb::moves::Move};

fn pin_anything<M: Move>(mapping: &M) -> Option<M::Pin> {
    mapping.pin(Pte::new(7, true, true))
}

fn main() {}
