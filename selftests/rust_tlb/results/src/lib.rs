// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is measured, once for all who speak of it: the guest, which measures and prints; the runner,
//! which reads that and writes `results.json`; the pages and pictures that are made of it.
//!
//! - [`said`] is what the guest prints, line by line; [`written`] is what becomes of it, and
//!   `bench.schema.json` is derived from that. [`demo`] is the demo's.
//! - [`strategies`] are the strategies and [`axes`] the axes, with what each of them means;
//!   [`names`] is what else is told apart.
//! - [`spread`] is the median, and what goes with it.
//! - [`text`] makes tables.

pub mod axes;
pub mod demo;
pub mod names;
pub mod said;
#[cfg(test)]
mod schema;
pub mod spread;
pub mod strategies;
pub mod text;
pub mod written;
