// SPDX-License-Identifier: GPL-2.0

//! Whether a test gets on: how long it takes is the machine's business, that it takes steps its own.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use rustix::io::Errno;

use crate::shared::Shared;

static STEPS: OnceLock<Shared<AtomicU64>> = OnceLock::new();

/// Begins to count the steps of this process, and of those that it forks from now on.
pub fn begin() -> Result<(), Errno> {
    let steps = Shared::new(1)?;
    // If somebody has begun already, the steps are counted there.
    let _ = STEPS.set(steps);
    Ok(())
}

/// A step was taken: a call of the device is over, or a thread has come that was waited for.
pub fn step() {
    if let Some(steps) = STEPS.get() {
        steps[0].fetch_add(1, Ordering::Relaxed);
    }
}

/// Steps so far.
pub fn nr_steps() -> u64 {
    STEPS
        .get()
        .map_or(0, |steps| steps[0].load(Ordering::Relaxed))
}
