// SPDX-License-Identifier: GPL-2.0

//! Unflushed: breaks the one rule, to show that tests notice.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::policy::{
    note,
    sealed,
    settle,
    sum,
    Flush,
    Kind,
    Machine,
    Owed,
    Report, //
};
use super::range::Pending;

/// No flush at all: the negative control. Pages come out of the batch while other CPUs still reach
/// them.
pub struct Unflushed<M: Machine> {
    owed: Owed<M>,
}

impl<M: Machine> Unflushed<M> {
    /// Makes a policy that never flushes.
    pub fn new() -> Self {
        Self {
            owed: Owed::<M>::new(),
        }
    }
}

impl<M: Machine> Default for Unflushed<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> sealed::Sealed for Unflushed<M> {}

impl<M: Machine> Flush for Unflushed<M> {
    type Mm = M::Mm;

    fn kind(&self) -> Kind {
        Kind::Unflushed
    }

    fn record(&mut self, mm: &M::Mm, pending: Pending) {
        note::<M>(&mut self.owed, mm, pending);
    }

    fn owed(&self) -> Report {
        sum::<M>(&self.owed)
    }

    fn flush(&mut self) -> Report {
        settle::<M>(&mut self.owed, 0)
    }
}
