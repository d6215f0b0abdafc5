// SPDX-License-Identifier: GPL-2.0

//! What debugfs knows about the runs of `mremap()`: how long they may be, and what is broken on
//! purpose. All of it is as before when it goes out of scope.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Instant;

use anyhow::{ensure, Context, Result};

const DEBUGFS: &str = "/sys/kernel/debug/mremap";

/// Entries of a run at most, as the kernel has it.
pub const MAX: u32 = 64;

/// As `enum mremap_fault` in `mm/mremap_run.h`.
pub mod fault {
    pub const HOLD: u32 = 1 << 0;
    pub const STOP_EARLY: u32 = 1 << 1;
    pub const UNLOCK_FIRST: u32 = 1 << 2;
    pub const END_FIRST: u32 = 1 << 3;
    pub const STRIDE_OF_PMD: u32 = 1 << 4;
    pub const ALLOCATE: u32 = 1 << 5;
    pub const UNFLUSHED: u32 = 1 << 6;
}

/// The runs of the kernel, for a test that is alone on the machine.
pub struct Runs(());

impl Runs {
    /// Takes hold of them, as they are without a test, whatever one that was killed has left; [`None`]
    /// if the kernel has none (`CONFIG_MREMAP_BATCH_FLUSH`).
    pub fn take() -> Result<Option<Self>> {
        if !file("run_max").exists() {
            return Ok(None);
        }
        let runs = Self(());
        runs.reset()?;
        Ok(Some(runs))
    }

    fn reset(&self) -> Result<()> {
        if self.can_be_broken() {
            self.set_faults(0)?;
            self.close_window()?;
        }
        self.set_max(MAX)
    }

    /// Whether they can be broken (`CONFIG_RUST_TLB_FAULTS`).
    pub fn can_be_broken(&self) -> bool {
        file("faults").exists()
    }

    /// Bounds their length; below 2, there are none.
    pub fn set_max(&self, max: u32) -> Result<()> {
        set("run_max", max)
    }

    /// Sets the bits of [`fault`].
    pub fn set_faults(&self, faults: u32) -> Result<()> {
        set("faults", faults)
    }

    /// Waits until a run waits.
    pub fn await_window(&self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(40);
        let start = Instant::now();
        while get("window")? == 0 {
            ensure!(start.elapsed() < PATIENCE, "no run waits");
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Whether a run waits still.
    pub fn window_is_open(&self) -> Result<bool> {
        Ok(get("window")? != 0)
    }

    /// Lets a run that waits go on.
    pub fn close_window(&self) -> Result<()> {
        set("window", 0)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        if let Err(error) = self.reset() {
            println!("# mremap stays broken: {error:#}");
        }
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(DEBUGFS).join(name)
}

fn set(name: &str, value: u32) -> Result<()> {
    fs::write(file(name), value.to_string()).with_context(|| name.to_owned())
}

fn get(name: &str) -> Result<u32> {
    let text = fs::read_to_string(file(name)).with_context(|| name.to_owned())?;
    Ok(text.trim().parse()?)
}
