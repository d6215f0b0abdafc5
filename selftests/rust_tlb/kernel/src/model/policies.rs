// SPDX-License-Identifier: GPL-2.0

//! The policies, for the model.

use super::machine::{Model, ModelMm, Shared};
use crate::{
    alloc::KBox,
    mm::tlb::{
        broadcast::Broadcast,
        per_page::PerPage,
        policy::{Flush, Policy},
        precise::Precise,
        unflushed::Unflushed,
        unnoted::Unnoted,
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

/// All that flush.
pub(super) const POLICIES: [NewPolicy; 3] = [broadcast, precise, per_page];

/// A control: no flush.
pub(super) fn unflushed(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Unflushed>::new(Model::new(world)))
}

/// A control: unknown to others.
pub(super) fn unnoted(world: &Shared) -> KBox<AnyPolicy> {
    boxed(Policy::<_, Broadcast>::new(Unnoted(Model::new(world))))
}
