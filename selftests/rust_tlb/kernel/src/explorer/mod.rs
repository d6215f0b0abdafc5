// SPDX-License-Identifier: GPL-2.0

//! A machine in small steps, and all that can happen on it.
//!
//! `model` takes an address space apart in a few large steps, at random. Here, a step is at most
//! one access to memory that others change, and all states are visited that a small machine can be
//! in. What the machine does is what `arch/x86/mm/tlb.c` does ([`tlb`]), with the kernel's own ring
//! ([`ring`]), and its own walk, batch, phases and policies ([`driver`]): `rust/kernel/mm/tlb/`.
//!
//! The machine has CPUs with a store buffer, PCIDs, translations and paging-structure entries;
//! address spaces with page tables, a mask and a ring; IPIs that arrive late. See [`state`] for why
//! what a CPU caches is no step. What is not in it: `Documentation/mm/tlb_batch_model.rst`.

mod check;
mod controls;
mod driver;
mod driver_tests;
mod hash;
mod machine;
mod moves;
mod orders;
mod orders_tests;
mod program;
mod random;
mod ring;
mod scenarios;
mod search;
mod sound;
mod state;
mod tlb;
mod trace;
mod witness;
