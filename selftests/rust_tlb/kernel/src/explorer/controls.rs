// SPDX-License-Identifier: GPL-2.0

//! The controls: for each rule, a machine that breaks it, on which the search has to find what
//! follows, by the shortest way; and the same machine with the rule kept, on which nothing is found.

use super::{
    machine::{Broken, Machine},
    program::{Info, Op, ALL},
    scenarios::{
        batch, bit, free_table, munmap, publish, run, run_of, unmap, A, B, PAGE_A, PAGE_B, PAGE_C,
        PAGE_K, X,
    },
    search::exhaust,
    sound::tell,
    trace::columns,
};
use crate::mm::tlb::ring::{Rule, Run};
use std::io::Write as _;

const MAX_STATES: usize = 10_000_000;

/// With the rule broken something is found, whose description has `what` in it; with the rule kept,
/// nothing.
pub(super) fn is_found(name: &str, broken: &Machine, kept: &Machine, what: &str) {
    let report = exhaust(broken, MAX_STATES);
    tell(name, &report);
    let found = report.found.unwrap_or_else(|| panic!("{name}: not found"));
    let way = columns(broken, &found);
    let _ = writeln!(std::io::stderr(), "{way}");
    assert!(
        found.what.contains(what),
        "{name}: found another thing:\n{way}"
    );
    let report = exhaust(kept, MAX_STATES);
    tell(&format!("{name}, kept"), &report);
    if let Some(found) = report.found {
        panic!(
            "{name}: found with the rule kept:\n{}",
            columns(kept, &found)
        );
    }
    assert!(report.is_complete);
}

/// The same scenario, broken and not.
fn breaks(name: &str, how: Broken, what: &str, scenario: impl Fn() -> Machine) {
    let broken = Machine {
        broken: how,
        ..scenario()
    };
    is_found(name, &broken, &scenario(), what);
}

pub(super) const ACCESS: &str = "may access";
const REVOKED: &str = "revoked";
const WALK: &str = "may walk page table";

/// X, and A, which runs in a kernel thread.
fn two() -> Machine {
    Machine::new(2).kernel_thread(A)
}

/// And B.
fn three() -> Machine {
    Machine::new(3).kernel_thread(A).kernel_thread(B)
}

fn end(info: Info) -> [Op; 2] {
    [Op::Send(info), Op::Free]
}

// The order of the steps of a flush.

/// The bug of 2021: the generation goes up at the first deferral only.
#[test]
fn bumped_only_the_first_time() {
    let scenario = |bump: fn(u8, u8) -> Op| {
        let defer = |page| [unmap(0, page), vec![bump(0, bit(page)), Op::Mask(0)]].concat();
        let mut machine = two()
            .without_ring(0)
            .decisions(X, 4)
            .program(A, defer(PAGE_A))
            .program(A, defer(PAGE_B))
            .program(A, end(Info::BATCH));
        machine.has_pcid = false;
        machine
    };
    is_found(
        "C0 mail",
        &scenario(Op::BumpFirstTime),
        &scenario(Op::Bump),
        ACCESS,
    );
}

#[test]
fn published_before_the_pte_is_cleared() {
    let end = || end(Info::range(0, bit(PAGE_A)));
    let early = two()
        .decisions(X, 2)
        .program(A, publish(0, PAGE_A))
        .program(A, unmap(0, PAGE_A))
        .program(A, end());
    let kept = two().decisions(X, 2).program(A, munmap(0, PAGE_A));
    is_found("C1 early slot", &early, &kept, ACCESS);
}

#[test]
fn mask_read_before_the_generation() {
    let bump = || vec![Op::Bump(0, bit(PAGE_A)), Op::Publish(0, vec![run(PAGE_A)])];
    let first = two()
        .elsewhere(X)
        .decisions(X, 1)
        .program(A, unmap(0, PAGE_A))
        .program(A, [Op::Mask(0)])
        .program(A, bump())
        .program(A, end(Info::range(0, bit(PAGE_A))));
    let kept = two()
        .elsewhere(X)
        .decisions(X, 1)
        .program(A, munmap(0, PAGE_A));
    is_found("C2 mask first", &first, &kept, ACCESS);
}

#[test]
fn generation_read_before_the_mask_is_set() {
    breaks("C2 twin", Broken::MaskAfterGeneration, ACCESS, || {
        two()
            .elsewhere(X)
            .decisions(X, 1)
            .program(A, munmap(0, PAGE_A))
    });
}

/// X has left, and is still in the mask; under its PCID it has the old translation.
#[test]
fn running_cpus_found_before_the_generation() {
    let scenario = || two().elsewhere(X).untrimmed(X).decisions(X, 1);
    let first = scenario()
        .program(A, unmap(0, PAGE_A))
        .program(A, [Op::Running(0)])
        .program(
            A,
            [Op::Bump(0, bit(PAGE_A)), Op::Publish(0, vec![run(PAGE_A)])],
        )
        .program(A, end(Info::BATCH));
    let kept = scenario().program(A, batch(0, PAGE_A));
    is_found("C2 running first", &first, &kept, ACCESS);
}

#[test]
fn published_slot_extended() {
    let more = |late: bool| {
        let publish = if late {
            vec![Op::Extend(0, run(PAGE_B))]
        } else {
            publish(0, PAGE_B)
        };
        [unmap(0, PAGE_B), publish].concat()
    };
    let scenario = |late| {
        two()
            .decisions(X, 2)
            .program(A, unmap(0, PAGE_A))
            .program(A, publish(0, PAGE_A))
            .program(A, more(late))
            .program(A, end(Info::BATCH))
    };
    is_found(
        "C3 slot extended",
        &scenario(true),
        &scenario(false),
        ACCESS,
    );
}

/// A fills the slot of the generation that it expects; B takes that for a flush of its own.
#[test]
fn generation_predicted() {
    let everything = Info {
        pages: ALL,
        ..Info::range(0, ALL)
    };
    let scenario = |publish: Vec<Op>| {
        let unpublished = [Op::Bump(0, bit(PAGE_B)), Op::Mask(0)];
        three()
            .program(A, unmap(0, PAGE_A))
            .program(A, publish)
            .program(A, end(Info::BATCH))
            .program(B, unmap(0, PAGE_B))
            .program(B, unpublished)
            .program(B, end(everything))
    };
    let ahead = vec![
        Op::PublishNext(0, vec![run(PAGE_A)]),
        Op::Bump(0, bit(PAGE_A)),
        Op::Mask(0),
    ];
    is_found(
        "C7 predicted",
        &scenario(ahead),
        &scenario(publish(0, PAGE_A)),
        REVOKED,
    );
}

#[test]
fn freed_before_the_flush() {
    let early = two()
        .program(A, unmap(0, PAGE_A))
        .program(A, [Op::Free])
        .program(A, publish(0, PAGE_A))
        .program(A, [Op::Send(Info::BATCH)]);
    is_found(
        "freed early",
        &early,
        &two().program(A, batch(0, PAGE_A)),
        ACCESS,
    );
}

// The slots.

/// X is lazy, and comes back while its slots are used again.
fn reused() -> Machine {
    two()
        .decisions(X, 2)
        .program(A, batch(0, PAGE_A))
        .program(A, batch(0, PAGE_B))
        .program(A, batch(0, PAGE_C))
}

#[test]
fn tag_not_checked_after() {
    breaks(
        "C4 tag before only",
        Broken::Ring(Rule::TagAfter),
        REVOKED,
        reused,
    );
}

#[test]
fn slot_not_claimed() {
    breaks("C8 no claim", Broken::Ring(Rule::Claim), REVOKED, || {
        three()
            .program(A, batch(0, PAGE_A))
            .program(B, batch(0, PAGE_B))
            .program(B, batch(0, PAGE_C))
    });
}

#[test]
fn unpublished_taken_for_nothing() {
    breaks(
        "C9 nothing",
        Broken::Ring(Rule::UnpublishedIsFull),
        REVOKED,
        || {
            three()
                .program(A, batch(0, PAGE_A))
                .program(B, batch(0, PAGE_B))
        },
    );
}

#[test]
fn odd_range_taken_for_nothing() {
    for (name, published, page) in [
        ("C12 everything", Run::FULL, PAGE_A),
        ("C14 kernel's half", run(PAGE_K), PAGE_K),
    ] {
        breaks(name, Broken::Ring(Rule::OddIsFull), REVOKED, || {
            two()
                .program(A, unmap(0, page))
                .program(
                    A,
                    [
                        Op::Bump(0, bit(page)),
                        Op::Publish(0, vec![published]),
                        Op::Mask(0),
                    ],
                )
                .program(A, end(Info::BATCH))
        });
    }
}

#[test]
fn stride_of_the_larger_page() {
    let scenario = |runs: Vec<Run>| {
        let both = bit(PAGE_A) | bit(PAGE_B);
        two()
            .program(
                A,
                [
                    Op::Lock(0),
                    Op::Clear(0, PAGE_A),
                    Op::Clear(0, PAGE_B),
                    Op::Unlock(0),
                ],
            )
            .program(A, [Op::Bump(0, both), Op::Publish(0, runs), Op::Mask(0)])
            .program(A, end(Info::BATCH))
    };
    let coarse = scenario(vec![run_of(PAGE_A, 21, false)]);
    let fine = scenario(vec![run(PAGE_A), run(PAGE_B)]);
    is_found("C13 coarser stride", &coarse, &fine, REVOKED);
}

#[test]
fn ring_copied_by_fork() {
    breaks("C11 copied", Broken::RingIsCopied, REVOKED, || {
        three()
            .program(A, batch(0, PAGE_A))
            .program(B, batch(1, PAGE_B))
    });
}

// The CPU that catches up.

#[test]
fn local_generation_ahead() {
    breaks("C5 local ahead", Broken::LocalIsReadAgain, REVOKED, || {
        three()
            .program(A, batch(0, PAGE_A))
            .program(B, batch(0, PAGE_B))
    });
}

#[test]
fn switching_cpu_not_asked() {
    breaks("C10 switching", Broken::SwitchingIsNotAsked, ACCESS, || {
        two().decisions(X, 2).program(A, munmap(0, PAGE_A))
    });
}

/// As a batch looks for those that run the address space.
#[test]
fn switching_cpu_left_out_of_a_batch() {
    breaks("C10 left out", Broken::SwitchingIsNotAsked, ACCESS, || {
        two().decisions(X, 2).program(A, batch(0, PAGE_A))
    });
}

#[test]
fn no_barrier_on_the_return_from_lazy_mode() {
    breaks(
        "return unordered",
        Broken::NoBarrierOnReturn,
        ACCESS,
        || two().decisions(X, 2).program(A, batch(0, PAGE_A)),
    );
}

#[test]
fn no_barrier_on_a_switch() {
    breaks(
        "switch unordered",
        Broken::NoBarrierOnSwitch,
        ACCESS,
        || two().decisions(X, 2).program(A, munmap(0, PAGE_A)),
    );
}

// Those who share a flush.

/// A and B unmap under one scope; the first to need its flush makes it for both.
#[test]
fn flushing_taken_for_flushed() {
    breaks("C6 flushing", Broken::FlushingIsFlushed, ACCESS, || {
        let shared = |page| {
            let flush = [
                Op::Bump(0, bit(PAGE_A) | bit(PAGE_B)),
                Op::Mask(0),
                Op::Send(Info::BATCH),
                Op::Ended,
            ];
            let ops = [Op::Share, Op::Join(flush.len() as u8)];
            let ops = [unmap(0, page), ops.into(), flush.into()].concat();
            [ops, vec![Op::Free]].concat()
        };
        three()
            .program(A, shared(PAGE_A))
            .program(B, shared(PAGE_B))
    });
}

// Page tables.

/// A takes the table of pages a and b out, and frees it.
fn frees_a_table() -> Machine {
    two().decisions(X, 1).program(
        A,
        free_table(0, 0, [PAGE_A, PAGE_B], run_of(PAGE_A, 12, true)),
    )
}

/// The same, with its last steps in another order, or changed.
fn changed(change: impl Fn(&mut Vec<Op>)) -> Machine {
    let mut machine = frees_a_table();
    change(&mut machine.programs[A]);
    machine
}

fn is(which: &'static str) -> impl Fn(&Op) -> bool {
    move |op| format!("{op:?}").starts_with(which)
}

/// Puts the first operation called `which` before the first called `before`.
fn put_before(ops: &mut Vec<Op>, which: &'static str, before: &'static str) {
    let from = ops.iter().position(is(which)).expect("is there");
    let op = ops.remove(from);
    let to = ops.iter().position(is(before)).expect("is there");
    ops.insert(to, op);
}

#[test]
fn table_freed_before_the_flush() {
    let early = changed(|ops| put_before(ops, "FreeTables", "Bump"));
    is_found("table freed early", &early, &frees_a_table(), WALK);
}

/// Then, the grace period may end before the flush does.
#[test]
fn grace_period_begun_before_the_flush() {
    let early = changed(|ops| {
        put_before(ops, "CallRcu", "Bump");
        put_before(ops, "FreeTables", "Send");
    });
    is_found("call_rcu early", &early, &frees_a_table(), WALK);
}

#[test]
fn lazy_cpu_not_asked_when_tables_are_freed() {
    let unasked = changed(|ops| {
        for op in ops {
            if let Op::Send(info) = op {
                info.tables_freed = false;
            }
        }
    });
    is_found("lazy not asked", &unasked, &frees_a_table(), WALK);
}

#[test]
fn table_freed_without_a_grace_period() {
    breaks(
        "no grace period",
        Broken::NoGracePeriod,
        "in software",
        || {
            let walk = [Op::RcuLock, Op::Walk(0, 0), Op::RcuUnlock];
            let tables = free_table(0, 0, [PAGE_A, PAGE_B], run_of(PAGE_A, 12, true));
            three().program(A, tables).program(B, walk)
        },
    );
}

/// A generation that freed a table is replayed by an INVLPG elsewhere. Where an INVLPG drops all
/// paging-structure entries, that is enough; where it drops those on its path, it is not.
#[test]
fn freed_table_replayed_by_another_address() {
    let scenario = |invlpg_drops_all, published| {
        let mut machine = two().program(A, free_table(0, 0, [PAGE_A, PAGE_B], published));
        for op in &mut machine.programs[A] {
            if let Op::Send(info) = op {
                info.pages = ALL;
            }
        }
        machine.invlpg_drops_all = invlpg_drops_all;
        machine.broken = Broken::Ring(Rule::TablesAreFull);
        machine
    };
    let elsewhere = run_of(PAGE_C, 12, true);
    let own = Run::new(0, 2 << 12, 12, true);
    is_found(
        "C15 TCE",
        &scenario(false, elsewhere),
        &scenario(false, own),
        REVOKED,
    );
}

/// A large page in the place of the table: before the flush, its translation meets those of the
/// small ones.
#[test]
fn large_page_mapped_before_the_flush() {
    let scenario = |before| {
        let mut machine = frees_a_table();
        let ops = &mut machine.programs[A];
        let at = ops.iter().position(is(before)).expect("is there");
        ops.insert(at, Op::PutLeaf(0, 0));
        machine
    };
    let what = "two sizes";
    is_found("two sizes", &scenario("Bump"), &scenario("CallRcu"), what);
}

// Moves.

/// A moves page a to b under the locks of the reverse map; B finds it there, and frees it.
fn moves(unlocks_early: bool) -> Machine {
    let mut mover = vec![
        Op::LockRmap,
        Op::Lock(0),
        Op::Move(0, PAGE_A, PAGE_B),
        Op::Unlock(0),
    ];
    mover.extend(publish(0, PAGE_A));
    mover.push(Op::Send(Info::range(0, bit(PAGE_A))));
    let at = if unlocks_early { 4 } else { mover.len() };
    mover.insert(at, Op::UnlockRmap);
    let frees = munmap(0, PAGE_B);
    let looks = [Op::LockRmap, Op::UnlessMapped(0, PAGE_B, frees.len() as u8)];
    three()
        .unmapped(0, PAGE_B)
        .program(A, mover)
        .program(B, looks)
        .program(B, frees)
        .program(B, [Op::UnlockRmap])
}

/// What a move has left at the old address is not in the range of who frees the page at the new one
/// (CVE-2018-18281).
#[test]
fn reverse_map_unlocked_before_the_flush_of_a_move() {
    is_found("move", &moves(true), &moves(false), "of mm0, which");
}

/// A moves page a to b, and flushes after it has unlocked everything, as the device does in its
/// deferred mode; B finds the page by the reverse map, and frees it.
fn device_moves(pins: bool, flushed: u8) -> Machine {
    let pin = pins.then_some(Op::Pin(0, PAGE_A));
    let locks = [Op::LockRmap, Op::Lock(0)].into_iter().chain(pin);
    let moves = [Op::Move(0, PAGE_A, PAGE_B), Op::Unlock(0), Op::UnlockRmap];
    let flush = [Op::Send(Info::range(0, bit(flushed))), Op::Unpin];
    let frees = munmap(0, PAGE_B);
    let looks = [Op::LockRmap, Op::UnlessMapped(0, PAGE_B, frees.len() as u8)];
    three()
        .unmapped(0, PAGE_B)
        .program(A, locks.chain(moves))
        .program(A, publish(0, flushed))
        .program(A, flush)
        .program(B, looks)
        .program(B, frees)
        .program(B, [Op::UnlockRmap])
}

/// The same hole in a move of the device, whose locks do not last until the flush.
#[test]
fn moved_page_not_pinned_until_the_flush() {
    let (broken, kept) = (device_moves(false, PAGE_A), device_moves(true, PAGE_A));
    is_found("move unpinned", &broken, &kept, "of mm0, which");
}

#[test]
fn new_address_of_a_move_flushed_only() {
    let (broken, kept) = (device_moves(true, PAGE_B), device_moves(true, PAGE_A));
    is_found("move, new only", &broken, &kept, "of mm0, which");
}
