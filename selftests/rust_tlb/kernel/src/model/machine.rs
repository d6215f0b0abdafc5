// SPDX-License-Identifier: GPL-2.0

//! The model as a [`Machine`]: a handle to a world that each test makes for itself.

use super::{
    ids::{Cpu, MmId},
    world::World,
};
use crate::{
    mm::{
        range::PageRange,
        run::Run,
        tlb::policy::{sealed::Sealed, Machine},
    },
    page::PAGE_SIZE,
};
use std::{cell::RefCell, collections::BTreeSet, ops::Deref, rc::Rc};

/// A world, and all that act on it.
#[derive(Clone)]
pub(super) struct Shared(Rc<RefCell<World>>);

impl Shared {
    pub(super) fn new(world: World) -> Self {
        Self(Rc::new(RefCell::new(world)))
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
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

/// What a policy is made for.
pub(super) struct Model {
    world: Shared,
    mask: BTreeSet<Cpu>,
    /// What was said that flushes are for: of all, where it is not certain.
    published: Vec<(MmId, Option<PageRange>)>,
}

impl Model {
    /// Begins a batch that owes nothing.
    pub(super) fn new(world: &Shared) -> Self {
        Self {
            world: world.clone(),
            mask: BTreeSet::new(),
            published: Vec::new(),
        }
    }
}

impl Sealed for Model {}

impl Machine for Model {
    type Mm = ModelMm;
    type Pin = ModelPin;

    fn pin(mm: &ModelMm) -> ModelPin {
        ModelPin(&MMS[mm.0])
    }

    fn ceiling_pages(&self) -> usize {
        self.world.with(|w| w.ceiling_pages)
    }

    fn add_pending(&mut self, mm: &ModelMm, _range: PageRange) {
        self.mask.extend(self.world.with(|w| w.add_pending(mm.0)));
    }

    /// The model frees no tables.
    fn add_pending_table(&mut self, mm: &ModelMm, range: PageRange) {
        self.add_pending(mm, range);
    }

    fn note_batched(&mut self, mm: &ModelMm) {
        self.world.with(|w| w.note_batched(mm.0));
    }

    /// At the flush, the CPUs lose this and no more.
    fn publish(&mut self, mm: &ModelMm, runs: &[Run]) {
        for run in runs {
            let end = run.start().saturating_add(run.nr_strides() * PAGE_SIZE);
            let range = PageRange::new(run.start(), end).filter(|_| !run.is_full());
            self.published.push((mm.0, range));
        }
    }

    fn flush_pending(&mut self) {
        for (mm, range) in self.published.drain(..) {
            self.world.with(|w| w.flush_mm(mm, range));
        }
        let mask = std::mem::take(&mut self.mask);
        self.world.with(|w| w.flush_all(&mask));
    }

    fn flush_mm(&mut self, mm: &ModelMm, range: Option<PageRange>) {
        self.world.with(|w| w.flush_mm(mm.0, range));
    }
}
