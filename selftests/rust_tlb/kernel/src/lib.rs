// SPDX-License-Identifier: GPL-2.0

//! The pure files of `rust/kernel/mm/`, compiled on the host.
//!
//! They are the kernel's own sources, not copies, at the module paths that they have in the kernel;
//! they say `use kernel::…`, which is this crate here and the `kernel` crate there. What they need of
//! it is in [`alloc`], [`page`], [`prelude`] and [`sync`]. The machine below them is a model: see `model`,
//! and `explorer`, which visits all states of a smaller one.

#![forbid(unsafe_code)]

extern crate self as kernel;

pub mod alloc;
#[cfg(test)]
mod device;
#[cfg(test)]
mod explorer;
pub mod mm;
#[cfg(test)]
mod model;
pub mod page;
pub mod prelude;
pub mod sync;
