// SPDX-License-Identifier: GPL-2.0

//! The bench: what each way to take pages back costs, and whom.
//!
//! - [`way`] is how [`pages`] are taken back; [`topology`] is who maps them; [`workload`] is what they do;
//!   [`fixture`] has them do it, and counts; [`clock`] tells time and instructions; [`mapped_file`] is
//!   what reclaim works on.
//! - [`plan`] says what is measured, [`sweep`] does it, [`row`] sums up.
//! - [`victims`] is what those lose who are interrupted.
//! - [`moves`] is what `mremap()` costs.
//! - [`binder`] is what a real driver's shrinker costs.
//! - [`hooks`] is what the kernel's own paths cost where the ring has hooks.
//! - [`headline`] is the workload that batched flushes were invented for.
//! - [`page_tables`] is the one that freeing empty page tables was argued for with.
//! - [`stale`] is whether they were flushed at all.
//! - [`check`] holds the counters against each other.
//!
//! Results are lines of a word in capitals and a JSON object; the runner makes a page of them.

pub mod binder;
pub mod check;
pub mod clock;
pub mod exact;
pub mod fixture;
pub mod headline;
pub mod hooks;
pub mod mapped_file;
pub mod moves;
pub mod page_tables;
pub mod pages;
pub mod plan;
pub mod row;
pub mod stale;
pub mod sweep;
pub mod topology;
pub mod victims;
pub mod way;
pub mod workload;
