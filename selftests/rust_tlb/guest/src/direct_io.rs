// SPDX-License-Identifier: GPL-2.0

//! Direct I/O: the kernel pins user pages, and a disk is read into them, or written from them.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::mapping::{Mapping, PAGE_SIZE};

/// A disk in memory: there is one if the kernel has `CONFIG_BLK_DEV_RAM`.
const PATH: &str = "/dev/ram0";

/// The disk, opened so that its contents are never copied to the page cache.
pub struct Disk {
    file: OwnedFd,
}

impl Disk {
    /// Whether there is one.
    pub fn exists() -> bool {
        fs::exists(PATH).unwrap_or(false)
    }

    /// Opens it.
    pub fn open() -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = rustix::fs::open(PATH, flags, Mode::empty())?;
        Ok(Self { file })
    }

    /// Reads from page `place` of the disk into the whole mapping, and returns the pages read.
    pub fn read_into(&self, mapping: &Mapping, place: u64) -> Result<u64, Errno> {
        // SAFETY: The memory is the mapping's, whose words are atomics that may change at any time.
        let nr = unsafe {
            libc::pread(
                self.file.as_raw_fd(),
                mapping.address(),
                mapping.nr_pages() as usize * PAGE_SIZE,
                place as i64 * PAGE_SIZE as i64,
            )
        };
        pages(nr)
    }

    /// Writes the whole mapping to page `place` of the disk, and returns the pages written.
    pub fn write_from(&self, mapping: &Mapping, place: u64) -> Result<u64, Errno> {
        // SAFETY: The memory is the mapping's, and is only read.
        let nr = unsafe {
            libc::pwrite(
                self.file.as_raw_fd(),
                mapping.address(),
                mapping.nr_pages() as usize * PAGE_SIZE,
                place as i64 * PAGE_SIZE as i64,
            )
        };
        pages(nr)
    }
}

fn pages(nr_bytes: isize) -> Result<u64, Errno> {
    match u64::try_from(nr_bytes) {
        Ok(nr) => Ok(nr / PAGE_SIZE as u64),
        Err(_) => {
            let error = std::io::Error::last_os_error();
            Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
    }
}
