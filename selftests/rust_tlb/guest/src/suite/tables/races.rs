// SPDX-License-Identifier: GPL-2.0

//! What the core does with page tables while they are freed: under the eyes of the oracle, as in
//! the suite `races`, but each unmap leaves a table empty. Faults race with it all the time.

use anyhow::{ensure, Result};

use crate::ktap::Options;
use crate::suite::races::{
    race, turn_dontneed, turn_fork, turn_mremap, turn_munmap, turn_readv, Ground, Turn, ALL_TURNS,
};

/// Tables that have to be empty while it races: each unmap leaves some.
const MIN_TABLES: u64 = 20;

fn race_over_tables(options: &Options, turns: &[Turn]) -> Result<()> {
    let counters = race(options, &Ground::tables()?, turns)?;
    let nr_empty = counters.nr_tables_freed + counters.nr_tables_busy;
    ensure!(
        nr_empty >= MIN_TABLES && counters.nr_tables_freed > 0,
        "{counters:?}"
    );
    Ok(())
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

pub fn everything_at_once(options: &Options) -> Result<()> {
    race_over_tables(options, &ALL_TURNS)
}
