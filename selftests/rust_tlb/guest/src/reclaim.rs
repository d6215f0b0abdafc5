// SPDX-License-Identifier: GPL-2.0

//! Memory pressure on demand: every shrinker of the kernel is asked for all it has.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

use crate::device::Device;

const PATH: &str = "/proc/sys/vm/drop_caches";
/// To run the shrinkers.
const SLAB: &[u8] = b"2";
/// To not write to the kernel's log each time.
const QUIET: &[u8] = b"4";

/// The shrinkers of the kernel.
pub struct Shrinkers(File);

impl Shrinkers {
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new().write(true).open(PATH).context(PATH)?;
        file.write_all_at(QUIET, 0)?;
        Ok(Self(file))
    }

    /// Runs all of them once, or more often as long as they find much.
    pub fn run(&self) -> io::Result<()> {
        self.0.write_all_at(SLAB, 0)
    }

    /// Runs them until the device has no idle page left: a shrinker passes over a device that is
    /// busy.
    pub fn take_idle(&self, device: &Device) -> Result<()> {
        const NR_TRIES: usize = 50;
        for _ in 0..NR_TRIES {
            self.run()?;
            if device.counters()?.nr_idle == 0 {
                return Ok(());
            }
        }
        let counters = device.counters()?;
        ensure!(
            counters.nr_idle == 0,
            "after {NR_TRIES} tries: {counters:?}"
        );
        Ok(())
    }
}
