// SPDX-License-Identifier: GPL-2.0

//! What must hold if pages are saved and brought back, whatever happens elsewhere between one PTE
//! and the next: no write of a CPU is lost, and what munmap says is gone is gone.
//!
//! H2 and H4 are rules of `Documentation/mm/tlb_batch.rst`.

use super::{
    events::{Event, Meanwhile},
    ids::{Cpu, MmId, Vpn},
    machine::Shared,
    policies::{broadcast, unflushed, unnoted, NewPolicy, POLICIES},
    world::World,
    write_back::{give_up, take_back, Trust},
};
use crate::{alloc::GFP_KERNEL, mm::tlb::batch::Batch};
use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestError, TestRng, TestRunner},
};

const NR_CPUS: usize = 2;
const NR_MMS: usize = 2;
const NR_PAGES: usize = 2;
const CEILING: usize = 1;

fn event() -> impl Strategy<Value = Event> {
    let (cpu, mm, vpn) = (0..NR_CPUS, 0..NR_MMS, 0..NR_PAGES);
    prop_oneof![
        4 => (cpu.clone(), vpn.clone()).prop_map(|(c, v)| Event::Read(c, v)),
        1 => (cpu.clone(), vpn.clone()).prop_map(|(c, v)| Event::Write(c, v)),
        2 => cpu.clone().prop_map(Event::WriteWhatIsCached),
        1 => (cpu.clone(), mm.clone()).prop_map(|(c, m)| Event::Switch(c, m)),
        1 => cpu.prop_map(Event::GoLazy),
        2 => (mm.clone(), vpn.clone(), any::<bool>())
            .prop_map(|(m, v, w)| Event::BeginMprotect(m, v, w)),
        1 => (mm.clone(), vpn.clone()).prop_map(|(m, v)| Event::BeginMunmap(m, v)),
        2 => mm.clone().prop_map(Event::EndFlush),
        1 => (mm, vpn).prop_map(|(m, v)| Event::Munmap(m, v)),
    ]
}

/// The pages that are taken back, time after time, and what happens between the steps of that.
#[derive(Clone, Debug)]
struct Course {
    pages: Vec<(Vec<MmId>, Vec<Vpn>)>,
    events: Vec<Vec<Event>>,
}

fn course() -> impl Strategy<Value = Course> {
    let mms = prop::sample::subsequence(vec![0, 1], 1..=NR_MMS);
    let vpns = prop::sample::subsequence(vec![0, 1], 1..=NR_PAGES);
    let pages = prop::collection::vec((mms, vpns), 1..5);
    let events = prop::collection::vec(prop::collection::vec(event(), 0..4), 10..60);
    (pages, events).prop_map(|(pages, events)| Course { pages, events })
}

/// A machine whose CPUs keep their promise, or do not.
fn machine(keeps_promise: bool) -> World {
    let mut world = World::new(NR_CPUS, NR_MMS, CEILING);
    world.keeps_promise = keeps_promise;
    world
}

/// What went wrong.
#[derive(Debug, Default, PartialEq, Eq)]
struct Harm {
    lost_writes: usize,
    left_by_munmap: usize,
}

const NONE: Harm = Harm {
    lost_writes: 0,
    left_by_munmap: 0,
};

fn lost_writes(world: World, policy: NewPolicy, trust: Trust, course: &Course) -> usize {
    harm(world, policy, trust, course).lost_writes
}

fn harm(world: World, policy: NewPolicy, trust: Trust, course: &Course) -> Harm {
    harm_in(&Shared::new(world), policy, trust, course)
}

fn harm_in(world: &Shared, policy: NewPolicy, trust: Trust, course: &Course) -> Harm {
    let meanwhile = Meanwhile::new(world, &course.events);
    let mut batch = Batch::with_policy(policy(world), 0, GFP_KERNEL).unwrap();
    for (mms, vpns) in &course.pages {
        batch = take_back(batch, trust, (mms, vpns), &meanwhile);
    }
    // Whatever is still in a TLB can be used at any later time.
    for (cpu, mm, vpn) in everything() {
        world.with(|w| w.switch(cpu, mm));
        world
            .with(|w| w.write(cpu, vpn))
            .expect("nothing is in the way");
    }
    world.with(|w| Harm {
        lost_writes: w.lost_writes(),
        left_by_munmap: w.counts.left_by_munmap,
    })
}

fn everything() -> impl Iterator<Item = (Cpu, MmId, Vpn)> {
    (0..NR_CPUS).flat_map(|cpu| {
        (0..NR_MMS).flat_map(move |mm| (0..NR_PAGES).map(move |vpn| (cpu, mm, vpn)))
    })
}

proptest! {
    /// Whoever trusts the architecture may, on a machine that keeps its promise.
    #[test]
    fn no_write_is_lost_if_cpus_keep_their_promise(course in course()) {
        for policy in POLICIES {
            prop_assert_eq!(harm(machine(true), policy, Trust::Cpu, &course), NONE);
        }
    }

    #[test]
    fn no_write_is_lost_in_two_phases_on_any_machine(course in course()) {
        for policy in POLICIES {
            prop_assert_eq!(harm(machine(true), policy, Trust::Nobody, &course), NONE);
            prop_assert_eq!(harm(machine(false), policy, Trust::Nobody, &course), NONE);
        }
    }
}

/// Whether the properties above would notice.
fn is_found(keeps_promise: bool, policy: NewPolicy, trust: Trust) -> bool {
    // The same courses each time.
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let result = TestRunner::new_with_rng(config, rng).run(&course(), |course| {
        match harm(machine(keeps_promise), policy, trust, &course) {
            NONE => Ok(()),
            harm => Err(TestCaseError::fail(format!("{harm:?}"))),
        }
    });
    matches!(result, Err(TestError::Fail(..)))
}

/// The controls: what each of the properties rests on, left out.
#[test]
fn lost_writes_are_found() {
    assert!(is_found(true, unflushed, Trust::Cpu));
    assert!(is_found(false, broadcast, Trust::Cpu), "the promise");
    assert!(is_found(false, unflushed, Trust::Nobody));
    assert!(is_found(true, unnoted, Trust::Cpu), "H4");
    assert!(!is_found(true, broadcast, Trust::Cpu));
}

/// Page 1 of address space 0 is taken back, once. CPU 1 has done what `before` says, and goes on
/// with `after`, over and over.
fn one_page(before: &[Event], after: &[Event]) -> Course {
    let mut events = vec![after.to_vec(); 20];
    events.insert(0, before.to_vec());
    Course {
        pages: vec![(vec![0], vec![1])],
        events,
    }
}

/// The least that it takes: a page that was read, so that its translation is clean, and is written
/// to when its contents have been saved.
#[test]
fn a_broken_promise_loses_a_write_through_a_clean_translation() {
    let course = one_page(&[Event::Read(1, 1)], &[Event::Write(1, 1)]);
    let lost = |promise, trust| lost_writes(machine(promise), broadcast, trust, &course);
    assert_ne!(lost(false, Trust::Cpu), 0);
    assert_eq!(lost(true, Trust::Cpu), 0);
    assert_eq!(lost(false, Trust::Nobody), 0);
}

/// mprotect has made the page read-only, and has yet to flush. The PTE is read-only and clean, and
/// is no proof that the translations are (H2).
#[test]
fn a_pending_mprotect_hides_a_clean_translation() {
    let read_only = Event::BeginMprotect(0, 1, false);
    let course = one_page(&[Event::Read(1, 1), read_only], &[Event::Write(1, 1)]);
    let lost = |trust| lost_writes(machine(false), broadcast, trust, &course);
    assert_ne!(lost(Trust::Cpu), 0);
    assert_eq!(lost(Trust::Nobody), 0);
}

/// Between the phases, mprotect makes the page writable without a fault: the PTE is clean, and so
/// is the translation.
#[test]
fn an_mprotect_between_the_phases_makes_a_clean_translation() {
    let writable = Event::BeginMprotect(0, 1, true);
    let after = [writable, Event::Read(1, 1), Event::Write(1, 1)];
    let course = one_page(&[Event::Read(1, 1)], &after);
    let lost = |trust| lost_writes(machine(false), broadcast, trust, &course);
    assert_ne!(lost(Trust::Cpu), 0);
    assert_eq!(lost(Trust::Nobody), 0);
}

/// So it does if it has flushed before the second phase, in which nothing is pending then.
#[test]
fn an_mprotect_that_is_over_makes_a_clean_translation() {
    let writable = [Event::BeginMprotect(0, 1, true), Event::EndFlush(0)];
    let writable = [&writable[..], &[Event::Read(1, 1)]].concat();
    for (nr_steps, nr_more) in (1..10).flat_map(|n| (1..6).map(move |m| (n, m))) {
        let mut course = one_page(&[Event::Read(1, 1)], &[]);
        course.events[nr_steps].clone_from(&writable);
        course.events[nr_steps + nr_more..].fill(vec![Event::Write(1, 1)]);
        let lost = lost_writes(machine(false), broadcast, Trust::Nobody, &course);
        assert_eq!(lost, 0, "{course:?}");
    }
}

/// Nor is it one if there is no second phase, which would see that someone else has yet to flush.
#[test]
fn a_first_phase_that_is_given_up_doubts_a_pending_mprotect() {
    for (is_pending, rounds) in [(true, 1), (false, 0)] {
        let world = &Shared::new(machine(false));
        world.with(|w| w.touch(1, 1));
        world.with(|w| w.begin_mprotect(0, 1, false));
        if !is_pending {
            world.with(|w| w.end_flush(0));
        }
        let before = world.with(|w| w.counts.rounds);
        let mut batch = Batch::with_policy(broadcast(world), 0, GFP_KERNEL).unwrap();
        give_up(&mut batch, (&[0], &[1]), &Meanwhile::quiet(world));
        assert_eq!(batch.flush_dirty().report().nr_calls, rounds);
        assert_eq!(world.with(|w| w.counts.rounds) - before, rounds);
    }
}

/// Dirty pages cost no more in two phases than in one.
#[test]
fn two_phases_cost_a_round_more_if_a_page_is_clean() {
    for (first, trust, rounds) in [
        (Event::Read(1, 1), Trust::Cpu, 1),
        (Event::Read(1, 1), Trust::Nobody, 2),
        (Event::Write(1, 1), Trust::Cpu, 1),
        (Event::Write(1, 1), Trust::Nobody, 1),
    ] {
        let course = one_page(&[first], &[]);
        let world = &Shared::new(machine(true));
        assert_eq!(harm_in(world, broadcast, trust, &course), NONE);
        assert_eq!(world.with(|w| w.counts.rounds), rounds, "{course:?}");
    }
}

/// Whatever step of ours it comes after, a munmap that finds no PTE finds that a flush is owed (H4).
#[test]
fn a_munmap_sees_what_is_owed() {
    let left = |policy, trust, nr_steps: usize| {
        // Dirty, so that it is cleared, and not write-protected and flushed first.
        let mut course = one_page(&[Event::Write(1, 1)], &[]);
        course.events[nr_steps].push(Event::Munmap(0, 1));
        harm(machine(true), policy, trust, &course).left_by_munmap
    };
    for trust in [Trust::Cpu, Trust::Nobody] {
        let steps = 1..20;
        assert!(steps.clone().any(|n| left(unnoted, trust, n) > 0));
        for policy in POLICIES {
            assert!(steps.clone().all(|n| left(policy, trust, n) == 0));
        }
    }
}

/// Another CPU has unmapped the page and has yet to flush, so that there is no PTE, nor a page table
/// if it was the only one. Nobody saves what can still be written to (H2).
#[test]
fn an_empty_pte_is_no_proof() {
    let munmap = Event::BeginMunmap(0, 1);
    for before in [
        vec![Event::Write(1, 1), munmap.clone()],
        vec![Event::Write(1, 1), Event::Read(1, 0), munmap],
    ] {
        let course = one_page(&before, &[Event::WriteWhatIsCached(1)]);
        for trust in [Trust::Cpu, Trust::Nobody] {
            assert_ne!(lost_writes(machine(true), unflushed, trust, &course), 0);
            for policy in POLICIES {
                assert_eq!(lost_writes(machine(true), policy, trust, &course), 0);
            }
        }
    }
}
