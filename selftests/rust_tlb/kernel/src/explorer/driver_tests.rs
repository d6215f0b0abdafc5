// SPDX-License-Identifier: GPL-2.0

//! The kernel's walk, batch, phases and policies on the machine in small steps, and what follows if
//! a rule of theirs is broken.
//!
//! H2, H4 and H5 are rules of `Documentation/mm/tlb_batch.rst`.

use super::{
    controls::{is_found, ACCESS},
    driver::{Driver, Policy, Way},
    machine::{Broken, Machine},
    program::{Info, Op, ALL},
    scenarios::{bit, publish, unmap, A, B, PAGE_A, PAGE_B, X},
    sound::{holds, more},
    witness::Witness,
};

const GONE: &str = "munmap said is gone";
const SAVED: &str = "whose contents are saved";

/// All that flush.
const POLICIES: [Policy; 4] = [
    Policy::Broadcast,
    Policy::Precise,
    Policy::PerPage,
    Policy::Ringed,
];

fn driver(policy: Policy, way: Way, mms: &[u8], pages: &[u8]) -> [Op; 1] {
    [Op::Drive(Driver {
        policy,
        way,
        mms: mms.into(),
        pages: pages.into(),
    })]
}

/// X, and A, which runs in a kernel thread.
fn two() -> Machine {
    Machine::new(2).kernel_thread(A)
}

/// And B.
fn three() -> Machine {
    Machine::new(3).kernel_thread(A).kernel_thread(B)
}

#[test]
fn a_batch_of_two_pages() {
    for policy in POLICIES {
        let all_of = match policy {
            Policy::Broadcast => vec![Witness::LazySkipped, Witness::LeftLazy],
            Policy::Precise | Policy::PerPage => vec![Witness::ExactRange, Witness::LazySkipped],
            _ => vec![Witness::ExactInterrupt, Witness::ExactReturn],
        };
        let machine = two()
            .decisions(X, 2 + more())
            .faults(1)
            .program(A, driver(policy, Way::Free, &[0], &[PAGE_A, PAGE_B]));
        holds(&format!("{policy:?}, two pages"), &machine, &all_of);
    }
}

#[test]
fn a_batch_of_two_address_spaces() {
    for policy in POLICIES {
        let machine = two()
            .decisions(X, 2 + more())
            .program(A, driver(policy, Way::Free, &[0, 1], &[PAGE_A]));
        let name = format!("{policy:?}, two address spaces");
        holds(&name, &machine, &[Witness::SwitchFlushed]);
    }
}

#[test]
fn two_batches_at_once() {
    for policy in POLICIES {
        let machine = three()
            .decisions(X, 1 + more())
            .program(A, driver(policy, Way::Free, &[0], &[PAGE_A]))
            .program(B, driver(Policy::Ringed, Way::Free, &[0], &[PAGE_B]));
        let name = format!("{policy:?} and Ringed at once");
        holds(&name, &machine, &[Witness::LazySkipped]);
    }
}

/// The control of all: nothing is flushed.
#[test]
fn not_flushed() {
    let scenario = |policy| two().program(A, driver(policy, Way::Free, &[0], &[PAGE_A]));
    let broken = scenario(Policy::Unflushed);
    is_found(
        "H5 unflushed",
        &broken,
        &scenario(Policy::Broadcast),
        ACCESS,
    );
}

#[test]
fn drained_before_the_flush() {
    for policy in [Policy::Broadcast, Policy::Precise, Policy::Ringed] {
        let scenario = |way| two().program(A, driver(policy, way, &[0], &[PAGE_A]));
        let name = format!("{policy:?}, freed early");
        is_found(
            &name,
            &scenario(Way::FreeEarly),
            &scenario(Way::Free),
            ACCESS,
        );
    }
}

/// Another CPU takes the page out of its process first, as munmap does, and has yet to flush when
/// the driver comes (H2).
#[test]
fn what_others_have_yet_to_flush_is_ignored() {
    let zap = [
        vec![Op::BeginGather(0)],
        unmap(0, PAGE_A),
        publish(0, PAGE_A),
        vec![Op::Send(Info::range(0, bit(PAGE_A))), Op::EndGather(0)],
    ]
    .concat();
    for policy in POLICIES {
        let scenario = |broken| {
            let mut machine = three()
                .decisions(X, more())
                .program(A, driver(policy, Way::Free, &[0], &[PAGE_A]))
                .program(B, zap.clone());
            machine.broken = broken;
            machine
        };
        let kept = scenario(Broken::Nothing);
        let broken = scenario(Broken::PendingIsIgnored);
        is_found(&format!("H2 {policy:?}"), &broken, &kept, ACCESS);
    }
}

/// munmap of a page that the driver has taken out, and has yet to flush (H4).
#[test]
fn others_know_nothing_of_a_batch() {
    let batched = [
        Op::Bump(0, 0),
        Op::Mask(0),
        Op::Send(Info::range(0, ALL)),
        Op::EndBatched(0),
    ];
    let own = [
        vec![Op::Clear(0, PAGE_A)],
        publish(0, PAGE_A),
        vec![Op::Send(Info::range(0, bit(PAGE_A)))],
    ]
    .concat();
    // Where nothing is mapped, munmap has nothing to flush.
    let munmap = [
        vec![Op::Lock(0), Op::UnlessBatched(0, batched.len() as u8)],
        batched.into(),
        vec![Op::UnlessMapped(0, PAGE_A, own.len() as u8)],
        own,
        vec![Op::Unlock(0), Op::Gone(0, PAGE_A)],
    ]
    .concat();
    let scenario = |policy| {
        three()
            .program(A, driver(policy, Way::Free, &[0], &[PAGE_A, PAGE_B]))
            .program(B, munmap.clone())
    };
    for policy in POLICIES {
        let name = format!("H4 {policy:?}");
        is_found(&name, &scenario(Policy::Unnoted), &scenario(policy), GONE);
    }
}

// Contents are saved.

fn saving(way: Way, keeps_promise: bool) -> Machine {
    let mut machine = two()
        .decisions(X, 1 + more())
        .writable(0, PAGE_A, false, 1)
        .program(A, driver(Policy::Broadcast, way, &[0], &[PAGE_A, PAGE_B]));
    machine.keeps_promise = keeps_promise;
    machine
}

#[test]
fn contents_are_saved_of_trusted_cpus() {
    holds("saved", &saving(Way::Save, true), &[Witness::LazySkipped]);
}

#[test]
fn contents_are_saved_in_two_phases() {
    for keeps_promise in [true, false] {
        let name = format!("two phases, trusted: {keeps_promise}");
        let machine = saving(Way::SaveInTwoPhases, keeps_promise);
        holds(&name, &machine, &[Witness::LazySkipped]);
    }
}

#[test]
fn saved_without_two_phases() {
    let broken = saving(Way::Save, false);
    let kept = saving(Way::SaveInTwoPhases, false);
    is_found("one phase, untrusted", &broken, &kept, SAVED);
}

/// mprotect makes the page writable again between the phases, or read-only, and has yet to flush
/// that: what is clean then is no proof.
#[test]
fn two_phases_and_mprotect() {
    let mprotect = |writable| {
        vec![
            Op::BeginGather(0),
            Op::Lock(0),
            Op::Mprotect(0, PAGE_A, writable),
            Op::Unlock(0),
            Op::Bump(0, 0),
            Op::Mask(0),
            Op::Send(Info::range(0, bit(PAGE_A))),
            Op::EndGather(0),
        ]
    };
    for calls in [&[true][..], &[false], &[true, false]] {
        let saves = driver(Policy::Broadcast, Way::SaveInTwoPhases, &[0], &[PAGE_A]);
        let mut machine = three()
            .decisions(X, more())
            .writable(0, PAGE_A, false, 1)
            .program(A, saves)
            .program(B, calls.iter().flat_map(|&writable| mprotect(writable)));
        machine.keeps_promise = false;
        let name = format!("two phases, mprotect, writable: {calls:?}");
        holds(&name, &machine, &[Witness::ExactRange]);
    }
}

#[test]
fn saved_before_the_flush() {
    let broken = saving(Way::SaveUnflushed, true);
    is_found("saved early", &broken, &saving(Way::Save, true), SAVED);
}
