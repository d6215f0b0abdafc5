// SPDX-License-Identifier: GPL-2.0
// Fails with: E0505

//! A PTE is not looked at after its table is unlocked.

use kernel::mm::tlb::moves::Move;

fn force_late<M: Move>(mapping: &M) -> bool {
    let table = mapping.lock(0).unwrap();
    let pte = M::pte(&table, 0).unwrap();
    drop(table);
    mapping.should_force_flush(pte)
}

fn main() {}
