// SPDX-License-Identifier: GPL-2.0

//! Where C enters the [ring](super::ring): called by `arch/x86/mm/flush_ring.c`, from the flush and
//! the context switch of x86.
//!
//! Nothing here sleeps, allocates or prints: a caller may hold the lock of its run queue.
//!
//! C header: [`arch/x86/include/asm/flush_ring.h`](srctree/arch/x86/include/asm/flush_ring.h)

use super::ring::{
    self,
    Ring,
    Run,
    MAX_RUNS, //
};
#[cfg(CONFIG_RUST_TLB_FAULTS)]
use super::ring::{
    Rule,
    Words, //
};
use crate::{
    bindings,
    prelude::*, //
};

/// Returns the word for a range: see [`Run::new`].
#[export]
pub(super) extern "C" fn rust_flush_ring_run(
    start: c_ulong,
    end: c_ulong,
    stride_shift: c_uint,
    tables_freed: bool,
) -> u64 {
    Run::new(start, end, stride_shift, tables_freed).into_word()
}

/// Publishes what `generation` is for: see [`ring::publish`]. Returns -1 if it did, or else which
/// [`ring::GaveUp`] it was.
///
/// # Safety
///
/// - `ring` must point to a page that was zeroed before it became a ring, is used as one only, and
///   is not freed during the call.
/// - `runs` must point to `nr_runs` words that nobody changes during the call.
#[export]
pub(super) unsafe extern "C" fn rust_flush_ring_publish(
    ring: *mut bindings::mm_flush_ring,
    generation: u64,
    runs: *const u64,
    nr_runs: c_ulong,
) -> c_int {
    // SAFETY: As promised by the caller.
    let ring = unsafe { as_ring(&ring) };
    let mut copy = [Run::FULL; MAX_RUNS + 1];
    let fits = nr_runs.min(copy.len());
    // SAFETY: The caller promises that there are so many words.
    let words = unsafe { core::slice::from_raw_parts(runs, fits) };
    for (run, word) in copy.iter_mut().zip(words) {
        *run = Run::from_word(*word);
    }
    let runs = copy.get(..fits).unwrap_or(&[]);
    match ring::publish(ring, generation, runs) {
        Ok(()) => -1,
        Err(gave_up) => gave_up as c_int,
    }
}

/// Catches up from `local` to `generation`: see [`ring::catch_up`]. Returns how many pages that
/// was, or else -1 less the number of the [`ring::Doubt`].
///
/// # Safety
///
/// - As [`rust_flush_ring_publish`] for `ring`.
/// - The address space that `ring` belongs to must be loaded on this CPU, and IRQs be off.
#[export]
pub(super) unsafe extern "C" fn rust_flush_ring_catch_up(
    ring: *mut bindings::mm_flush_ring,
    local: u64,
    generation: u64,
    limit: c_ulong,
) -> c_long {
    // SAFETY: As promised by the caller.
    let ring = unsafe { as_ring(&ring) };
    let result = ring::catch_up(ring, local, generation, limit, |run| {
        // SAFETY: The caller promises that IRQs are off: it is this CPU that loses translations,
        // of the address space that it promises to be loaded. To lose one is always allowed.
        unsafe {
            bindings::flush_ring_invalidate(run.start(), run.nr_strides(), run.stride_shift());
        }
    });
    match result {
        Ok(nr_pages) => nr_pages as c_long,
        Err(doubt) => -1 - doubt as c_long,
    }
}

/// Adds to a published generation: see [`ring::extend`].
///
/// # Safety
///
/// As [`rust_flush_ring_publish`] for `ring`.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
#[export]
pub(super) unsafe extern "C" fn rust_flush_ring_extend(
    ring: *mut bindings::mm_flush_ring,
    generation: u64,
    run: u64,
) -> bool {
    // SAFETY: As promised by the caller.
    let ring = unsafe { as_ring(&ring) };
    ring::extend(&ring.0, generation, Run::from_word(run))
}

/// The ring at an address, for as long as the pointer lives.
///
/// # Safety
///
/// `ring` must point to a page that was zeroed before it became a ring, is used as one only, and is
/// not freed meanwhile.
unsafe fn as_ring(ring: &*mut bindings::mm_flush_ring) -> &Tested {
    // SAFETY: The caller promises a page, which is as large as a ring, aligned well enough for one,
    // and initialised; all that is in it is atomic. `Tested` is a ring, or one in its layout.
    unsafe { &*ring.cast::<Tested>() }
}

#[cfg(not(CONFIG_RUST_TLB_FAULTS))]
type Tested = Ring;

/// A ring whose rules tests can break, and whose users they can stop.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
#[repr(transparent)]
struct Tested(Ring);

#[cfg(CONFIG_RUST_TLB_FAULTS)]
fn pause(at: u32) {
    // SAFETY: Waits for some seconds at most, in any context that the ring is used in.
    unsafe { bindings::flush_ring_pause(at) }
}

#[cfg(CONFIG_RUST_TLB_FAULTS)]
impl Words for Tested {
    const NR_SLOTS: usize = Ring::NR_SLOTS;
    const NR_RUNS: usize = Ring::NR_RUNS;

    fn load_tag(&self, slot: usize) -> u64 {
        self.0.load_tag(slot)
    }

    fn reload_tag(&self, slot: usize) -> u64 {
        self.0.reload_tag(slot)
    }

    fn claim(&self, slot: usize, seen: u64) -> bool {
        self.0.claim(slot, seen)
    }

    fn release(&self, slot: usize, tag: u64) {
        pause(bindings::FLUSH_RING_AT_RELEASE);
        self.0.release(slot, tag);
    }

    fn load_run(&self, slot: usize, index: usize) -> Run {
        if index == 0 {
            pause(bindings::FLUSH_RING_AT_READ);
        }
        self.0.load_run(slot, index)
    }

    fn store_run(&self, slot: usize, index: usize, run: Run) {
        if index == 0 {
            pause(bindings::FLUSH_RING_AT_RUN);
        }
        self.0.store_run(slot, index, run);
    }

    fn keeps(&self, rule: Rule) -> bool {
        // SAFETY: Reads a variable.
        unsafe { bindings::flush_ring_keeps(rule as u32) }
    }
}
