// SPDX-License-Identifier: GPL-2.0

//! Sizes of what is mapped, and how it is.

use rustix::mm::ProtFlags;

/// Bytes in a page. The device says the same in [`crate::abi::Describe::page_size`].
pub const PAGE_SIZE: usize = 4096;

/// 64-bit words in a page.
pub const WORDS_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();

/// Pages that one page table maps.
pub const PAGES_PER_TABLE: u64 = (PAGE_SIZE / 8) as u64;

/// Read and write.
pub const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
