// SPDX-License-Identifier: GPL-2.0

//! A leaf is on its way: for a moment mremap has it at neither place.

use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Result};

use super::{all, expect_fresh, expect_leaves, fill, mapped, whole};
use crate::abi::{self, Unmap};
use crate::cpu;
use crate::device::{strategy_name, Device, BATCH_STRATEGIES};
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};

/// How long an unmap gets that does not wait for the move, as it should.
const WHILE: Duration = Duration::from_millis(200);

/// Moves the leaf of `mapping`, unmaps all of it by `strategy` while it is at neither place, and lets the
/// move go on. Returns what the unmap did, and whether it waited for the move.
fn unmap_on_its_way(
    device: &Device,
    mapping: &mut Mapping,
    strategy: u32,
) -> Result<(Unmap, bool)> {
    let is_on_its_way = AtomicBool::new(false);
    thread::scope(|scope| {
        // Before the move: while that waits, nobody can be given a stack.
        let unmapping = scope.spawn(|| {
            cpu::pin_worker(2)?;
            while !is_on_its_way.load(SeqCst) {
                thread::yield_now();
            }
            anyhow::Ok(device.unmap(&all(), strategy, abi::UNMAP_FREE)?)
        });
        let moving = scope.spawn(|| {
            cpu::pin_worker(1)?;
            held_moment::hold_own_move()?;
            anyhow::Ok(mapping.relocate_aligned(PAGES_PER_TABLE)?)
        });
        while !held_moment::is_held()? && !moving.is_finished() {
            thread::yield_now();
        }
        is_on_its_way.store(true, SeqCst);
        let start = Instant::now();
        while !unmapping.is_finished() && start.elapsed() < WHILE {
            thread::yield_now();
        }
        let has_waited = !unmapping.is_finished() && held_moment::is_held()?;
        held_moment::go_on()?;
        moving.join().expect("it does not panic")?;
        let reply = unmapping.join().expect("it does not panic")?;
        Ok((reply, has_waited))
    })
}

/// A walk that took it for gone would leave it mapped, over pages that are free.
pub fn a_leaf_on_its_way_is_not_missed(_: &Options) -> Result<()> {
    if cpu::nr_cpus() < 3 {
        return skip("3 CPUs are needed");
    }
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    held_moment::warm_up()?;
    // Not where the others spin.
    cpu::pin_worker(0)?;
    for strategy in BATCH_STRATEGIES {
        let name = strategy_name(strategy);
        let (device, mut mapping) = mapped(1)?;
        fill(&mapping, whole());
        expect_leaves(&device, 1)?;
        let (reply, has_waited) = unmap_on_its_way(&device, &mut mapping, strategy)?;
        let found = (reply.nr_pages, reply.nr_ptes, has_waited);
        ensure!(found == (PAGES_PER_TABLE, 1, true), "{name}: {reply:?}");
        // At the new place.
        expect_fresh(&mapping, whole())?;
        let counters = device.counters()?;
        ensure!(counters.nr_stale_writes == 0, "{name}: {counters:?}");
    }
    Ok(())
}
