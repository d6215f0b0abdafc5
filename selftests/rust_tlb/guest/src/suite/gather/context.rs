// SPDX-License-Identifier: GPL-2.0

//! A gather where it may not be: the kernel has to say so.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};

use crate::abi::{self, strategy};
use crate::complaint;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::selection::Selection;

const COMPLAINT: &str =
    "BUG: sleeping function called from invalid context at mm/rust_tlb/gather.c";

/// With a spinlock held, and with IRQs off.
pub fn a_gather_in_atomic_context_is_reported(_: &Options) -> Result<()> {
    let device = Device::open()?;
    if device.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    let mapping = device.map(1)?;
    let unmap = |flags: u32| {
        mapping.word(0, 0).load(Relaxed);
        device.unmap(&Selection::run(0, 1), strategy::GATHER, flags)?;
        Ok(())
    };
    let nr_without = complaint::expect(COMPLAINT, || unmap(0))?;
    ensure!(
        nr_without == 0,
        "{nr_without} complaints of a gather in process context"
    );
    let nr = complaint::expect(COMPLAINT, || unmap(abi::UNMAP_BREAK_CONTEXT))?;
    ensure!(nr == 2, "{nr} complaints of two gathers");
    Ok(())
}
