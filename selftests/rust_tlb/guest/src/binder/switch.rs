// SPDX-License-Identifier: GPL-2.0

//! How the driver's shrinker unmaps pages: a switch in debugfs, for comparison.

use std::fs;

use anyhow::{Context, Result};

const PATH: &str = "/sys/kernel/debug/rust_binder/shrink";

/// How pages are taken out of the mappings of their processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// One batch for each scan.
    Batched = 0,
    /// A gather and a flush for each page, as before.
    ByPage = 1,
    /// One batch, let go of before its flush: the negative control.
    Unflushed = 2,
}

/// The switch. It goes back to the batch when it goes out of scope.
pub struct Switch(());

impl Switch {
    /// `None` if this kernel's driver has no such switch.
    pub fn open() -> Option<Self> {
        fs::exists(PATH)
            .is_ok_and(|is_there| is_there)
            .then_some(Self(()))
    }

    /// Sets it; false if the kernel cannot do that.
    pub fn set(&self, how: How) -> Result<bool> {
        fs::write(PATH, format!("{}", how as u32)).context(PATH)?;
        let set = fs::read_to_string(PATH).context(PATH)?;
        Ok(set.trim() == format!("{}", how as u32))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.set(How::Batched);
    }
}
