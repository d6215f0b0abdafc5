// SPDX-License-Identifier: GPL-2.0

//! Pages of the device that move from one of its mappings to another one, by the device's own call or
//! by `mremap()`.

use anyhow::{ensure, Result};
use core::sync::atomic::Ordering::Relaxed;
use rustix::mm::MapFlags;

use crate::abi;
use crate::arena::{Arena, Span, PMD_SIZE};
use crate::device::Device;
use crate::mapping::PAGE_SIZE;

mod accounting;
mod places;
mod race;
mod stale;

use accounting::{
    a_kernel_move_of_the_device_is_accounted, bad_device_moves_are_refused,
    what_the_kernel_refuses_of_the_device,
};
use places::{
    a_device_move_keeps_what_is_there, device_moves_take_one_round_or_one_per_table,
    what_is_mapped_twice_stays,
};
use race::{a_race_of_device_moves, no_write_is_lost_by_device_moves};
use stale::{
    a_moved_page_is_not_reused_before_the_flush, a_page_that_is_locked_is_flushed_at_once,
    control_a_device_move_without_pins, control_a_flush_of_the_new_addresses,
    old_addresses_of_a_device_move_are_gone,
};

crate::tests! {
    a_device_move_keeps_what_is_there,
    what_is_mapped_twice_stays,
    device_moves_take_one_round_or_one_per_table,
    bad_device_moves_are_refused,
    a_kernel_move_of_the_device_is_accounted,
    what_the_kernel_refuses_of_the_device,
    old_addresses_of_a_device_move_are_gone,
    a_page_that_is_locked_is_flushed_at_once,
    a_moved_page_is_not_reused_before_the_flush,
    control_a_device_move_without_pins,
    control_a_flush_of_the_new_addresses,
    a_race_of_device_moves within 120,
    no_write_is_lost_by_device_moves within 120,
}

/// How an open file is mapped.
pub const SETUPS: [u32; 2] = [0, abi::SETUP_PFNMAP];
/// When a move flushes.
pub const MODES: [u32; 2] = [0, abi::MOVE_DEFER];
/// Where the new place begins in its page table, in pages, if not where the old one does.
pub const SKEW: usize = 17;

/// Two places that show the same pages of a device.
pub struct Ground {
    pub device: Device,
    arena: Arena,
    nr_pages: usize,
    skew: usize,
}

impl Ground {
    /// `nr_pages`, of a device that is set up so, from the start of one page table to `skew` pages
    /// behind that of another one.
    pub fn new(setup: u32, nr_pages: usize, skew: usize) -> Result<Self> {
        let device = Device::open()?;
        device.setup(setup)?;
        let ground = Self {
            device,
            arena: Arena::new(64 * PMD_SIZE)?,
            nr_pages,
            skew,
        };
        for place in ground.places() {
            ground.map(&place)?;
        }
        Ok(ground)
    }

    /// The old place and the new one.
    pub fn places(&self) -> [Span<'_>; 2] {
        let len = self.nr_pages * PAGE_SIZE;
        let new = 32 * PMD_SIZE + self.skew * PAGE_SIZE;
        [self.arena.span(0, len), self.arena.span(new, len)]
    }

    /// Maps the device there, from its start, in the place of whatever there is.
    pub fn map(&self, place: &Span<'_>) -> Result<()> {
        Ok(place.map_file(self.device.file(), 0, MapFlags::SHARED)?)
    }

    /// Writes to all pages, by the old place.
    pub fn fill(&self) {
        let [old, _] = self.places();
        (0..self.nr_pages).for_each(|page| word(&old, page).store(stamp(page), Relaxed));
    }

    /// Demands that all pages are as [`Ground::fill`] left them, as `place` shows them.
    pub fn check(&self, place: &Span<'_>) -> Result<()> {
        for page in 0..self.nr_pages {
            let value = word(place, page).load(Relaxed);
            ensure!(value == stamp(page), "page {page} holds {value:#x}");
        }
        Ok(())
    }
}

/// The first word of a page.
pub fn word<'a>(span: &Span<'a>, page: usize) -> &'a core::sync::atomic::AtomicU64 {
    span.word(page * PAGE_SIZE)
}

fn stamp(page: usize) -> u64 {
    page as u64 + 1
}
