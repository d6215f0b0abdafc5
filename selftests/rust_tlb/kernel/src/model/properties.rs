// SPDX-License-Identifier: GPL-2.0

//! What must hold whatever the CPUs do: no CPU reaches a page after it came out of the batch.
//!
//! H6 is a rule of `Documentation/mm/tlb_batch.rst`.

use super::{
    events::Meanwhile,
    ids::{Cpu, MmId, Vpn},
    machine::{ModelMm, Shared, MMS},
    mappings::{Locked, Process, Processes},
    memory::Frame,
    policies::{
        broadcast, late, per_page, precise, ringed, unflushed, unnoted, AnyPolicy, NewPolicy,
        POLICIES,
    },
    world::{Counts, World},
};
use crate::{
    alloc::GFP_KERNEL,
    mm::{
        parts::{Cleared, Part},
        place::Place,
        stale::{Proof, Stale},
        tlb::{
            batch::Batch,
            policy::{Flush, MAX_MMS},
            walk::{Permit, Unmap},
        },
    },
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

const NR_CPUS: usize = 4;
const NR_MMS: usize = 10;
const NR_PAGES: usize = 40;
const CEILING: usize = 6;

#[derive(Clone, Debug)]
enum Step {
    Touch(Cpu, Vpn),
    Switch(Cpu, MmId),
    GoLazy(Cpu),
    /// munmap of a page by the process itself; the flush comes later.
    BeginMunmap(MmId, Vpn),
    EndFlush(MmId),
    /// Clear these pages in these address spaces; the flush is owed.
    Unmap(Vec<MmId>, BTreeSet<Vpn>),
    /// Flush, and release the pages.
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let (cpu, vpn) = (0..NR_CPUS, 0..NR_PAGES);
    let unmap = (
        prop::collection::vec(0..NR_MMS, 1..NR_MMS),
        prop::collection::btree_set(0..NR_PAGES, 1..8),
    );
    prop_oneof![
        8 => (cpu.clone(), vpn).prop_map(|(c, v)| Step::Touch(c, v)),
        3 => (cpu.clone(), 0..NR_MMS).prop_map(|(c, m)| Step::Switch(c, m)),
        1 => cpu.prop_map(Step::GoLazy),
        2 => (0..NR_MMS, 0..NR_PAGES).prop_map(|(m, v)| Step::BeginMunmap(m, v)),
        1 => (0..NR_MMS).prop_map(Step::EndFlush),
        3 => unmap.prop_map(|(m, v)| Step::Unmap(m, v)),
        1 => Just(Step::Flush),
    ]
}

/// Takes pages `vpns` of each of `mms` into the batch; nothing else happens meanwhile.
pub(super) fn unmap<F>(
    world: &Shared,
    batch: &mut Batch<Frame, F>,
    mms: &[MmId],
    vpns: &BTreeSet<Vpn>,
) -> usize
where
    F: Flush<Mm = ModelMm> + ?Sized,
{
    batch.reserve(mms.len() * vpns.len(), GFP_KERNEL).unwrap();
    let mut staging = batch.stage();
    let pages = mms
        .iter()
        .flat_map(|&mm| vpns.iter().map(move |&vpn| (mm, vpn)));
    for page in pages {
        if let Some(frame) = world.with(|w| w.memory.take(page)) {
            staging.push(page.1, frame).unwrap();
        }
    }
    let meanwhile = &Meanwhile::quiet(world);
    staging.unmap(&Processes { mms, meanwhile })
}

/// Runs `steps`; returns how often a CPU reached a page that was released.
fn stale_accesses(new_policy: NewPolicy, steps: &[Step]) -> usize {
    stale_accesses_in(World::new(NR_CPUS, NR_MMS, CEILING), new_policy, steps)
}

fn stale_accesses_in(world: World, new_policy: NewPolicy, steps: &[Step]) -> usize {
    let world = &Shared::new(world);
    let mut batch = Some(Batch::with_policy(new_policy(world), 0, GFP_KERNEL).unwrap());
    let mut released = BTreeSet::new();
    let mut stale = 0;
    for step in steps.iter().chain([&Step::Flush]) {
        match step {
            Step::Touch(cpu, vpn) => {
                let frame = world.with(|w| w.touch(*cpu, *vpn));
                stale += usize::from(released.contains(&frame));
            }
            Step::Switch(cpu, mm) => world.with(|w| w.switch(*cpu, *mm)),
            Step::GoLazy(cpu) => world.with(|w| w.go_lazy(*cpu)),
            Step::BeginMunmap(mm, vpn) => world.with(|w| w.begin_munmap(*mm, *vpn)),
            Step::EndFlush(mm) => world.with(|w| w.end_flush(*mm)),
            Step::Unmap(mms, vpns) => _ = unmap(world, batch.as_mut().unwrap(), mms, vpns),
            Step::Flush => {
                let mut flushed = batch.take().unwrap().flush();
                released.extend(flushed.drain().map(|(_, frame)| frame));
                batch = Some(flushed.into_empty());
            }
        }
    }
    // Whatever is still in a TLB can be used at any later time.
    for (cpu, mm, vpn) in everything() {
        world.with(|w| w.switch(cpu, mm));
        stale += usize::from(released.contains(&world.with(|w| w.touch(cpu, vpn))));
    }
    stale
}

/// The control for generations: a lazy CPU gets no IPI, and so has to see that it missed something;
/// and so has one that comes back to an address space.
#[test]
fn without_generations_a_stale_translation_is_found() {
    let lazy = [Step::Touch(1, 7), Step::GoLazy(1)];
    let away = [Step::Touch(1, 7), Step::Switch(1, 3)];
    for first in [lazy, away] {
        let unmap = [Step::Unmap(vec![0], BTreeSet::from([7])), Step::Flush];
        let steps: Vec<Step> = first.into_iter().chain(unmap).collect();
        let mut world = World::new(NR_CPUS, NR_MMS, CEILING);
        world.bumps = false;
        assert_ne!(stale_accesses_in(world, broadcast, &steps), 0);
        assert_eq!(stale_accesses(broadcast, &steps), 0);
    }
}

/// Each unmap bumps the generation, also the second one of an address space in a batch: a lazy CPU
/// may have caught up in between, and then used what the second one clears (H6).
#[test]
fn a_lazy_cpu_that_came_back_between_two_unmaps_is_told_of_the_second() {
    let steps = [
        Step::Touch(1, 7),
        Step::GoLazy(1),
        Step::Unmap(vec![0], BTreeSet::from([7])),
        Step::Touch(1, 8),
        Step::GoLazy(1),
        Step::Unmap(vec![0], BTreeSet::from([8])),
        Step::Flush,
        Step::Touch(1, 8),
    ];
    assert_eq!(stale_accesses(broadcast, &steps), 0);
}

fn everything() -> impl Iterator<Item = (Cpu, MmId, Vpn)> {
    (0..NR_CPUS).flat_map(|cpu| {
        (0..NR_MMS).flat_map(move |mm| (0..NR_PAGES).map(move |vpn| (cpu, mm, vpn)))
    })
}

proptest! {
    #[test]
    fn no_policy_leaves_a_stale_translation(steps in prop::collection::vec(step(), 1..120)) {
        for policy in POLICIES {
            prop_assert_eq!(stale_accesses(policy, &steps), 0);
        }
    }
}

/// Policies have tables; what one has no room for is flushed as well.
#[test]
fn no_address_space_is_one_too_many() {
    let all: Vec<MmId> = (0..MMS.len()).collect();
    assert!(all.len() > MAX_MMS);
    let touch = |&mm: &MmId| [Step::Switch(mm % NR_CPUS, mm), Step::Touch(mm % NR_CPUS, 7)];
    let unmap = [Step::Unmap(all.clone(), BTreeSet::from([7])), Step::Flush];
    let touch_all = || all.iter().flat_map(touch);
    let steps: Vec<Step> = touch_all().chain(unmap).chain(touch_all()).collect();
    let stale = |policy| stale_accesses_in(World::new(NR_CPUS, all.len(), CEILING), policy, &steps);
    assert!(stale(unflushed) >= all.len());
    for policy in POLICIES {
        assert_eq!(stale(policy), 0);
    }
}

/// The control: the property above can fail.
#[test]
fn without_a_flush_a_stale_translation_is_found() {
    let steps = [
        Step::Touch(1, 7),
        Step::Unmap(vec![0], BTreeSet::from([7])),
        Step::Flush,
        Step::Touch(1, 7),
    ];
    assert_ne!(stale_accesses(unflushed, &steps), 0);
    assert_eq!(stale_accesses(broadcast, &steps), 0);
}

/// Unmaps `nr_pages` pages of each of the first `nr_mms` address spaces, each loaded on CPU 0 to 3
/// in turn, and returns what that took.
fn cost(new_policy: NewPolicy, nr_mms: usize, nr_pages: usize) -> (Counts, usize) {
    let world = &Shared::new(World::new(NR_CPUS, MMS.len(), CEILING));
    unmap_in(world, new_policy, nr_mms, nr_pages)
}

fn unmap_in(
    world: &Shared,
    new_policy: NewPolicy,
    nr_mms: usize,
    nr_pages: usize,
) -> (Counts, usize) {
    let vpns: BTreeSet<Vpn> = (0..nr_pages).map(|n| 2 * n).collect();
    for mm in 0..nr_mms {
        world.with(|w| w.switch(mm % NR_CPUS, mm));
        for &vpn in &vpns {
            world.with(|w| w.touch(mm % NR_CPUS, vpn));
        }
    }
    let mut batch = Batch::with_policy(new_policy(world), 0, GFP_KERNEL).unwrap();
    unmap(world, &mut batch, &(0..nr_mms).collect::<Vec<_>>(), &vpns);
    let report = batch.flush().report();
    (world.with(|w| w.counts), report.nr_calls)
}

#[test]
fn rounds_are_what_the_table_of_policies_says() {
    for (nr_mms, nr_pages) in [(1, 1), (1, 512), (4, 1), (4, 512), (8, 512)] {
        let is_near = nr_mms == 1 || nr_pages == 1;
        assert_eq!(cost(broadcast, nr_mms, nr_pages).0.rounds, 1);
        let rounds = if is_near { nr_mms } else { 1 };
        assert_eq!(cost(precise, nr_mms, nr_pages).0.rounds, rounds);
        assert_eq!(cost(per_page, nr_mms, nr_pages).0.rounds, nr_mms * nr_pages);
    }
}

#[test]
fn precise_becomes_broadcast_when_it_is_outgrown() {
    for (nr_mms, nr_pages, rounds) in [(8, 1, 8), (9, 1, 1), (17, 1, 1), (1, 512, 1), (8, 512, 1)] {
        let (counts, nr_calls) = cost(precise, nr_mms, nr_pages);
        assert_eq!((counts.rounds, nr_calls), (rounds, rounds), "{nr_mms} mms");
    }
}

#[test]
fn a_batch_is_made_known_to_its_address_spaces() {
    for (new_policy, known) in [
        (broadcast as NewPolicy, true),
        (precise, true),
        (ringed, true),
        (per_page, false),
        (unflushed, false),
        (unnoted, false),
    ] {
        let world = &Shared::new(World::new(NR_CPUS, MMS.len(), CEILING));
        unmap_in(world, new_policy, 3, 4);
        for mm in 0..5 {
            assert_eq!(world.with(|w| w.take_batched(mm)), known && mm < 3);
        }
    }
}

/// A dropped batch has flushed.
#[test]
fn dropping_a_batch_flushes() {
    let world = &Shared::new(World::new(2, 1, CEILING));
    let frame = world.with(|w| w.touch(1, 3));
    let mut batch = Batch::with_policy(broadcast(world), 0, GFP_KERNEL).unwrap();
    unmap(world, &mut batch, &[0], &BTreeSet::from([3]));
    assert_eq!(
        world.with(|w| w.touch(1, 3)),
        frame,
        "stale until the flush"
    );
    drop(batch);
    assert_ne!(world.with(|w| w.touch(1, 3)), frame);
    assert_eq!(world.with(|w| w.counts.rounds), 1);
}

/// Notes how many rounds there were when it was told of the flush, and when it was let go of.
struct Leaving {
    frame: Frame,
    world: Shared,
    rounds: Rc<RefCell<Vec<usize>>>,
}

impl Leaving {
    fn note(&self) {
        let rounds = self.world.with(|w| w.counts.rounds);
        self.rounds.borrow_mut().push(rounds);
    }
}

impl Stale for Leaving {
    fn nr_pages(&self) -> usize {
        1
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {}

    fn flushed(&mut self, _proof: Proof) {
        self.note();
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.note();
    }
}

fn frame_of<'a>(part: Part<'a, Leaving>) -> Part<'a, Frame> {
    let Part { pages, entry, nth } = part;
    Part {
        pages,
        entry: &entry.frame,
        nth,
    }
}

impl Unmap<Leaving> for Process<'_> {
    fn clear(table: &mut Locked<'_>, part: Part<'_, Leaving>, permit: &Permit) -> Cleared {
        <Process<'_> as Unmap<Frame>>::clear(table, frame_of(part), permit)
    }

    fn protect(table: &mut Locked<'_>, part: Part<'_, Leaving>, permit: &Permit) -> bool {
        <Process<'_> as Unmap<Frame>>::protect(table, frame_of(part), permit)
    }
}

/// Whichever way it goes, the order is: flush, tell the page, let go of it.
#[test]
fn no_page_is_let_go_of_before_the_flush() {
    let flushes: [fn(Batch<Leaving, AnyPolicy>); 3] = [
        drop,
        |batch| drop(batch.flush()),
        |batch| drop(batch.flush().into_empty()),
    ];
    for flush in flushes {
        let world = &Shared::new(World::new(2, 1, CEILING));
        let rounds = Rc::default();
        let page = Leaving {
            frame: world.with(|w| w.touch(1, 3)),
            world: world.clone(),
            rounds: Rc::clone(&rounds),
        };
        let mut batch = Batch::with_policy(broadcast(world), 1, GFP_KERNEL).unwrap();
        let mut staging = batch.stage();
        assert!(staging.push(3, page).is_ok());
        let meanwhile = &Meanwhile::quiet(world);
        let mms = &[0];
        assert_eq!(staging.unmap(&Processes { mms, meanwhile }), 1);
        flush(batch);
        assert_eq!(*rounds.borrow(), [1, 1]);
    }
}

/// Sent is not flushed: CPUs go on with the page until someone waits, or gives up and so waits, too.
#[test]
fn a_flush_that_ends_later_is_waited_for() {
    for is_dropped in [false, true] {
        let world = &Shared::new(World::new(2, 1, CEILING));
        let frame = world.with(|w| w.touch(1, 3));
        let mut batch = Batch::with_policy(late(world), 0, GFP_KERNEL).unwrap();
        unmap(world, &mut batch, &[0], &BTreeSet::from([3]));
        let sent = batch.send();
        assert_eq!(world.with(|w| w.touch(1, 3)), frame, "stale until the end");
        if is_dropped {
            drop(sent);
        } else {
            let pages: Vec<_> = sent.wait().drain().collect();
            assert_eq!(pages, [(3, frame)]);
        }
        assert_ne!(world.with(|w| w.touch(1, 3)), frame);
        assert_eq!(world.with(|w| w.counts.rounds), 1);
    }
}

/// Pages before their contents are saved: a round if one of them was dirty, none if not; and they
/// stay where they are.
#[test]
fn flush_dirty_flushes_if_it_has_to() {
    for (dirty, rounds) in [(&[false, false][..], 0), (&[false, true][..], 1)] {
        let world = &Shared::new(World::new(2, 1, CEILING));
        for (vpn, &dirty) in dirty.iter().enumerate() {
            world.with(|w| w.touch(1, vpn));
            if dirty {
                world.with(|w| w.write(1, vpn));
            }
        }
        let mut batch = Batch::with_policy(broadcast(world), 0, GFP_KERNEL).unwrap();
        let vpns = (0..dirty.len()).collect();
        assert_eq!(unmap(world, &mut batch, &[0], &vpns), dirty.len());
        assert_eq!(batch.flush_dirty().report().nr_calls, rounds);
        assert_eq!(batch.flush_dirty().entries().count(), dirty.len());
        assert_eq!(world.with(|w| w.counts.rounds), rounds, "once");
        assert_eq!(batch.nr_entries(), dirty.len());
        assert_eq!(batch.flush().report().nr_calls, 1 - rounds);
    }
}
