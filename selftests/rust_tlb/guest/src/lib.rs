// SPDX-License-Identifier: GPL-2.0

//! What runs in the booted kernel: the selftests of `/dev/rust-tlb`, and the demo.
//!
//! From the bottom up:
//!
//! - [`abi`] is the device's own source file. [`device`] makes calls of it, [`mapping`] the memory.
//! - [`child`], [`shared`], [`barrier`] and [`crew`] put threads and processes on chosen CPUs and
//!   keep them in step with the thread that drives the device.
//! - [`tlb_events`], [`memory_use`] and [`residency`] are what the kernel says happened;
//!   [`oracle`] is what user space saw happen, by the [`verdict`]s of its [`watcher`]s.
//! - [`scene`] counts one unmap among busy CPUs: the counts suite and the demo share it.
//! - [`stress`] does everything at once, for as long as one likes.
//! - [`ktap`] runs the tests of one [`suite`].
//!
//! One thread drives: it is pinned to the first CPU, and every other one to one of the rest, so
//! that a translation stays in the TLB of the CPU that loaded it.

#[path = "../../srctree/samples/rust/rust_tlb/abi.rs"]
pub mod abi;

pub mod barrier;
pub mod child;
pub mod cpu;
pub mod crew;
pub mod device;
pub mod kernel_module;
pub mod ktap;
pub mod mapping;
pub mod memory_use;
pub mod oracle;
pub mod residency;
pub mod scene;
pub mod selection;
pub mod shared;
pub mod stress;
pub mod suite;
pub mod tlb_events;
pub mod verdict;
pub mod watcher;
