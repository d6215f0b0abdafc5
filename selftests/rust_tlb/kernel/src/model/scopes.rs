// SPDX-License-Identifier: GPL-2.0

//! Batches that share a flush: whichever of them is flushed, when, and by whom.

use super::{
    ids::{Cpu, MmId, Vpn},
    machine::{Shared, MMS},
    memory::Frame,
    policies::{broadcast, unflushed, AnyPolicy, NewPolicy, POLICIES},
    properties::unmap,
    world::World,
};
use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        range::{PageRange, Pending},
        tlb::{
            batch::Batch,
            policy::{Flush, Record, Report},
            scope::{Hoisted, Scope},
        },
    },
    page::PAGE_SHIFT,
    prelude::EINVAL,
    sync::Arc,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

const NR_CPUS: usize = 3;
const NR_MMS: usize = 3;
const NR_PAGES: usize = 12;
const NR_BATCHES: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Touch(Cpu, Vpn),
    Switch(Cpu, MmId),
    /// One of the batches unmaps a page from an address space.
    Unmap(usize, MmId, Vpn),
    /// One of the batches is flushed, and its pages are released.
    Flush(usize),
    /// All are, by whoever ends the scope. No page is released.
    FlushScope,
}

fn step() -> impl Strategy<Value = Step> {
    let (cpu, mm, vpn) = (0..NR_CPUS, 0..NR_MMS, 0..NR_PAGES);
    prop_oneof![
        8 => (cpu.clone(), vpn.clone()).prop_map(|(c, v)| Step::Touch(c, v)),
        1 => (cpu, mm.clone()).prop_map(|(c, m)| Step::Switch(c, m)),
        4 => (0..NR_BATCHES, mm, vpn).prop_map(|(b, m, v)| Step::Unmap(b, m, v)),
        1 => (0..NR_BATCHES).prop_map(Step::Flush),
        1 => Just(Step::FlushScope),
    ]
}

type Hoisting = Batch<Frame, Hoisted<AnyPolicy>>;

/// Batches over one scope, in a fresh world.
struct SharedFlush {
    world: Shared,
    scope: Arc<Scope<AnyPolicy>>,
    batches: Vec<Option<Hoisting>>,
}

/// `nr` batches over one scope, in a fresh world.
fn batches(policy: NewPolicy, nr: usize) -> SharedFlush {
    let world = Shared::new(World::new(NR_CPUS, NR_MMS, 2));
    let scope = Scope::new([policy(&world), policy(&world)], GFP_KERNEL).unwrap();
    let batch = |_| Batch::new(Hoisted::new(scope.clone()), 0, GFP_KERNEL).ok();
    SharedFlush {
        batches: (0..nr).map(batch).collect(),
        world,
        scope,
    }
}

/// Runs `steps`; returns how often a CPU reached a page that was released.
fn stale_accesses(policy: NewPolicy, steps: &[Step]) -> usize {
    let SharedFlush {
        world,
        scope,
        mut batches,
    } = batches(policy, NR_BATCHES);
    let mut released = BTreeSet::new();
    let mut stale = 0;
    for step in steps {
        match *step {
            Step::Touch(cpu, vpn) => {
                let frame = world.with(|w| w.touch(cpu, vpn));
                stale += usize::from(released.contains(&frame));
            }
            Step::Switch(cpu, mm) => world.with(|w| w.switch(cpu, mm)),
            Step::Unmap(nr, mm, vpn) => {
                let batch = batches[nr].as_mut().unwrap();
                unmap(&world, batch, &[mm], &BTreeSet::from([vpn]));
            }
            Step::Flush(nr) => {
                let mut flushed = batches[nr].take().unwrap().flush();
                released.extend(flushed.drain().map(|(_, frame)| frame));
                batches[nr] = Some(flushed.into_empty());
            }
            Step::FlushScope => _ = scope.flush(),
        }
    }
    stale
}

proptest! {
    #[test]
    fn no_batch_of_a_scope_leaves_a_stale_translation(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        for policy in POLICIES {
            prop_assert_eq!(stale_accesses(policy, &steps), 0);
        }
    }
}

/// The control, and what a flush of another batch is good for.
#[test]
fn a_page_is_stale_until_one_of_the_batches_is_flushed() {
    let released = [Step::Touch(1, 7), Step::Unmap(0, 0, 7), Step::Flush(0)];
    let steps = [&released[..], &[Step::Touch(1, 7)]].concat();
    assert_ne!(stale_accesses(unflushed, &steps), 0);
    assert_eq!(stale_accesses(broadcast, &steps), 0);
}

/// Numbers tell a batch whose flush was made by another one from one that has recorded since.
#[test]
fn what_another_batch_has_flushed_is_not_owed() {
    let SharedFlush {
        world, mut batches, ..
    } = batches(broadcast, 2);
    let [first, second] = &mut batches[..] else {
        unreachable!()
    };
    let second = second.as_mut().unwrap();
    for vpn in [0, 1] {
        world.with(|w| w.touch(1, vpn));
    }
    let unmap = |batch: &mut Hoisting, vpn| {
        unmap(&world, batch, &[0], &BTreeSet::from([vpn]));
    };
    unmap(first.as_mut().unwrap(), 0);
    unmap(second, 1);
    let mut flush_first = || {
        let flushed = first.take().unwrap().flush();
        *first = Some(flushed.into_empty());
    };
    flush_first();
    assert_eq!(second.owed(), Report::default());
    world.with(|w| w.touch(1, 2));
    unmap(second, 2);
    flush_first();
    assert_eq!(second.owed().nr_ptes, 1, "of the flush that is to come");
}

/// The first to need its flush makes it for all.
#[test]
fn one_round_is_enough_for_all_batches_of_a_scope() {
    let SharedFlush {
        world,
        scope,
        mut batches,
    } = batches(broadcast, 3);
    for (vpn, batch) in batches.iter_mut().flatten().enumerate() {
        world.with(|w| w.touch(1, vpn));
        unmap(&world, batch, &[0], &BTreeSet::from([vpn]));
        assert_eq!(batch.owed().nr_ptes, 1);
    }
    let calls: Vec<usize> = batches
        .into_iter()
        .map(|batch| batch.unwrap().flush().report().nr_calls)
        .collect();
    scope.flush();
    assert_eq!(calls, [1, 0, 0]);
    assert_eq!(world.with(|w| w.counts.rounds), 1);
}

/// A batch has cleared one PTE and told the scope of it when the scope is flushed, then another one
/// under the same page-table lock, and records both.
#[test]
fn a_flush_between_two_ptes_loses_neither() {
    let page = |vpn: Vpn| PageRange::of_page(vpn << PAGE_SHIFT).unwrap();
    for policy in POLICIES {
        let SharedFlush { world, scope, .. } = batches(policy, 0);
        let mut hoisted = Hoisted::new(scope.clone());
        let frames = [1, 2].map(|vpn| world.with(|w| w.touch(1, vpn)));
        for vpn in [1, 2] {
            world.with(|w| (w.memory.take((0, vpn)), w.mms[0].table.clear(vpn)));
            if hoisted.flushes_each() {
                hoisted.cleared(&MMS[0], page(vpn));
            }
            if vpn == 1 {
                scope.flush();
            }
        }
        hoisted.record(&MMS[0], Pending::new(page(1).union(page(2)), 2));
        hoisted.flush();
        let reached = [1, 2].map(|vpn| world.with(|w| w.touch(1, vpn)));
        assert!(!frames.iter().any(|frame| reached.contains(frame)));
    }
}

/// A policy that leaves its flush to a scope can make no flush for another.
#[test]
fn a_scope_is_not_nested_in_another() {
    let SharedFlush { world, scope, .. } = batches(broadcast, 0);
    let hoisted = || -> KBox<AnyPolicy> {
        let policy: Box<AnyPolicy> = Box::new(Hoisted::new(scope.clone()));
        policy.into()
    };
    for policies in [
        [hoisted(), broadcast(&world)],
        [broadcast(&world), hoisted()],
    ] {
        assert_eq!(Scope::new(policies, GFP_KERNEL).err(), Some(EINVAL));
    }
}
