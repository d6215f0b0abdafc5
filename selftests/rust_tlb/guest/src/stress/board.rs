// SPDX-License-Identifier: GPL-2.0

//! What all processes count together, and the word that it is over.

use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::shared::Shared;

/// What is counted.
#[derive(Clone, Copy)]
pub enum Count {
    /// Actions that have ended.
    Operations,
    /// Unmaps by the device.
    Unmaps,
    /// Children that were forked.
    Forks,
    /// Writes to saved pages that are gone.
    LostSaved,
    /// Threads that have failed.
    Failures,
    Stopped,
}

const NR_COUNTS: usize = 6;

/// Memory of all processes.
pub struct Board(Shared<AtomicU64>);

impl Board {
    pub fn new() -> Result<Self> {
        Ok(Self(Shared::new(NR_COUNTS)?))
    }

    pub fn add(&self, which: Count, nr: u64) {
        self.0[which as usize].fetch_add(nr, Ordering::AcqRel);
    }

    pub fn get(&self, which: Count) -> u64 {
        self.0[which as usize].load(Ordering::Acquire)
    }

    /// Ends everything.
    pub fn stop(&self) {
        self.0[Count::Stopped as usize].store(1, Ordering::Release);
    }

    pub fn stopped(&self) -> bool {
        self.get(Count::Stopped) != 0
    }
}

/// Ends everything when it goes out of scope, by an error or a panic, unless it was told that all
/// went well.
pub struct Alarm<'a>(Option<&'a Board>);

impl<'a> Alarm<'a> {
    pub fn new(board: &'a Board) -> Self {
        Self(Some(board))
    }

    pub fn all_went_well(mut self) {
        self.0 = None;
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(board) = self.0 {
            board.add(Count::Failures, 1);
            board.stop();
        }
    }
}
