// SPDX-License-Identifier: GPL-2.0

//! What a worker does next. Nothing but its random numbers decides, so that a seed replays the
//! choices, if not what comes of them.

use core::ops::Range;

use crate::abi::{self, strategy};
use crate::device::{BATCH_STRATEGIES, DEFERRING_STRATEGIES, REAL_STRATEGIES};
use crate::selection::Selection;
use crate::stress::Options;

/// Watched pages that one worker may unmap.
pub const BAND_PAGES: u64 = 8;
/// Pages that are saved when they are unmapped.
pub const SAVED_PAGES: u64 = 24;

/// The longest life of a child that is killed.
const MAX_LIFE_US: u64 = 20_000;

/// One of the two open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Watched,
    Saved,
}

/// Some neighbouring pages of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub first: u64,
    pub nr: u64,
}

/// One unmap by the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmap {
    pub place: Place,
    pub selection: Selection,
    pub strategy: u32,
    pub flags: u32,
}

/// One thing that a worker does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads all pages, and judges them.
    Read,
    /// Reads and writes all pages.
    Write,
    Unmap(Unmap),
    Flush(Place),
    Populate(Place, Part),
    /// Maps something else over a part, and then the part again.
    Replace(Place, Part),
    DontNeed(Place, Part),
    /// Makes a part read-only, and writable again.
    ReadOnly(Place, Part),
    /// Makes a part inaccessible, and accessible again.
    Forbid(Place, Part),
    /// Maps everything a second time, and unmaps the first.
    Renew(Place),
    /// Moves everything to another address.
    Move(Place),
    /// Has the device move a part to a second mapping: `MOVE_*`.
    Shift(Place, Part, u32),
    /// Runs the kernel's shrinkers.
    Shrink,
    /// Forks a child that reads all pages and exits.
    Fork,
    /// Forks a child that works on its own, and kills it.
    Kill {
        seed: u64,
        after_us: u64,
    },
}

/// The choices of one worker.
pub struct Chooser {
    rng: fastrand::Rng,
    nr_watched: u64,
    band: Range<u64>,
    missing_flush: bool,
}

impl Chooser {
    pub fn new(options: &Options, seed: u64, worker: u64) -> Self {
        // Far apart, so that neighbours do not choose alike.
        let own_seed = seed.wrapping_add((worker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            rng: fastrand::Rng::with_seed(own_seed),
            nr_watched: options.nr_workers() * BAND_PAGES,
            band: worker * BAND_PAGES..(worker + 1) * BAND_PAGES,
            missing_flush: options.missing_flush,
        }
    }

    /// The next action.
    pub fn choose(&mut self) -> Action {
        match self.rng.u8(..100) {
            0..20 => Action::Read,
            20..40 => Action::Write,
            40..58 => Action::Unmap(self.unmap_watched()),
            58..68 => Action::Unmap(self.unmap_saved()),
            68..73 => Action::Flush(self.place()),
            73 => Action::Shrink,
            74..78 => self.of_part(Action::Populate),
            78..82 => self.of_part(Action::Replace),
            82..86 => self.of_part(Action::DontNeed),
            86..89 => self.of_part(Action::ReadOnly),
            89..92 => self.of_part(Action::Forbid),
            92..94 => Action::Renew(self.place()),
            94 => Action::Move(self.place()),
            95 => self.shift(),
            96..98 => Action::Fork,
            _ => Action::Kill {
                seed: self.rng.u64(..),
                after_us: self.rng.u64(..MAX_LIFE_US),
            },
        }
    }

    fn place(&mut self) -> Place {
        if self.rng.bool() {
            Place::Watched
        } else {
            Place::Saved
        }
    }

    fn of_part(&mut self, action: fn(Place, Part) -> Action) -> Action {
        let place = self.place();
        let nr_pages = match place {
            Place::Watched => self.nr_watched,
            Place::Saved => SAVED_PAGES,
        };
        let nr = self.rng.u64(1..=nr_pages);
        let first = self.rng.u64(..=nr_pages - nr);
        action(place, Part { first, nr })
    }

    fn shift(&mut self) -> Action {
        match self.rng.bool() {
            true => self.of_part(|place, part| Action::Shift(place, part, 0)),
            false => self.of_part(|place, part| Action::Shift(place, part, abi::MOVE_DEFER)),
        }
    }

    fn unmap_watched(&mut self) -> Unmap {
        let selection = selection(&mut self.rng, self.band.clone());
        if self.missing_flush && self.rng.bool() {
            return Unmap {
                place: Place::Watched,
                selection,
                strategy: strategy::NONE,
                flags: 0,
            };
        }
        let strategy = one_of(&mut self.rng, &REAL_STRATEGIES);
        let mut flags = flags(&mut self.rng, strategy);
        if self.missing_flush {
            // Whoever still reaches a page must not reach it when it is the kernel's again.
            flags &= !abi::UNMAP_FREE;
        }
        Unmap {
            place: Place::Watched,
            selection,
            strategy,
            flags,
        }
    }

    fn unmap_saved(&mut self) -> Unmap {
        unmap_saved(&mut self.rng)
    }
}

/// An unmap of any saved pages.
pub fn unmap_saved(rng: &mut fastrand::Rng) -> Unmap {
    let selection = selection(rng, 0..SAVED_PAGES);
    let strategy = one_of(rng, &BATCH_STRATEGIES);
    Unmap {
        place: Place::Saved,
        selection,
        strategy,
        flags: flags(rng, strategy) | abi::UNMAP_WRITE_BACK,
    }
}

/// An unmap of any of the first `nr_pages`, whatever becomes of them.
pub fn unmap_any(rng: &mut fastrand::Rng, nr_pages: u64) -> Unmap {
    let selection = selection(rng, 0..nr_pages);
    let strategy = one_of(rng, &REAL_STRATEGIES);
    Unmap {
        place: Place::Watched,
        selection,
        strategy,
        flags: flags(rng, strategy),
    }
}

fn one_of(rng: &mut fastrand::Rng, strategies: &[u32]) -> u32 {
    strategies[rng.usize(..strategies.len())]
}

fn flags(rng: &mut fastrand::Rng, strategy: u32) -> u32 {
    let (defer, free) = (rng.bool(), rng.bool());
    let can_defer = DEFERRING_STRATEGIES.contains(&strategy);
    let defer = if can_defer && defer {
        abi::UNMAP_DEFER
    } else {
        0
    };
    let has_batch = BATCH_STRATEGIES.contains(&strategy);
    let two_phase = if has_batch && rng.u8(..4) == 0 {
        abi::UNMAP_TWO_PHASE
    } else {
        0
    };
    defer | two_phase | if free { abi::UNMAP_FREE } else { 0 }
}

/// Pages of `within`, in one of the forms that the device takes.
fn selection(rng: &mut fastrand::Rng, within: Range<u64>) -> Selection {
    let len = within.end - within.start;
    let stride = rng.u64(0..=3);
    if stride == 0 {
        let nr = rng.usize(1..=len as usize);
        return Selection::List(rng.choose_multiple(within, nr));
    }
    let nr = rng.u64(1..=(len - 1) / stride + 1);
    let slack = len - ((nr - 1) * stride + 1);
    Selection::Every {
        first: within.start + rng.u64(..=slack),
        nr,
        stride,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(options: &Options, seed: u64, worker: u64) -> Vec<Action> {
        let mut chooser = Chooser::new(options, seed, worker);
        (0..2000).map(|_| chooser.choose()).collect()
    }

    #[test]
    fn a_seed_replays_the_choices() {
        let options = Options::default();
        assert_eq!(choices(&options, 7, 1), choices(&options, 7, 1));
        assert_ne!(choices(&options, 7, 1), choices(&options, 7, 2));
        assert_ne!(choices(&options, 7, 1), choices(&options, 8, 1));
    }

    #[test]
    fn a_worker_unmaps_watched_pages_of_its_band_only() {
        let options = Options::default();
        for action in choices(&options, 3, 2) {
            let Action::Unmap(unmap) = action else {
                continue;
            };
            let (range, saved) = match unmap.place {
                Place::Watched => (2 * BAND_PAGES..3 * BAND_PAGES, 0),
                Place::Saved => (0..SAVED_PAGES, abi::UNMAP_WRITE_BACK),
            };
            assert!(unmap.selection.pages().iter().all(|p| range.contains(p)));
            assert_eq!(unmap.flags & abi::UNMAP_WRITE_BACK, saved);
            assert_ne!(unmap.strategy, strategy::NONE);
        }
    }

    #[test]
    fn what_was_not_flushed_is_not_freed() {
        let options = Options {
            missing_flush: true,
            ..Options::default()
        };
        let is_none = |unmap: &Unmap| unmap.strategy == strategy::NONE;
        let mut nr_none = 0;
        for action in choices(&options, 3, 2) {
            match action {
                Action::Unmap(unmap) if unmap.place == Place::Watched => {
                    assert_eq!(unmap.flags & abi::UNMAP_FREE, 0);
                    nr_none += usize::from(is_none(&unmap));
                }
                _ => {}
            }
        }
        assert!(nr_none > 0);
    }
}
