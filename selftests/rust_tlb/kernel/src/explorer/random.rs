// SPDX-License-Identifier: GPL-2.0

//! Larger machines, at random: more CPUs that unmap, longer programs, more slots. What is found is
//! made shorter.

use super::{
    machine::{Broken, Machine},
    program::Op,
    scenarios::{batch, free_table, munmap, run_of, A, B, PAGE_A, PAGE_C, X},
    search::{wander, Chance},
    sound::{more, tell},
    trace::columns,
};
use crate::mm::tlb::ring::Rule;
use std::io::Write as _;

const NR_MACHINES: u64 = 60;
const NR_WALKS: usize = 60;
/// Batches and others of one CPU.
const NR_PARTS: usize = 4;

/// Something that a CPU does to page tables.
fn part(chance: &mut Chance) -> Vec<Op> {
    let mm = chance.below(2) as u8;
    let page = chance.below(4) as u8;
    match chance.below(6) {
        0 => free_table(mm, 0, [PAGE_A, PAGE_A + 1], run_of(PAGE_A, 12, true)),
        1 | 2 => munmap(mm, page),
        _ => batch(mm, page),
    }
}

fn machine(seed: u64) -> Machine {
    let chance = &mut Chance::new(seed);
    let mut machine = Machine::new(3)
        .decisions(X, 6)
        .faults(4)
        .slots([2, 4][chance.below(2)]);
    for cpu in [A, B] {
        if chance.below(2) == 0 {
            machine = machine.kernel_thread(cpu);
        }
        for _ in 0..NR_PARTS {
            machine = machine.program(cpu, part(chance));
        }
    }
    machine.has_pcid = chance.below(4) != 0;
    machine.invlpg_drops_all = chance.below(2) == 0;
    machine.ceiling = 1 + chance.below(3);
    machine.lazy_limit = machine.ceiling;
    machine
}

#[test]
fn nothing_is_found_at_random() {
    let mut nr_steps = 0;
    let nr_machines = NR_MACHINES * (1 + 20 * u64::from(more()));
    for seed in 0..nr_machines {
        let machine = machine(seed);
        let report = wander(&machine, NR_WALKS, seed);
        if let Some(found) = &report.found {
            panic!("seed {seed}:\n{}", columns(&machine, found));
        }
        nr_steps += report.nr_steps;
    }
    let _ = writeln!(
        std::io::stderr(),
        "model: at random: {nr_machines} machines, {NR_WALKS} walks each, {nr_steps} steps"
    );
}

/// The control: what is wrong is found at random, too, and the way to it becomes as short as if all
/// states had been searched, or nearly.
#[test]
fn what_is_found_is_made_shorter() {
    let scenario = || {
        Machine::new(3)
            .kernel_thread(A)
            .kernel_thread(B)
            .decisions(X, 2)
            .program(A, batch(0, PAGE_A))
            .program(B, batch(0, PAGE_C))
            .program(B, batch(0, PAGE_A + 1))
    };
    let machine = Machine {
        broken: Broken::Ring(Rule::UnpublishedIsFull),
        ..scenario()
    };
    let report = wander(&machine, 100_000, 1);
    tell("at random, nothing", &report);
    let found = report.found.expect("is found");
    let way = columns(&machine, &found);
    assert!(found.what.contains("revoked"), "{way}");
    assert!(found.way.len() <= 45, "{} steps:\n{way}", found.way.len());
    assert!(wander(&scenario(), 1000, 1).found.is_none());
}
