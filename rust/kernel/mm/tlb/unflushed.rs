// SPDX-License-Identifier: GPL-2.0

//! Unflushed: breaks the one rule, to show that tests notice.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::policy::{
    sealed,
    Kind,
    Machine,
    Owed,
    Rule, //
};
use kernel::mm::range::{
    PageRange,
    Pending, //
};

/// No flush at all: the negative control. Pages come out of the batch while other CPUs still reach
/// them.
#[derive(Default)]
pub struct Unflushed;

impl sealed::Sealed for Unflushed {}

impl<M: Machine> Rule<M> for Unflushed {
    const KIND: Kind = Kind::Unflushed;

    fn record(&mut self, _: &mut M, _: &Owed<M>, _: &M::Mm, _: Pending) {}

    fn record_table(&mut self, _: &mut M, _: &Owed<M>, _: &M::Mm, _: PageRange) {}

    fn flush(&mut self, _: &mut M, _: &Owed<M>) -> usize {
        0
    }
}
