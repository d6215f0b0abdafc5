// SPDX-License-Identifier: GPL-2.0

//! A shared mapping of the device, unmapped when it goes out of scope.
//!
//! Its words are atomics, because other processes and the device change them at any time. Access
//! is checked against the length of the mapping, not against its protection: what is not
//! accessible faults, and ends the test.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::AtomicU64;

use rustix::fd::AsFd;
use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

pub use crate::page::{PAGES_PER_TABLE, PAGE_SIZE, READ_WRITE, WORDS_PER_PAGE};

/// Pages of a device, mapped into this process.
pub struct Mapping {
    address: *mut c_void,
    nr_pages: u64,
    /// As many as are used, or more.
    nr_mapped: u64,
    /// From one page that is used to the next.
    stride: u64,
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: Shared references give out atomics only, and system calls that keep the mapping in place.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `nr_pages` of `device` from page `first`, for reading and writing.
    pub fn new(device: &impl AsFd, first: u64, nr_pages: u64) -> Result<Self, Errno> {
        Self::with(device, first, nr_pages, READ_WRITE, MapFlags::SHARED)
    }

    /// Maps with everything chosen by the caller.
    pub fn with(
        device: &impl AsFd,
        first: u64,
        nr_pages: u64,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, Errno> {
        let (len, offset) = (bytes(nr_pages), first.wrapping_mul(PAGE_SIZE as u64));
        // SAFETY: A new mapping at an address of the kernel's choice replaces no other.
        let address =
            unsafe { mm::mmap(ptr::null_mut(), len, prot, flags, device.as_fd(), offset) }?;
        Ok(Self {
            address,
            nr_pages,
            nr_mapped: nr_pages,
            stride: 1,
        })
    }

    /// Maps `nr_pages` from the start of `device`, at an address that is a multiple of what one page
    /// table maps.
    pub fn of_tables(device: &impl AsFd, nr_pages: u64) -> Result<Self, Errno> {
        Self::aligned(device, nr_pages, PAGES_PER_TABLE)
    }

    /// Maps `nr_pages` from the start of the device, at a multiple of `align` pages.
    pub fn aligned(device: &impl AsFd, nr_pages: u64, align: u64) -> Result<Self, Errno> {
        Self::aligned_from(device, 0, nr_pages, align)
    }

    /// As [`Mapping::aligned`], from page `first` of the device.
    pub fn aligned_from(
        device: &impl AsFd,
        first: u64,
        nr_pages: u64,
        align: u64,
    ) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let (address, offset) = (reserve_aligned(nr_pages, align)?, bytes(first) as u64);
        // SAFETY: What is replaced is the reservation.
        unsafe {
            let file = device.as_fd();
            mm::mmap(address, bytes(nr_pages), READ_WRITE, flags, file, offset)?;
        }
        Ok(Self {
            address,
            nr_pages,
            nr_mapped: nr_pages,
            stride: 1,
        })
    }

    /// As [`Mapping::of_tables`], of memory that is no device's.
    pub fn of_memory(nr_pages: u64) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let address = reserve_aligned(nr_pages, PAGES_PER_TABLE)?;
        // SAFETY: What is replaced is the reservation.
        unsafe { mm::mmap_anonymous(address, bytes(nr_pages), READ_WRITE, flags) }?;
        Ok(Self {
            address,
            nr_pages,
            nr_mapped: nr_pages,
            stride: 1,
        })
    }

    /// Leaves all but the first `nr_pages` alone.
    pub fn only(mut self, nr_pages: u64) -> Self {
        assert!(nr_pages <= self.nr_mapped);
        self.nr_pages = nr_pages;
        self
    }

    /// Uses one page in `stride`, from the first one on.
    pub fn every(mut self, stride: u64) -> Self {
        self.stride = stride;
        self
    }

    /// The numbers of the pages that are used.
    pub fn used(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.nr_pages).step_by(self.stride as usize)
    }

    /// Pages in the mapping, to the last that is used.
    pub fn nr_pages(&self) -> u64 {
        self.nr_pages
    }

    /// The first byte.
    pub fn address(&self) -> *mut c_void {
        self.address
    }

    /// One word of one page, both counted from zero.
    pub fn word(&self, page: u64, index: usize) -> &AtomicU64 {
        assert!(page < self.nr_pages && index < WORDS_PER_PAGE);
        let first: *mut AtomicU64 = self.address.cast();
        // SAFETY: The word is inside the mapping, as was just checked. The mapping lives as long
        // as `self`, is aligned to a page, and all bit patterns are valid.
        unsafe { &*first.add(page as usize * WORDS_PER_PAGE + index) }
    }

    /// Changes the protection of the whole mapping.
    pub fn protect(&self, prot: MprotectFlags) -> Result<(), Errno> {
        self.protect_part(0, self.nr_mapped, prot)
    }

    /// Changes the protection of some pages.
    pub fn protect_part(&self, first: u64, nr: u64, prot: MprotectFlags) -> Result<(), Errno> {
        // SAFETY: The pages stay where they are; accesses that the protection forbids fault.
        unsafe { mm::mprotect(self.part(first, nr), bytes(nr), prot) }
    }

    /// Takes the pages out of this process' page table; the device keeps them.
    pub fn dont_need(&self) -> Result<(), Errno> {
        self.dont_need_part(0, self.nr_mapped)
    }

    /// Takes some pages out of this process' page table; the device keeps them.
    pub fn dont_need_part(&self, first: u64, nr: u64) -> Result<(), Errno> {
        // SAFETY: The mapping is shared, so that the contents come back with the next fault.
        unsafe { mm::madvise(self.part(first, nr), bytes(nr), Advice::LinuxDontNeed) }
    }

    /// Says whether it may be mapped by 2 MiB, as the kernel's setting leaves it to mappings to say.
    pub fn want_huge(&self, wanted: bool) -> Result<(), Errno> {
        let advice = match wanted {
            true => Advice::LinuxHugepage,
            false => Advice::LinuxNoHugepage,
        };
        // SAFETY: It changes no contents.
        unsafe { mm::madvise(self.address, bytes(self.nr_mapped), advice) }
    }

    /// Has the kernel fault a page in as if it was written to, without a write.
    pub fn populate_writable(&self, page: u64) -> Result<(), Errno> {
        // SAFETY: It changes nothing in the page.
        unsafe { mm::madvise(self.part(page, 1), bytes(1), Advice::LinuxPopulateWrite) }
    }

    /// Unmaps all pages and maps them again, in one call: whoever uses them meanwhile waits. The
    /// mapping is one from the start of `device`.
    pub fn renew(&self, device: &impl AsFd) -> Result<(), Errno> {
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: The same pages come to the same place, and nobody finds nothing there: references
        // into the mapping stay good.
        unsafe {
            let len = bytes(self.nr_mapped);
            mm::mmap(self.address, len, READ_WRITE, flags, device.as_fd(), 0)?;
        }
        Ok(())
    }

    /// Puts private memory in the place of all pages, in one call: it reads as zeroes.
    pub fn bury(&self) -> Result<(), Errno> {
        self.bury_part(0, self.nr_mapped)
    }

    /// Puts private memory in the place of some pages, in one call: it reads as zeroes.
    pub fn bury_part(&self, first: u64, nr: u64) -> Result<(), Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: Other memory comes to the same place, and nobody finds nothing there: references
        // into the mapping stay good.
        unsafe { mm::mmap_anonymous(self.part(first, nr), bytes(nr), READ_WRITE, flags)? };
        Ok(())
    }

    /// Unmaps some pages and maps them again. In between the addresses are reserved, so that no
    /// other thread is given them. The mapping is one from the start of `device`.
    pub fn replace(&mut self, device: &impl AsFd, first: u64, nr: u64) -> Result<(), Errno> {
        let (address, len) = (self.part(first, nr), bytes(nr));
        let fixed = MapFlags::FIXED;
        // SAFETY: What is replaced is a part of our own mapping, and no reference into it exists,
        // since `self` is borrowed mutably.
        unsafe {
            let nothing = ProtFlags::empty();
            mm::mmap_anonymous(address, len, nothing, MapFlags::PRIVATE | fixed)?;
            let offset = bytes(first) as u64;
            let (file, flags) = (device.as_fd(), MapFlags::SHARED | fixed);
            mm::mmap(address, len, READ_WRITE, flags, file, offset)?;
        }
        Ok(())
    }

    /// The address of some pages, which are inside the mapping.
    pub fn part(&self, first: u64, nr: u64) -> *mut c_void {
        assert!(first + nr <= self.nr_mapped);
        self.address.wrapping_byte_add(bytes(first))
    }

    /// Moves the mapping to another place, which the kernel finds.
    pub fn relocate(&mut self) -> Result<(), Errno> {
        let len = bytes(self.nr_mapped);
        // SAFETY: An anonymous mapping at an address of the kernel's choice replaces no other.
        let place = unsafe {
            mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE)
        }?;
        // SAFETY: No reference into the mapping exists, since `self` is borrowed mutably, and the
        // place is our own reservation, so that moving onto it destroys nothing else.
        self.address =
            unsafe { mm::mremap_fixed(self.address, len, len, MremapFlags::MAYMOVE, place) }?;
        Ok(())
    }

    /// Moves the mapping to another place, at a multiple of `align` pages, as it was before: so
    /// tables of that size can be moved themselves.
    pub fn relocate_aligned(&mut self, align: u64) -> Result<(), Errno> {
        let len = bytes(self.nr_mapped);
        let place = reserve_aligned(self.nr_mapped, align)?;
        // SAFETY: As for `relocate`.
        self.address =
            unsafe { mm::mremap_fixed(self.address, len, len, MremapFlags::MAYMOVE, place) }?;
        Ok(())
    }

    /// Moves the mapping to another place, one page behind a multiple of `align` pages: no table of that
    /// size can be moved itself.
    pub fn relocate_askew(&mut self, align: u64) -> Result<(), Errno> {
        let len = bytes(self.nr_mapped);
        let room = reserve_aligned(self.nr_mapped + 1, align)?;
        let place = room.wrapping_byte_add(bytes(1));
        // SAFETY: As for `relocate`. What is before the place is the reservation.
        unsafe {
            self.address = mm::mremap_fixed(self.address, len, len, MremapFlags::MAYMOVE, place)?;
            mm::munmap(room, bytes(1))
        }
    }

    /// Tries to map the same pages a second time, elsewhere: `mremap()` of an old length of 0.
    pub fn double(&self) -> Result<(), Errno> {
        // SAFETY: Nothing that is mapped is unmapped or moved.
        unsafe { mm::mremap(self.address, 0, bytes(self.nr_pages), MremapFlags::MAYMOVE) }?;
        Ok(())
    }

    /// Tries to make the mapping longer, where it is or elsewhere.
    pub fn grow(&mut self, nr_pages: u64) -> Result<(), Errno> {
        let (old, new) = (bytes(self.nr_mapped), bytes(nr_pages));
        // SAFETY: No reference into the mapping exists, since `self` is borrowed mutably.
        self.address = unsafe { mm::mremap(self.address, old, new, MremapFlags::MAYMOVE) }?;
        (self.nr_pages, self.nr_mapped) = (nr_pages, nr_pages);
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { mm::munmap(self.address, bytes(self.nr_mapped)) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Reserves addresses that begin at a multiple of `align` pages.
fn reserve_aligned(nr_pages: u64, align: u64) -> Result<*mut c_void, Errno> {
    let (len, align) = (bytes(nr_pages), bytes(align));
    let nothing = ProtFlags::empty();
    // SAFETY: A reservation at an address of the kernel's choice replaces no other; what is too much
    // at both its ends is given back.
    unsafe {
        let room = mm::mmap_anonymous(ptr::null_mut(), len + align, nothing, MapFlags::PRIVATE)?;
        let before = room.align_offset(align);
        let address = room.wrapping_byte_add(before);
        if before > 0 {
            mm::munmap(room, before)?;
        }
        mm::munmap(address.wrapping_byte_add(len), align - before)?;
        Ok(address)
    }
}

fn bytes(nr_pages: u64) -> usize {
    nr_pages as usize * PAGE_SIZE
}
