// SPDX-License-Identifier: GPL-2.0

//! The machine that a policy is made for, in the kernel: its CPUs.
//!
//! Rule H12 is one of [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).
//!
//! C source: [`mm/rust_tlb/defer.c`](srctree/mm/rust_tlb/defer.c)

use super::policy::{
    sealed::Sealed,
    Machine, //
};
use crate::{
    alloc::Flags,
    bindings,
    mm::{
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
    batch: KBox<bindings::arch_tlbflush_unmap_batch>,
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

    #[inline(never)]
    fn ceiling_pages(&self) -> usize {
        // SAFETY: Reads a variable, in any context.
        unsafe { bindings::tlb_batch_ceiling() }
    }

    #[inline(never)]
    fn add_pending(&mut self, mm: &Mm, range: PageRange) {
        let (start, end) = (range.start(), range.end());
        // SAFETY:
        // - The batch is initialised, and exclusively borrowed.
        // - `mm` is a reference, so it is not freed during the call.
        unsafe { bindings::tlb_batch_add_pending(&mut *self.batch, mm.as_raw(), start, end) }
    }

    #[inline(never)]
    fn add_pending_table(&mut self, mm: &Mm, range: PageRange) {
        let (start, end) = (range.start(), range.end());
        // SAFETY: As for `add_pending`.
        unsafe { bindings::tlb_batch_add_pending_table(&mut *self.batch, mm.as_raw(), start, end) }
    }

    #[inline(never)]
    fn note_batched(&mut self, mm: &Mm) {
        // SAFETY: `mm` is a reference. What is noted without need costs one flush, and no more.
        unsafe { bindings::tlb_batch_note_batched(mm.as_raw()) }
    }

    #[inline(never)]
    fn publish(&mut self, mm: &Mm, runs: &[Run]) {
        let (words, nr_runs) = (runs.as_ptr().cast::<u64>(), runs.len());
        // SAFETY:
        // - The batch and `mm` as in `add_pending`.
        // - A `Run` is a word, and so many of them are borrowed.
        unsafe { bindings::tlb_batch_publish(&mut *self.batch, mm.as_raw(), words, nr_runs) }
    }

    #[inline(never)]
    fn flush_pending(&mut self) {
        // SAFETY: The batch is initialised and exclusively borrowed. In another context than
        // `Flush::flush` documents, it could wait for ever, and lockdep reports; no memory is at risk.
        unsafe { bindings::tlb_batch_flush_pending(&mut *self.batch) }
    }

    #[inline(never)]
    fn flush_mm(&mut self, mm: &Mm, range: Option<PageRange>) {
        let (start, end) = range.map_or((0, usize::MAX), |r| (r.start(), r.end()));
        // SAFETY: `mm` is a reference, so it is not freed; without users, its generation goes up and
        // nobody is interrupted (H12). As to the context, see `flush_pending`.
        unsafe { bindings::tlb_batch_flush_mm_range(mm.as_raw(), start, end) }
    }
}
