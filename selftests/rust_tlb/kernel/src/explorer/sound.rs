// SPDX-License-Identifier: GPL-2.0

//! What must hold on any machine, whatever happens: all that can happen in small scenarios, each of
//! which has to come across what it is for.

use super::{
    machine::{Broken, Machine, Step},
    program::{Info, Op},
    scenarios::{
        batch, bit, free_table, munmap, publish, publish_batch, run, run_of, unmap, A, B, PAGE_A,
        PAGE_B, PAGE_C, X,
    },
    search::{exhaust, Report},
    trace::columns,
    witness::Witness,
};
use crate::mm::tlb::ring::{Doubt, GaveUp, Rule, Run};
use std::io::Write as _;

/// More than any scenario has.
const MAX_STATES: usize = 60_000_000;

/// How much larger than usual the scenarios are to be: `MODEL_MORE`, as `make model` sets it.
pub(super) fn more() -> u8 {
    let more = std::env::var("MODEL_MORE").ok();
    more.map_or(0, |more| more.parse().expect("MODEL_MORE is a number"))
}

/// Says what was seen, also where the words of tests are held back.
pub(super) fn tell(name: &str, report: &Report<Step>) {
    let _ = writeln!(std::io::stderr(), "model: {name}: {}", report.summary());
}

/// Goes through all states of a machine, none of which may be wrong; it must come across `all_of`.
pub(super) fn holds(name: &str, machine: &Machine, all_of: &[Witness]) {
    let report = exhaust(machine, MAX_STATES);
    tell(name, &report);
    if let Some(found) = &report.found {
        panic!("{name}:\n{}", columns(machine, found));
    }
    assert!(report.is_complete, "{name}: too many states");
    let seen = machine.witnesses.all();
    for witness in all_of {
        assert!(
            seen.contains(witness),
            "{name}: never saw {witness:?} in {seen:?}"
        );
    }
}

/// X, and A, which runs in a kernel thread.
fn two() -> Machine {
    Machine::new(2).kernel_thread(A)
}

/// And B.
fn three() -> Machine {
    Machine::new(3).kernel_thread(A).kernel_thread(B)
}

fn full(doubt: Doubt) -> Witness {
    Witness::of_doubt(doubt)
}

#[test]
fn a_lazy_cpu_catches_up() {
    let machine = two()
        .decisions(X, 3 + more())
        .faults(1)
        .program(A, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B));
    let all_of = [
        Witness::ExactReturn,
        Witness::ExactInterrupt,
        Witness::CaughtUp(2),
        Witness::LazySkipped,
        Witness::LeftLazy,
        full(Doubt::Unpublished),
    ];
    holds("lazy", &machine, &all_of);
}

#[test]
fn three_generations_are_caught_up_at_once() {
    let machine = two()
        .slots(4)
        .decisions(X, 2 + more())
        .program(A, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B))
        .program(A, batch(0, PAGE_C));
    holds(
        "three at once",
        &machine,
        &[Witness::CaughtUp(3), Witness::ExactReturn],
    );
}

#[test]
fn slots_are_used_again() {
    let machine = two()
        .decisions(X, 2 + more())
        .program(A, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B))
        .program(A, batch(0, PAGE_C));
    let all_of = [
        Witness::SlotReused,
        full(Doubt::Overwritten),
        full(Doubt::Torn),
        full(Doubt::Far),
    ];
    holds("slots reused", &machine, &all_of);
}

#[test]
fn two_publishers_share_the_slots() {
    let machine = three()
        .decisions(X, 1 + more())
        .program(A, batch(0, PAGE_A))
        .program(B, batch(0, PAGE_B))
        .program(B, batch(0, PAGE_C));
    let all_of = [
        Witness::SlotReused,
        Witness::of_giving_up(GaveUp::Busy),
        Witness::of_giving_up(GaveUp::Late),
        Witness::CaughtUp(2),
        Witness::UpToDate,
    ];
    // A flush of one mm knows which generation it is for, and may come too late.
    let machine = machine.program(A, munmap(0, super::scenarios::PAGE_K));
    holds("two publishers", &machine, &all_of);
}

/// Those who unmap are CPUs as well.
#[test]
fn publishers_are_interrupted() {
    let machine = Machine::new(2 + usize::from(more() > 0))
        .program(X, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B))
        .program(A, munmap(0, PAGE_C));
    let all_of = [
        Witness::InterruptedPublisher,
        Witness::ExactInterrupt,
        Witness::ExactRange,
        full(Doubt::Unpublished),
    ];
    holds("publishers interrupted", &machine, &all_of);
}

fn of_two_mms() -> Vec<Op> {
    let ends = vec![Op::Send(Info::BATCH), Op::Free];
    [
        unmap(0, PAGE_A),
        unmap(1, PAGE_B),
        publish_batch(0, PAGE_A),
        publish_batch(1, PAGE_B),
        ends,
    ]
    .concat()
}

#[test]
fn cpus_switch_address_spaces() {
    for has_pcid in [true, false] {
        let mut machine = two()
            .decisions(X, 3 + more())
            .program(A, of_two_mms())
            .program(A, munmap(0, PAGE_C));
        machine.has_pcid = has_pcid;
        let kept = has_pcid.then_some(Witness::SwitchKept);
        let all_of = [Witness::SwitchingAsked, Witness::SwitchFlushed];
        let all_of: Vec<Witness> = all_of.into_iter().chain(kept).collect();
        holds(&format!("switches, PCID: {has_pcid}"), &machine, &all_of);
    }
}

#[test]
fn masks_are_trimmed() {
    let info = Info {
        trims: true,
        ..Info::range(0, bit(PAGE_A))
    };
    let trims = [Op::Send(info), Op::Free];
    let machine = two()
        .decisions(X, 3 + more())
        .program(
            A,
            [unmap(0, PAGE_A), publish(0, PAGE_A), trims.into()].concat(),
        )
        .program(A, batch(0, PAGE_B));
    holds("trimmed", &machine, &[Witness::Trimmed]);
}

#[test]
fn page_tables_are_freed() {
    for invlpg_drops_all in [true, false] {
        let published = run_of(PAGE_A, 12, true);
        let mut machine = two()
            .decisions(X, 3 + more())
            .faults(1)
            .program(A, free_table(0, 0, [PAGE_A, PAGE_B], published))
            .program(A, batch(0, PAGE_C));
        machine.invlpg_drops_all = invlpg_drops_all;
        let all_of = [Witness::LeftLazy, Witness::AsidReused, full(Doubt::Tables)];
        let name = format!("tables freed, INVLPG drops all: {invlpg_drops_all}");
        holds(&name, &machine, &all_of);
    }
}

#[test]
fn a_ring_comes_late() {
    let machine = three()
        .without_ring(0)
        .decisions(X, 2 + more())
        .program(A, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B))
        .program(B, [Op::Enable(0)]);
    holds(
        "ring comes late",
        &machine,
        &[
            Witness::NoRing,
            full(Doubt::Unpublished),
            Witness::CaughtUp(1),
        ],
    );
}

/// X is in the mask and runs something else: whether it comes back or not, nobody has to ask it.
#[test]
fn who_runs_another_address_space_is_not_asked() {
    let machine = two()
        .elsewhere(X)
        .untrimmed(X)
        .decisions(X, 1 + more())
        .program(A, batch(0, PAGE_A));
    let all_of = [Witness::RunsAnother, Witness::SwitchFlushed];
    holds("elsewhere", &machine, &all_of);
}

/// Whoever runs it is found long before the flush, at each deferral.
#[test]
fn deferrals_find_who_runs_it_before_the_flush() {
    let defer = |page| [unmap(0, page), publish_batch(0, page)].concat();
    let machine = two()
        .elsewhere(X)
        .untrimmed(X)
        .decisions(X, 2 + more())
        .program(A, defer(PAGE_A))
        .program(A, defer(PAGE_B))
        .program(A, [Op::Send(Info::BATCH), Op::Free]);
    let all_of = [
        Witness::RunsAnother,
        Witness::SwitchFlushed,
        Witness::ExactInterrupt,
    ];
    holds("deferred elsewhere", &machine, &all_of);
}

/// Too many pages, and what is no range.
#[test]
fn what_is_not_exact_is_a_full_flush() {
    for (published, doubt) in [
        (vec![run(PAGE_A), run(PAGE_B)], Doubt::Many),
        (vec![Run::FULL], Doubt::Everything),
    ] {
        let mut machine = two()
            .decisions(X, 2 + more())
            .program(A, unmap(0, PAGE_A))
            .program(
                A,
                [
                    Op::Bump(0, bit(PAGE_A)),
                    Op::Publish(0, published),
                    Op::Mask(0),
                    Op::Send(Info::BATCH),
                    Op::Free,
                ],
            );
        machine.ceiling = 1;
        holds(&format!("{doubt:?}"), &machine, &[full(doubt)]);
    }
}

/// The check of a tag before its runs are read: whatever the last reading could meet that it would
/// notice, the check after the first reading has met already.
#[test]
fn the_check_before_is_implied_by_the_first_reading() {
    let mut machine = three()
        .decisions(X, 1 + more())
        .program(A, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B))
        .program(B, batch(0, PAGE_C));
    machine.broken = Broken::Ring(Rule::TagBefore);
    holds("C4b tag after only", &machine, &[Witness::SlotReused]);
}
