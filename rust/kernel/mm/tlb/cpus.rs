// SPDX-License-Identifier: GPL-2.0

//! The machine that a policy is made for, in the kernel: its CPUs.

use super::policy::{
    sealed::Sealed,
    Machine, //
};
use crate::{
    alloc::Flags,
    mm::{
        mechanism,
        range::PageRange,
        run::Run,
        Mm, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// The CPUs of this machine, and its own kind of batch: what a policy is made for.
///
/// The batch has a bit for each CPU that there could be, a kilobyte of them in a distribution's
/// kernel: too much for a stack, over which policies are moved.
pub struct Cpus {
    batch: KBox<mechanism::RawBatch>,
}

impl Cpus {
    /// Begins a batch that owes nothing.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`: there is no memory.
    pub fn new(flags: Flags) -> Result<Self> {
        Ok(Self {
            batch: KBox::init(pin_init::init_zeroed(), flags)?,
        })
    }
}

impl Sealed for Cpus {}

impl Machine for Cpus {
    type Mm = Mm;
    type Pin = ARef<Mm>;

    fn pin(mm: &Mm) -> ARef<Mm> {
        mm.into()
    }

    fn ceiling_pages(&self) -> usize {
        mechanism::ceiling_pages()
    }

    fn add_pending(&mut self, mm: &Mm, range: PageRange) {
        mechanism::add_pending(&mut self.batch, mm, range);
    }

    fn add_pending_table(&mut self, mm: &Mm, range: PageRange) {
        mechanism::add_pending_table(&mut self.batch, mm, range);
    }

    fn note_batched(&mut self, mm: &Mm) {
        mechanism::note_batched(mm);
    }

    fn publish(&mut self, mm: &Mm, runs: &[Run]) {
        mechanism::publish(&mut self.batch, mm, runs);
    }

    fn flush_pending(&mut self) {
        mechanism::flush_pending(&mut self.batch);
    }

    fn flush_mm(&mut self, mm: &Mm, range: Option<PageRange>) {
        mechanism::flush_mm(mm, range);
    }
}
