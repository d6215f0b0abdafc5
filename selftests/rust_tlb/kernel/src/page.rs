// SPDX-License-Identifier: GPL-2.0

//! As `rust/kernel/page.rs`, for x86-64.

/// A bitwise shift for the page size.
pub const PAGE_SHIFT: usize = 12;

/// The number of bytes in a page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// A bitmask that gives the page containing a given address.
pub const PAGE_MASK: usize = !(PAGE_SIZE - 1);
