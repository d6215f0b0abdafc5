// SPDX-License-Identifier: GPL-2.0

//! A mapped file, which the kernel's own reclaim takes back: when it is told to, or when memory is
//! short.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Context, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{self, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags};

use crate::mapping::{PAGE_SIZE, READ_WRITE};

use super::pages::Pages;

/// A shared mapping of a file without contents. Nothing is ever written to it.
pub struct MappedFile {
    address: *mut c_void,
    nr_pages: u64,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for MappedFile {}
// SAFETY: Shared references read atomics only, and give advice.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps a new file in memory (shmem).
    pub fn in_memory(nr_pages: u64) -> Result<Self> {
        Self::of(fs::memfd_create("bench", MemfdFlags::CLOEXEC)?, nr_pages)
    }

    /// Maps a new file at `path`, which has holes only: to read them costs memory and no I/O.
    pub fn with_holes(path: &str, nr_pages: u64) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file =
            fs::open(path, flags, Mode::RUSR | Mode::WUSR).with_context(|| path.to_string())?;
        Self::of(file, nr_pages)
    }

    fn of(file: OwnedFd, nr_pages: u64) -> Result<Self> {
        let len = nr_pages as usize * PAGE_SIZE;
        fs::ftruncate(&file, len as u64)?;
        let flags = MapFlags::SHARED;
        // SAFETY: A new mapping at an address of the kernel's choice replaces no other.
        let address = unsafe { mm::mmap(ptr::null_mut(), len, READ_WRITE, flags, file, 0) }?;
        Ok(Self { address, nr_pages })
    }

    /// Reads from a page.
    pub fn touch(&self, page: u64) {
        let word: *const AtomicU64 = self.page(page).cast();
        // SAFETY: The page is inside the mapping, which lives as long as `self`.
        unsafe { &*word }.load(Ordering::Relaxed);
    }

    /// Has reclaim take the pages back: run by run, as its interface wants it.
    pub fn page_out(&self, pages: Pages) -> Result<()> {
        let (nr_runs, run) = match pages.stride {
            1 => (1, pages.nr),
            _ => (pages.nr, 1),
        };
        for first in (0..nr_runs).map(|run| run * pages.stride) {
            let len = run as usize * PAGE_SIZE;
            // SAFETY: The mapping is shared, so that the contents come back with the next fault.
            unsafe { mm::madvise(self.page(first), len, Advice::LinuxPageOut) }?;
        }
        Ok(())
    }

    /// How many of the pages are mapped or in the page cache.
    pub fn nr_present(&self, pages: Pages) -> Result<u64> {
        let span = ((pages.nr - 1) * pages.stride + 1) as usize;
        let mut present = vec![0_u8; span];
        let len = span * PAGE_SIZE;
        // SAFETY: One byte per page is written, and the pages are inside the mapping.
        let done = unsafe { libc::mincore(self.page(0).cast(), len, present.as_mut_ptr()) };
        ensure!(done == 0, "mincore: {}", std::io::Error::last_os_error());
        let chosen = present.iter().step_by(pages.stride as usize);
        Ok(chosen.map(|byte| u64::from(byte & 1)).sum())
    }

    fn page(&self, page: u64) -> *mut c_void {
        assert!(page < self.nr_pages);
        self.address.wrapping_byte_add(page as usize * PAGE_SIZE)
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        let len = self.nr_pages as usize * PAGE_SIZE;
        // SAFETY: The mapping is ours, and no reference into it outlives `self`.
        let unmapped: Result<(), Errno> = unsafe { mm::munmap(self.address, len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}
