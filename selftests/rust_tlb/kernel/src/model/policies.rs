// SPDX-License-Identifier: GPL-2.0

//! The policies, for the model.

use super::machine::{Model, ModelMm, Shared};
use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        range::{PageRange, Pending},
        tlb::{
            broadcast::Broadcast,
            per_page::PerPage,
            policy::{sealed::Sealed, Flush, Kind, Machine, Owed, Policy, Rule},
            precise::Precise,
            ringed::Ringed,
            unflushed::Unflushed,
            unnoted::Unnoted,
        },
    },
};

pub(super) type AnyPolicy = dyn Flush<Mm = ModelMm>;
/// Makes a policy that acts on a world.
pub(super) type NewPolicy = fn(&Shared) -> KBox<AnyPolicy>;

fn boxed(policy: impl Flush<Mm = ModelMm> + 'static) -> KBox<AnyPolicy> {
    let policy: Box<AnyPolicy> = Box::new(policy);
    policy.into()
}

pub(super) fn broadcast(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Broadcast>::new(Model::new(world)))
}

pub(super) fn precise(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Precise>::new(Model::new(world)))
}

pub(super) fn per_page(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, PerPage>::new(Model::new(world)))
}

pub(super) fn ringed(world: &Shared) -> KBox<AnyPolicy> {
    let rule = Ringed::new(GFP_KERNEL).unwrap();
    boxed(Policy::with(Model::new(world), rule))
}

/// All that flush.
pub(super) const POLICIES: [NewPolicy; 5] = [broadcast, precise, per_page, late, ringed];

/// A control: no flush.
pub(super) fn unflushed(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Unflushed>::new(Model::new(world)))
}

/// A control: unknown to others.
pub(super) fn unnoted(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Broadcast>::new(Unnoted(Model::new(world))))
}

/// Interrupts nobody when it is flushed, only if it has to be waited for: a flush that ends later.
#[derive(Default)]
struct Late {
    is_sent: bool,
}

impl Sealed for Late {}

impl<M: Machine> Rule<M> for Late {
    const KIND: Kind = Kind::Broadcast;

    fn record(&mut self, machine: &mut M, owed: &Owed<M>, mm: &M::Mm, pending: Pending) {
        Broadcast.record(machine, owed, mm, pending);
    }

    fn record_table(&mut self, machine: &mut M, _: &Owed<M>, mm: &M::Mm, range: PageRange) {
        machine.add_pending_table(mm, range);
    }

    fn flush(&mut self, _machine: &mut M, owed: &Owed<M>) -> usize {
        self.is_sent |= owed.nr_mms() > 0;
        0
    }

    fn wait(&mut self, machine: &mut M) {
        if std::mem::take(&mut self.is_sent) {
            machine.flush_pending();
        }
    }
}

pub(super) fn late(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Late>::new(Model::new(world)))
}
