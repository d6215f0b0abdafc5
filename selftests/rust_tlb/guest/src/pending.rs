// SPDX-License-Identifier: GPL-2.0

//! Batches that nobody flushes, until they are old.

use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Context, Result};

use crate::device::Device;
use crate::kernel_module::{self, Unloaded};

/// How much longer than its age a batch may take to be flushed, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(20);

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
    let end = Instant::now() + age + PATIENCE;
    while device.counters()?.nr_pending > 0 {
        ensure!(Instant::now() < end, "still pending after {age:?} and more");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
