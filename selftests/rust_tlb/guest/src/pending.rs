// SPDX-License-Identifier: GPL-2.0

//! Batches that nobody flushes, until they are old.

use core::time::Duration;
use std::thread;

use anyhow::{bail, Context, Result};

use crate::device::Device;
use crate::kernel_module::{self, Unloaded};

/// How much longer than its age a batch may take to be flushed, on the slowest of machines. What counts
/// is how often somebody has looked: a machine that stands still looks at nothing.
const PATIENCE: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Loads the module with a short age, where its file is known, for as long as the result is in scope.
/// With the usual age such tests take longer, and no less is tested.
pub fn with_short_age() -> Result<Option<Unloaded>> {
    if kernel_module::path().is_none() {
        return Ok(None);
    }
    let again = Unloaded::new()?;
    kernel_module::load("max_age_ms=320")?.context("a short age")?;
    Ok(Some(again))
}

/// Waits until no page of `device` is pending any more.
pub fn await_release(device: &Device) -> Result<()> {
    let age = Duration::from_millis(device.describe()?.max_age_ms.into());
    let nr_looks = (age + PATIENCE).as_millis() / BETWEEN_LOOKS.as_millis();
    for _ in 0..nr_looks {
        if device.counters()?.nr_pending == 0 {
            return Ok(());
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    bail!("still pending after {age:?} and more")
}
