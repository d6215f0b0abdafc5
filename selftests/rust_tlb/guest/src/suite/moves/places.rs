// SPDX-License-Identifier: GPL-2.0

//! What a move by the device moves, and how many rounds that takes, by the kernel's own count.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};

use super::{word, Ground, MODES, SETUPS, SKEW};
use crate::abi;
use crate::busy::Busy;
use crate::ktap::Options;
use crate::mapping::PAGE_SIZE;
use crate::tlb_events::{most_common, TlbEvents};

/// Pages of a page table.
const TABLE: usize = PAGE_SIZE / 8;
const NR_PAGES: [usize; 5] = [1, 64, TABLE, TABLE + 3, 4 * TABLE];
const NR_OTHERS: usize = 3;
/// Moves of which the most common count counts.
const NR_MOVES: usize = 3;

/// Page tables that are moved as they are.
fn nr_whole(nr_pages: usize, skew: usize) -> usize {
    if skew == 0 {
        nr_pages / TABLE
    } else {
        0
    }
}

/// Pairs of page tables whose PTEs are moved, and whole ones.
fn nr_flushes(nr_pages: usize, skew: usize) -> usize {
    let old_ends = (TABLE..nr_pages).step_by(TABLE);
    let new_ends = (TABLE - skew..nr_pages).step_by(TABLE);
    let ends: std::collections::BTreeSet<usize> = old_ends.chain(new_ends).collect();
    ends.len() + 1
}

pub fn a_device_move_keeps_what_is_there(_: &Options) -> Result<()> {
    for (setup, flags) in SETUPS.into_iter().flat_map(|s| MODES.map(|m| (s, m))) {
        for (nr_pages, skew) in NR_PAGES.into_iter().flat_map(|nr| [(nr, 0), (nr, SKEW)]) {
            let ground = Ground::new(setup, nr_pages, skew)?;
            ground.fill();
            let [mut from, mut to] = ground.places();
            for _ in 0..3 {
                let moved = ground.device.move_pages(&from, &to, flags, 0)?;
                ensure!(moved.nr_ptes == nr_pages as u64, "{moved:?}");
                let nr_whole = nr_whole(nr_pages, skew) as u64;
                ensure!(moved.nr_tables <= nr_whole, "{moved:?}");
                let faults = ground.device.counters()?.nr_faults;
                ground.check(&to)?;
                let missing = ground.device.counters()?.nr_faults - faults;
                ensure!(missing == 0, "{missing} faults of {nr_pages} pages");
                (from, to) = (to, from);
            }
        }
    }
    Ok(())
}

/// What is at the new address already is left there, and what is at the old one, too.
pub fn what_is_mapped_twice_stays(_: &Options) -> Result<()> {
    for (setup, flags) in SETUPS.into_iter().flat_map(|s| MODES.map(|m| (s, m))) {
        let ground = Ground::new(setup, 8, SKEW)?;
        ground.fill();
        let [old, new] = ground.places();
        for page in [1, 6] {
            word(&new, page).load(Relaxed);
        }
        let moved = ground.device.move_pages(&old, &new, flags, 0)?;
        ensure!(moved.nr_ptes == 6 && moved.nr_occupied == 2, "{moved:?}");
        ground.check(&new)?;
        ground.check(&old)?;
        let nothing = ground.device.move_pages(&old, &new, flags, 0)?;
        ensure!(
            nothing.nr_ptes == 0 && nothing.nr_occupied == 8,
            "{nothing:?}"
        );
        ensure!(nothing.nr_flush_calls == 0, "{nothing:?}");
    }
    Ok(())
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// Rounds of a move, as they are most often.
fn rounds(nr_pages: usize, skew: usize, flags: u32) -> Result<(u64, abi::Move)> {
    let mut last = abi::Move::default();
    let rounds: Result<Vec<u64>> = (0..NR_MOVES)
        .map(|_| {
            let ground = Ground::new(0, nr_pages, skew)?;
            ground.fill();
            let [old, new] = ground.places();
            let before = read_events()?;
            last = ground.device.move_pages(&old, &new, flags, 0)?;
            Ok(read_events()?.since(before).remote_flush)
        })
        .collect();
    Ok((most_common(rounds?), last))
}

pub fn device_moves_take_one_round_or_one_per_table(_: &Options) -> Result<()> {
    let _busy = Busy::start(NR_OTHERS);
    for (nr_pages, skew) in NR_PAGES.into_iter().flat_map(|nr| [(nr, 0), (nr, SKEW)]) {
        for (flags, expected) in [(0, nr_flushes(nr_pages, skew)), (abi::MOVE_DEFER, 1)] {
            let (rounds, moved) = rounds(nr_pages, skew, flags)?;
            println!("# {nr_pages} pages, {skew} behind, {flags:#x}: {rounds} rounds, {moved:?}");
            ensure!(rounds == expected as u64, "{rounds} rounds, not {expected}");
            ensure!(moved.nr_flush_calls == expected as u64, "{moved:?}");
            let locked = if flags == 0 { expected } else { 0 };
            ensure!(moved.nr_locked_flushes == locked as u64, "{moved:?}");
            let whole = nr_whole(nr_pages, skew) as u64;
            ensure!(moved.nr_tables == whole, "{moved:?}, not {whole} tables");
        }
    }
    Ok(())
}
