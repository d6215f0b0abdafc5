// SPDX-License-Identifier: GPL-2.0

//! What the core does with page tables while they are freed: under the eyes of the oracle, as in
//! the suite `races`, but each unmap leaves a table empty. Faults race with it all the time.

use anyhow::Result;

use crate::ktap::Options;
use crate::suite::races::turns::{
    turn_dontneed, turn_fork, turn_mremap, turn_munmap, turn_proc, turn_readv, Turn, ALL_TURNS,
};
use crate::suite::races::{race, Ground};

/// Tables that are freed while it races, at least: those of a process that changes its mappings stay,
/// and so do those that a fault has filled again.
const MIN_TABLES: u64 = 20;

fn race_over_tables(options: &Options, turns: &[Turn]) -> Result<()> {
    race(options, &Ground::tables(MIN_TABLES)?, turns)
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
