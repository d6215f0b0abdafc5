// SPDX-License-Identifier: GPL-2.0

//! Stress: threads of several processes use the device and change its mappings at random, and watch
//! each other's pages.
//!
//! - [`action`] chooses what a worker does next, by its seed alone.
//! - [`worker`] does it, on two [`ground`]s: the pages of one open file are watched by the
//!   [`crate::oracle`]'s rules, those of another are saved on each unmap, so that no write to them
//!   may ever be lost.
//! - [`arena`] is the two open files, and the demand that they end empty. All processes share one
//!   arena, but for the last, which opens its own.
//! - [`crowd`] is the processes and their threads, [`board`] what all of them count together.
//! - [`supervisor`] starts them, tells how it goes, ends them in time, and sums up.
//!
//! Each page has one worker that unmaps it while it is watched: the ledger's numbers would mean
//! nothing if two unmapped it at a time. The saved pages are everybody's.

pub mod action;
pub mod arena;
pub mod board;
pub mod crowd;
pub mod ground;
pub mod supervisor;
pub mod worker;

use std::path::PathBuf;

use clap::{value_parser, Parser};

pub use supervisor::{run, Summary};

/// What is to be done, by how many, for how long.
#[derive(Parser, Clone, Debug)]
#[command(about = "Uses /dev/rust-tlb at random, and fails if anybody sees a stale page")]
pub struct Options {
    /// Seed of all choices [default: any]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Seconds
    #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(1..=1 << 20))]
    pub duration: u64,
    /// Actions of each worker, after which it ends even if there is time left
    #[arg(long)]
    pub operations: Option<u64>,
    /// Processes; if there are several, the last opens files of its own
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u64).range(1..=8))]
    pub processes: u64,
    /// Workers in each process, beside one thread that only watches
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u64).range(1..=8))]
    pub threads: u64,
    /// Leave out the flush of some unmaps: a negative control
    #[arg(long)]
    pub missing_flush: bool,
    /// Write down what worker N chooses, in a file of this name with .N behind it
    #[arg(long)]
    pub log: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self::parse_from(["rust-tlb-stress"])
    }
}

impl Options {
    /// Workers in all processes.
    pub fn nr_workers(&self) -> u64 {
        self.processes * self.threads
    }

    /// Threads with a word of their own in each page: the workers, and a watching thread a process.
    pub fn nr_slots(&self) -> usize {
        (self.nr_workers() + self.processes) as usize
    }
}
