// SPDX-License-Identifier: GPL-2.0

//! Memory, below atomics and barriers. In tests, something else can stand in for it on a thread.

use std::sync::atomic::{self, AtomicU64, Ordering};

#[cfg(test)]
use std::cell::Cell;

/// What stands in for memory. A word is known by its address.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct StandIn {
    pub(crate) load: fn(usize, Ordering) -> u64,
    pub(crate) store: fn(usize, u64, Ordering),
    pub(crate) compare_exchange: fn(usize, u64, u64, [Ordering; 2]) -> Result<u64, u64>,
    pub(crate) fence: fn(Ordering),
}

#[cfg(test)]
thread_local! {
    static STAND_IN: Cell<Option<StandIn>> = const { Cell::new(None) };
}

/// Lets something stand in for this thread's memory from now on.
#[cfg(test)]
pub(crate) fn stand_in(with: Option<StandIn>) {
    STAND_IN.set(with);
}

#[cfg(test)]
fn address(word: &AtomicU64) -> usize {
    std::ptr::from_ref(word).addr()
}

pub(super) fn load(word: &AtomicU64, order: Ordering) -> u64 {
    #[cfg(test)]
    if let Some(memory) = STAND_IN.get() {
        return (memory.load)(address(word), order);
    }
    word.load(order)
}

pub(super) fn store(word: &AtomicU64, value: u64, order: Ordering) {
    #[cfg(test)]
    if let Some(memory) = STAND_IN.get() {
        return (memory.store)(address(word), value, order);
    }
    word.store(value, order);
}

pub(super) fn compare_exchange(
    word: &AtomicU64,
    old: u64,
    new: u64,
    [success, failure]: [Ordering; 2],
) -> Result<u64, u64> {
    #[cfg(test)]
    if let Some(memory) = STAND_IN.get() {
        return (memory.compare_exchange)(address(word), old, new, [success, failure]);
    }
    word.compare_exchange(old, new, success, failure)
}

pub(super) fn fence(order: Ordering) {
    #[cfg(test)]
    if let Some(memory) = STAND_IN.get() {
        return (memory.fence)(order);
    }
    atomic::fence(order);
}
