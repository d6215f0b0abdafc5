// SPDX-License-Identifier: GPL-2.0

//! As `rust/kernel/mm.rs`.

pub mod tlb;
