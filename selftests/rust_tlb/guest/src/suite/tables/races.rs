// SPDX-License-Identifier: GPL-2.0

//! What the core does with page tables while they are freed: under the eyes of the oracle, as in
//! the suite `races`, but each unmap leaves a table empty. Faults race with it all the time.

use anyhow::{bail, Result};

use crate::ktap::Options;
use crate::suite::races::{
    race, turn_dontneed, turn_fork, turn_mremap, turn_munmap, turn_proc, turn_readv, Ground, Turn,
    ALL_TURNS,
};

/// Tables that have to be empty while it races: each unmap leaves some.
const MIN_TABLES: u64 = 20;
/// Races, of which one has to free a table: in one of them others may have the `mmap_lock` each time.
const MAX_RACES: u32 = 10;

fn race_over_tables(options: &Options, turns: &[Turn]) -> Result<()> {
    let (mut nr_freed, mut nr_busy) = (0, 0);
    for _ in 0..MAX_RACES {
        let counters = race(options, &Ground::tables()?, turns)?;
        nr_freed += counters.nr_tables_freed;
        nr_busy += counters.nr_tables_busy;
        if nr_freed > 0 && nr_freed + nr_busy >= MIN_TABLES {
            return Ok(());
        }
    }
    bail!("{nr_freed} tables freed, {nr_busy} busy, in {MAX_RACES} races")
}

pub fn munmap(options: &Options) -> Result<()> {
    race_over_tables(options, &[turn_munmap])
}

pub fn madvise_dontneed(options: &Options) -> Result<()> {
    race_over_tables(options, &[turn_dontneed])
}

pub fn mremap(options: &Options) -> Result<()> {
    race_over_tables(options, &[turn_mremap])
}

pub fn fork(options: &Options) -> Result<()> {
    race_over_tables(options, &[turn_fork])
}

pub fn process_vm_readv(options: &Options) -> Result<()> {
    race_over_tables(options, &[turn_readv])
}

pub fn pagemap_and_smaps(options: &Options) -> Result<()> {
    race_over_tables(options, &[turn_proc])
}

pub fn everything_at_once(options: &Options) -> Result<()> {
    race_over_tables(options, &ALL_TURNS)
}
