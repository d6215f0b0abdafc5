// SPDX-License-Identifier: GPL-2.0

//! Unnoted: breaks H4, to show that tests notice. A machine whose batches mprotect, munmap, mremap
//! and madvise know nothing of.
//!
//! Rule H4 is one of [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::policy::{
    sealed,
    Machine, //
};
use kernel::mm::{
    range::PageRange,
    run::Run, //
};

/// The machine below, but for the one call.
pub struct Unnoted<M: Machine>(pub M);

impl<M: Machine> sealed::Sealed for Unnoted<M> {}

impl<M: Machine> Machine for Unnoted<M> {
    type Mm = M::Mm;
    type Pin = M::Pin;

    fn pin(mm: &M::Mm) -> M::Pin {
        M::pin(mm)
    }

    fn ceiling_pages(&self) -> usize {
        self.0.ceiling_pages()
    }

    fn add_pending(&mut self, mm: &M::Mm, range: PageRange) {
        self.0.add_pending(mm, range);
    }

    fn add_pending_table(&mut self, mm: &M::Mm, range: PageRange) {
        self.0.add_pending_table(mm, range);
    }

    fn note_batched(&mut self, _mm: &M::Mm) {}

    fn publish(&mut self, mm: &M::Mm, runs: &[Run]) {
        self.0.publish(mm, runs);
    }

    fn flush_pending(&mut self) {
        self.0.flush_pending();
    }

    fn flush_mm(&mut self, mm: &M::Mm, range: Option<PageRange>) {
        self.0.flush_mm(mm, range);
    }
}
