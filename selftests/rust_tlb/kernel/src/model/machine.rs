// SPDX-License-Identifier: GPL-2.0

//! The model as a [`Machine`]. A policy makes its machine by itself, so the world that it acts on is
//! one a thread: each test has its own.

use super::world::{Cpu, MmId, World};
use crate::mm::tlb::{
    policy::{sealed::Sealed, Machine},
    range::PageRange,
};
use std::{cell::RefCell, collections::BTreeSet, ops::Deref};

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new(1, 1, 1));
}

/// Replaces the world of this thread.
pub(super) fn set_world(world: World) {
    WORLD.with(|w| *w.borrow_mut() = world);
}

/// Acts on the world of this thread.
pub(super) fn with_world<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with(|w| f(&mut w.borrow_mut()))
}

/// An address space, known by its place in memory, as in the kernel.
pub(super) struct ModelMm(pub(super) MmId);

/// Address spaces of the model live as long as the program.
pub(super) struct ModelPin(&'static ModelMm);

impl Deref for ModelPin {
    type Target = ModelMm;

    fn deref(&self) -> &ModelMm {
        self.0
    }
}

/// As many address spaces as any test has.
pub(super) static MMS: [ModelMm; 20] = {
    let mut mms = [const { ModelMm(0) }; 20];
    let mut id = 0;
    while id < mms.len() {
        mms[id] = ModelMm(id);
        id += 1;
    }
    mms
};

#[derive(Default)]
pub(super) struct Model {
    mask: BTreeSet<Cpu>,
}

impl Sealed for Model {}

impl Machine for Model {
    type Mm = ModelMm;
    type Pin = ModelPin;

    fn pin(mm: &ModelMm) -> ModelPin {
        ModelPin(&MMS[mm.0])
    }

    fn ceiling_pages() -> usize {
        with_world(|w| w.ceiling_pages)
    }

    fn add_pending(&mut self, mm: &ModelMm, _range: PageRange) {
        self.mask.extend(with_world(|w| w.add_pending(mm.0)));
    }

    fn note_batched(&mut self, mm: &ModelMm) {
        with_world(|w| w.note_batched(mm.0));
    }

    fn flush_pending(&mut self) {
        let mask = std::mem::take(&mut self.mask);
        with_world(|w| w.flush_all(&mask));
    }

    fn flush_mm(&mut self, mm: &ModelMm, range: Option<PageRange>) {
        with_world(|w| w.flush_mm(mm.0, range));
    }
}
