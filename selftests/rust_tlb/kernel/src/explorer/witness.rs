// SPDX-License-Identifier: GPL-2.0

//! What a search came across: that all is well says little if nothing happened.

use crate::mm::tlb::ring::{Doubt, GaveUp};
use std::{cell::RefCell, collections::BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Witness {
    /// A slot was claimed that an earlier generation had.
    SlotReused,
    /// An IPI, or a return from lazy mode, caught up exactly.
    ExactInterrupt,
    ExactReturn,
    /// So many generations at once.
    CaughtUp(u8),
    /// A full flush, for this reason.
    Full(u32),
    /// A generation was not published, for this reason.
    Unpublished(u32),
    NoRing,
    /// An IPI was handled by a CPU that was writing to a slot.
    InterruptedPublisher,
    /// An IPI found nothing left to do.
    UpToDate,
    /// An IPI found its CPU lazy: it went to `init_mm`.
    LeftLazy,
    /// An IPI found another address space loaded, and the mask was trimmed.
    Trimmed,
    /// The architecture's own exact flush of one range.
    ExactRange,
    /// A switch flushed nothing, or everything.
    SwitchKept,
    SwitchFlushed,
    /// A CPU was switching when it was asked.
    SwitchingAsked,
    LazySkipped,
    /// A CPU in the mask was not asked, as it runs another address space.
    RunsAnother,
    /// A CPU took an address space's PCID from another.
    AsidReused,
}

impl Witness {
    pub(super) fn of_doubt(doubt: Doubt) -> Self {
        Self::Full(doubt as u32)
    }

    pub(super) fn of_giving_up(reason: GaveUp) -> Self {
        Self::Unpublished(reason as u32)
    }
}

#[derive(Default)]
pub(super) struct Witnesses(RefCell<BTreeSet<Witness>>);

impl Witnesses {
    pub(super) fn saw(&self, witness: Witness) {
        self.0.borrow_mut().insert(witness);
    }

    pub(super) fn all(&self) -> BTreeSet<Witness> {
        self.0.borrow().clone()
    }
}
