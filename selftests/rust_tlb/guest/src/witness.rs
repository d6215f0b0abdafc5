// SPDX-License-Identifier: GPL-2.0

//! A page by which a thread tells whether its TLB was emptied by something that it has no part in:
//! somebody else on its CPU, a flush of everything, a host that took the CPU away.
//!
//! Nothing unmaps it. Who has to walk for it leaves its Accessed bit behind.

use core::sync::atomic::Ordering;

use anyhow::{ensure, Result};

use crate::abi;
use crate::device::Device;
use crate::mapping::Mapping;

/// The page, of a device of its own.
pub struct Witness {
    device: Device,
    mapping: Mapping,
}

impl Witness {
    /// Maps it, also for processes that are forked from now on.
    pub fn new() -> Result<Self> {
        let device = Device::open()?;
        let mapping = device.map(1)?;
        mapping.word(0, 0).store(1, Ordering::Relaxed);
        Ok(Self { device, mapping })
    }

    /// For the thread that has to keep what it has in its TLB, and for no other: looks at the page.
    pub fn look(&self) {
        self.mapping.word(0, 0).load(Ordering::Acquire);
    }

    /// From now on the thread is to keep it; it has looked just now.
    pub fn expect(&self) -> Result<()> {
        self.device.accessed(0, 1, abi::ACCESSED_CLEAR)?;
        Ok(())
    }

    /// Whether the page was in the TLB each time that the thread has looked since.
    pub fn is_kept(&self) -> Result<bool> {
        let bits = self.device.accessed(0, 1, abi::ACCESSED_READ)?;
        ensure!(bits.mapped == 1, "{bits:?}");
        Ok(bits.accessed == 0)
    }
}
