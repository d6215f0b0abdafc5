// SPDX-License-Identifier: GPL-2.0

//! The strategies: what the table in the ABI says of each, and the flush policy behind it.

use crate::abi::strategy::{
    self,
    Strategy, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::tlb::{
        self,
        ringed::Ringed,
        Batch,
        Cpus,
        DriverPage, //
    },
    prelude::*, //
};

/// A batch of any of them.
pub(crate) type BatchOfPages = Batch<DriverPage, tlb::AnyPolicy>;

fn is_built(strategy: &Strategy) -> bool {
    cfg!(CONFIG_RUST_TLB_FAULTS) || !strategy.is_control
}

/// Returns bits `1 << strategy` of the strategies that this kernel was built with.
pub(crate) fn built() -> u32 {
    let all = strategy::ALL.iter().zip(0..);
    let built = all.filter(|(strategy, _)| is_built(strategy));
    built.fold(0, |bits, (_, nr)| bits | 1 << nr)
}

/// Checks that `strategy` exists (else `EINVAL`) and was built (else `EOPNOTSUPP`).
pub(crate) fn known(strategy: u32) -> Result<u32> {
    match strategy::ALL.get(strategy as usize) {
        None => Err(EINVAL),
        Some(row) if !is_built(row) => Err(EOPNOTSUPP),
        Some(_) => Ok(strategy),
    }
}

fn has(strategy: u32, what: impl Fn(&Strategy) -> bool) -> bool {
    strategy::ALL.get(strategy as usize).is_some_and(what)
}

/// Returns whether `strategy` can leave its flush to later.
pub(crate) fn defers(strategy: u32) -> bool {
    has(strategy, |row| row.defers)
}

/// Returns whether `strategy` puts pages into a batch of ours.
pub(crate) fn batches(strategy: u32) -> bool {
    has(strategy, |row| row.batches)
}

/// Returns whether `strategy` breaks a rule.
pub(crate) fn is_control(strategy: u32) -> bool {
    has(strategy, |row| row.is_control)
}

/// Makes the flush policy behind a strategy.
///
/// # Errors
///
/// - `EINVAL` for a strategy that leaves the flush to the core.
/// - `ENOMEM` if there is no memory.
pub(crate) fn policy(strategy: u32) -> Result<KBox<tlb::AnyPolicy>> {
    let cpus = Cpus::new(GFP_KERNEL_ACCOUNT)?;
    Ok(match strategy {
        strategy::PAGE => KBox::new(tlb::PerPage::new(cpus), GFP_KERNEL_ACCOUNT)?,
        strategy::BROADCAST => KBox::new(tlb::Broadcast::new(cpus), GFP_KERNEL_ACCOUNT)?,
        strategy::PRECISE => KBox::new(tlb::Precise::new(cpus), GFP_KERNEL_ACCOUNT)?,
        strategy::RING => {
            let rule = Ringed::new(GFP_KERNEL_ACCOUNT)?;
            KBox::new(tlb::Ringed::with(cpus, rule), GFP_KERNEL_ACCOUNT)?
        }
        strategy::AUTO => {
            let rule = Ringed::auto(GFP_KERNEL_ACCOUNT)?;
            KBox::new(tlb::Ringed::with(cpus, rule), GFP_KERNEL_ACCOUNT)?
        }
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        strategy::NONE => KBox::new(tlb::Unflushed::new(cpus), GFP_KERNEL_ACCOUNT)?,
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        strategy::UNNOTED => KBox::new(
            tlb::Unnoted::new(tlb::unnoted::Unnoted(cpus)),
            GFP_KERNEL_ACCOUNT,
        )?,
        _ => return Err(EINVAL),
    })
}
