// SPDX-License-Identifier: GPL-2.0

//! What the machine's parts are named by.

pub(super) type Cpu = usize;
pub(super) type MmId = usize;
/// A page's number in an address space.
pub(super) type Vpn = usize;
