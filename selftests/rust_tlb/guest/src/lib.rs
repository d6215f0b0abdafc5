// SPDX-License-Identifier: GPL-2.0

//! What runs in the booted kernel: the selftests of `/dev/rust-tlb`, and the demo.
//!
//! From the bottom up:
//!
//! - [`abi`] is the device's own source file. [`device`] makes calls of it, [`mapping`] maps its
//!   memory, [`page`] by page.
//! - [`child`], [`shared`], [`barrier`], [`busy`] and [`workers`] put threads and processes on chosen CPUs and
//!   keep them in step with the thread that drives the device.
//! - [`tlb_events`], [`memory_use`], [`page_tables`] and [`residency`] are what the kernel says
//!   happened, [`complaint`] what it complains of where a test has it complain;
//!   [`oracle`] is what user space saw happen, by the [`verdict`]s of its [`watcher`]s.
//! - [`arena`] is address space in which memory is moved, by the kernel's [`mremap_runs`].
//! - [`huge_pages`] says when the kernel maps by 2 MiB, and finds what it has mapped so.
//! - [`numbered`] pages hold what was written to them, or nothing yet.
//! - [`attempts`] of a negative control count unless something spoilt them, which [`stillness`] tells,
//!   or a [`witness`].
//! - [`interruption`] stops a thread in the middle of a call.
//! - [`page_user`] is a thread that may be killed by what it finds; [`writers`] notice when a write
//!   is lost; [`pending`] waits for batches that nobody flushes.
//! - [`page_holder`], [`pinned`] and [`direct_io`] hold references to pages, beside the page tables;
//!   [`reclaim`] and [`failing_allocations`] make memory short, [`memory_group`] for a few only, who
//!   swap to a [`ram_disk`].
//! - [`flush_ring`] breaks the rules of the ring of flushes, and stops CPUs in the middle of it.
//! - [`held_moment`] holds a moment open that is too short to be met.
//! - [`kprobe`] counts how often the kernel comes by; [`ftrace`] records what its events say;
//!   [`recorder`] tells another tool when to.
//! - [`fault_knobs`] breaks rules of the kernel, and holds moments open.
//! - [`counted`] counts one unmap among busy CPUs: the counts suite and the demo share it.
//! - [`binder`] are processes that talk by another driver, whose pages are taken in the same way.
//! - [`stress`] does everything at once, for as long as one likes.
//! - [`ktap`] runs the tests of one [`suite`], each for as long as it makes [`progress`].
//!
//! One thread drives: it is pinned to the first CPU, and every other one to one of the rest, so
//! that a translation stays in the TLB of the CPU that loaded it.

#[path = "../../srctree/samples/rust/rust_tlb/abi.rs"]
pub mod abi;

pub mod arena;
pub mod attempts;
pub mod barrier;
#[cfg(feature = "bench")]
pub mod bench;
pub mod binder;
pub mod bracket_watch;
pub mod busy;
pub mod child;
pub mod complaint;
pub mod counted;
pub mod cpu;
pub mod device;
pub mod direct_io;
pub mod failing_allocations;
pub mod fault_knobs;
pub mod flush_ring;
pub mod ftrace;
pub mod held_moment;
pub mod huge_pages;
pub mod interruption;
pub mod kernel_module;
pub mod kprobe;
pub mod ktap;
pub mod mapping;
pub mod memory_group;
pub mod memory_use;
pub mod mremap_runs;
pub mod numbered;
pub mod oracle;
pub mod own_memory;
pub mod page;
pub mod page_holder;
pub mod page_tables;
pub mod page_user;
pub mod pending;
pub mod pinned;
pub mod progress;
pub mod ram_disk;
pub mod reclaim;
pub mod recorder;
pub mod residency;
pub mod selection;
pub mod shared;
pub mod stillness;
pub mod stress;
#[cfg(feature = "bench")]
pub mod suite;
pub mod tlb_events;
pub mod turns;
pub mod verdict;
pub mod watcher;
pub mod witness;
pub mod workers;
pub mod writers;
