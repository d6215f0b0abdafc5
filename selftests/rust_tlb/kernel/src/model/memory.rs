// SPDX-License-Identifier: GPL-2.0

//! Frames of memory and what is in them, and the contents that were saved from them.
//!
//! A page stays in the driver's slot until the driver takes it back, mapped or not. Writes are
//! counted: a page whose contents show fewer writes than CPUs have made to it has lost some.

use super::ids::{MmId, Vpn};
use crate::mm::{
    place::Place,
    stale::{Proof, Stale},
};
use std::collections::BTreeMap;

/// A page of memory, never reused, so that a stale translation is one to a frame that was released.
pub(super) type Frame = u64;

impl Stale for Frame {
    fn nr_pages(&self) -> usize {
        1
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {}

    fn flushed(&mut self, _proof: Proof) {}
}

/// A page of an address space, wherever its contents are.
pub(super) type Page = (MmId, Vpn);

#[derive(Default)]
pub(super) struct Memory {
    last: Frame,
    /// Where the driver has its pages.
    slots: BTreeMap<Page, Frame>,
    /// How many writes the contents of a frame show.
    shown: BTreeMap<Frame, usize>,
    /// The same of contents that were saved. They are brought back by a fault.
    saved: BTreeMap<Page, usize>,
    /// How many writes CPUs have made, as far as they know.
    made: BTreeMap<Page, usize>,
}

impl Memory {
    /// The frame of `page`: if it has none, a fresh one, with the contents that were saved, if any
    /// were.
    pub(super) fn fault_in(&mut self, page: Page) -> Frame {
        if let Some(frame) = self.slots.get(&page) {
            return *frame;
        }
        self.last += 1;
        self.slots.insert(page, self.last);
        let contents = self.saved.remove(&page).unwrap_or(0);
        self.shown.insert(self.last, contents);
        self.last
    }

    /// The driver takes the frame of `page` back.
    pub(super) fn take(&mut self, page: Page) -> Option<Frame> {
        self.slots.remove(&page)
    }

    /// A CPU writes to `page`, which is in `frame` as far as it knows.
    pub(super) fn write(&mut self, page: Page, frame: Frame) {
        *self.shown.entry(frame).or_default() += 1;
        *self.made.entry(page).or_default() += 1;
    }

    /// Saves the contents of `frame` as those of `page`.
    pub(super) fn save(&mut self, page: Page, frame: Frame) {
        self.saved.insert(page, self.shown[&frame]);
    }

    /// How many writes were lost.
    pub(super) fn lost(&self) -> usize {
        let shown = |page| match self.slots.get(&page) {
            Some(frame) => self.shown[frame],
            None => self.saved.get(&page).copied().unwrap_or(0),
        };
        let pages = self.made.iter();
        pages.map(|(page, made)| made - shown(*page)).sum()
    }
}
