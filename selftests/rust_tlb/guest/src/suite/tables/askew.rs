// SPDX-License-Identifier: GPL-2.0

//! mremap to a place that is not aligned as the old one: PTEs move, one by one, into a page table that
//! mremap has looked up before. Until they are in, it is empty.

use std::thread;

use anyhow::{bail, ensure, Result};

use super::{device, map, needs_faults, touch};
use crate::abi::{self, strategy};
use crate::cpu;
use crate::device::Device;
use crate::held_moment;
use crate::ktap::Options;
use crate::mapping::PAGES_PER_TABLE;
use crate::mremap_runs::Runs;
use crate::selection::Selection;

const NR_TABLES: u64 = 3;
/// The move goes one page further than a multiple of a table: the new table of this page is that of
/// the next ones.
const IN_FRONT: u64 = PAGES_PER_TABLE - 1;
/// In the old table behind that.
const MOVED: u64 = PAGES_PER_TABLE + 188;

/// What became of the new table, and of the page that moves into it.
#[derive(Debug, PartialEq, Eq)]
struct Fate {
    nr_busy: u64,
    nr_freed: u64,
    is_mapped: bool,
}

/// Has mremap wait with the new table looked up, and not locked; takes a page out that the table would
/// show, and is not mapped anywhere; and lets mremap move another page into the table.
fn unmap_beside_a_move(device: &Device, flags: u32) -> Result<Fate> {
    let mut mapping = map(device, NR_TABLES)?;
    touch(&mapping, [MOVED]);
    device.populate(IN_FRONT, 1)?;
    let before = device.counters()?;
    thread::scope(|scope| {
        let moving = scope.spawn(|| {
            cpu::pin_worker(1)?;
            held_moment::hold_own_move()?;
            anyhow::Ok(mapping.relocate_askew(PAGES_PER_TABLE)?)
        });
        while !held_moment::is_held()? {
            if moving.is_finished() {
                bail!("it was not held");
            }
            thread::yield_now();
        }
        let page = Selection::run(IN_FRONT, 1);
        let flags = flags | abi::UNMAP_BREAK_TABLES_HINT;
        let unmapped = device.unmap(&page, strategy::BROADCAST, flags);
        let in_time = held_moment::is_held()?;
        held_moment::go_on()?;
        unmapped?;
        moving.join().expect("it does not panic")?;
        ensure!(in_time, "the unmap took too long");
        Ok(())
    })?;
    let counters = device.counters()?;
    let accessed = device.accessed(MOVED, 1, abi::ACCESSED_READ)?;
    Ok(Fate {
        nr_busy: counters.nr_tables_busy - before.nr_tables_busy,
        nr_freed: counters.nr_tables_freed - before.nr_tables_freed,
        is_mapped: accessed.mapped & 1 != 0,
    })
}

/// Of pages without references: nobody counts what is lost.
fn fate(flags: u32) -> Result<Fate> {
    let device = device(abi::SETUP_PFNMAP)?;
    needs_faults(&device)?;
    // One table after the other: runs of them hold the locks of the rmap.
    let runs = Runs::take()?;
    if let Some(runs) = &runs {
        runs.set_max(1)?;
    }
    held_moment::warm_up()?;
    unmap_beside_a_move(&device, flags)
}

/// Who moves PTEs has the `mmap_lock`.
pub fn a_table_that_ptes_move_into_stays(_: &Options) -> Result<()> {
    let fate = fate(0)?;
    let kept = Fate {
        nr_busy: 1,
        nr_freed: 0,
        is_mapped: true,
    };
    ensure!(fate == kept, "{fate:?}");
    Ok(())
}

pub fn ptes_that_move_into_a_freed_table_are_lost(_: &Options) -> Result<()> {
    let fate = fate(abi::UNMAP_BREAK_TABLES_LOCK)?;
    let lost = Fate {
        nr_busy: 0,
        nr_freed: 1,
        is_mapped: false,
    };
    ensure!(fate == lost, "{fate:?}");
    Ok(())
}
