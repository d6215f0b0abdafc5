// SPDX-License-Identifier: GPL-2.0

//! As `rust/kernel/mm/tlb.rs`, without what needs the kernel.

#[path = "../../../srctree/rust/kernel/mm/tlb/actions.rs"]
mod actions;
#[allow(
    dead_code,
    reason = "what saves contents, and takes page tables out, only the kernel has"
)]
#[path = "../../../srctree/rust/kernel/mm/tlb/batch.rs"]
pub mod batch;
#[path = "../../../srctree/rust/kernel/mm/tlb/broadcast.rs"]
pub mod broadcast;
#[path = "../../../srctree/rust/kernel/mm/tlb/ceiling.rs"]
pub mod ceiling;
#[path = "../../../srctree/rust/kernel/mm/tlb/force_flush.rs"]
pub mod force_flush;
#[path = "../../../srctree/rust/kernel/mm/tlb/ledger.rs"]
pub mod ledger;
mod locks;
#[path = "../../../srctree/rust/kernel/mm/tlb/movable.rs"]
mod movable;
#[path = "../../../srctree/rust/kernel/mm/tlb/mover.rs"]
mod mover;
#[path = "../../../srctree/rust/kernel/mm/tlb/moves.rs"]
pub mod moves;
#[path = "../../../srctree/rust/kernel/mm/tlb/owed.rs"]
pub mod owed;
#[path = "../../../srctree/rust/kernel/mm/tlb/per_page.rs"]
pub mod per_page;
#[path = "../../../srctree/rust/kernel/mm/tlb/policy.rs"]
pub mod policy;
#[path = "../../../srctree/rust/kernel/mm/tlb/precise.rs"]
pub mod precise;
#[path = "../../../srctree/rust/kernel/mm/tlb/ring.rs"]
pub mod ring;
#[path = "../../../srctree/rust/kernel/mm/tlb/ringed.rs"]
pub mod ringed;
#[path = "../../../srctree/rust/kernel/mm/tlb/run_list.rs"]
pub mod run_list;
#[path = "../../../srctree/rust/kernel/mm/tlb/scope.rs"]
pub mod scope;
#[allow(
    dead_code,
    reason = "only the kernel and the tests take page tables out"
)]
#[path = "../../../srctree/rust/kernel/mm/tlb/taker.rs"]
pub(crate) mod taker;
mod trace;
#[path = "../../../srctree/rust/kernel/mm/tlb/two_phase.rs"]
pub mod two_phase;
#[cfg(test)]
#[path = "../../../srctree/rust/kernel/mm/tlb/unflushed.rs"]
pub mod unflushed;
#[cfg(test)]
#[path = "../../../srctree/rust/kernel/mm/tlb/unnoted.rs"]
pub mod unnoted;
#[path = "../../../srctree/rust/kernel/mm/tlb/walk.rs"]
pub mod walk;
#[path = "../../../srctree/rust/kernel/mm/tlb/young.rs"]
pub mod young;
