// SPDX-License-Identifier: GPL-2.0

//! The pure files of the device, with their tests.

mod crowds;
mod folios;
mod marked;
#[path = "../../../srctree/samples/rust/rust_tlb/marks.rs"]
mod marks;
#[path = "../../../srctree/samples/rust/rust_tlb/pool.rs"]
mod pool;
mod pools;
mod refault;
#[path = "../../../srctree/samples/rust/rust_tlb/slots.rs"]
mod slots;
#[path = "../../../srctree/samples/rust/rust_tlb/sparse.rs"]
mod sparse;
