// SPDX-License-Identifier: GPL-2.0

//! Address space of our own, for memory that is moved about in it.
//!
//! Nothing else is ever mapped there: where nothing of a test's is, there is a reservation. Words are
//! atomics, as those of [`crate::mapping`]; who asks for one knows that memory is mapped there, and
//! an access to anything else faults, and ends the test.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr;
use core::sync::atomic::AtomicU64;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{self, Advice, MapFlags, MremapFlags, ProtFlags};

use crate::page::READ_WRITE;

/// Bytes that one PMD entry maps.
pub const PMD_SIZE: usize = 2 << 20;
/// Bytes that one PUD entry maps.
pub const PUD_SIZE: usize = 1 << 30;

/// Reserved address space, which starts where a PMD table does.
pub struct Arena {
    reserved: *mut c_void,
    len: usize,
}

// SAFETY: The addresses belong to the process, not to a thread.
unsafe impl Send for Arena {}
// SAFETY: Shared references give out atomics, and system calls on addresses that are all ours.
unsafe impl Sync for Arena {}

impl Arena {
    /// Reserves `len` bytes.
    pub fn new(len: usize) -> Result<Self, Errno> {
        let len = len + PUD_SIZE;
        // SAFETY: A new mapping at an address of the kernel's choice replaces no other.
        let reserved = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags)
        }?;
        Ok(Self { reserved, len })
    }

    /// `len` bytes from `offset`, counted from the start of a PMD table.
    pub fn span(&self, offset: usize, len: usize) -> Span<'_> {
        let first = self.reserved.addr().next_multiple_of(PUD_SIZE) - self.reserved.addr();
        assert!(first + offset + len <= self.len);
        Span {
            arena: PhantomData,
            address: self.reserved.wrapping_byte_add(first + offset),
            len,
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: All of it is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { mm::munmap(self.reserved, self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// What is left where memory was moved from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Nothing: a hole, until [`Span::reserve`].
    Nothing,
    /// The mapping, with no pages in it.
    Mapping,
}

/// A part of an arena.
#[derive(Clone, Copy)]
pub struct Span<'a> {
    arena: PhantomData<&'a Arena>,
    address: *mut c_void,
    len: usize,
}

// SAFETY: As for `Arena`, which it borrows.
unsafe impl Send for Span<'_> {}
// SAFETY: As above.
unsafe impl Sync for Span<'_> {}

impl<'a> Span<'a> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn address(&self) -> *mut c_void {
        self.address
    }

    /// A part of it.
    pub fn part(&self, at: usize, len: usize) -> Self {
        assert!(at + len <= self.len);
        Self {
            address: self.address.wrapping_byte_add(at),
            len,
            ..*self
        }
    }

    /// The word at byte `at`.
    pub fn word(&self, at: usize) -> &'a AtomicU64 {
        assert!(at < self.len && at.is_multiple_of(size_of::<u64>()));
        let word: *mut AtomicU64 = self.address.wrapping_byte_add(at).cast();
        // SAFETY: The word is inside the arena, which lives as long as the reference, and aligned; all
        // bit patterns are valid. The caller's memory is mapped there, or the access faults.
        unsafe { &*word }
    }

    /// Maps zeroed memory of this process' own.
    pub fn map_anonymous(&self) -> Result<(), Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: All that it replaces is the arena's.
        unsafe { mm::mmap_anonymous(self.address, self.len, READ_WRITE, flags) }?;
        Ok(())
    }

    /// Maps a file from byte `offset`.
    pub fn map_file(&self, file: &OwnedFd, offset: u64, flags: MapFlags) -> Result<(), Errno> {
        let (file, flags) = (file.as_fd(), flags | MapFlags::FIXED);
        // SAFETY: All that it replaces is the arena's.
        unsafe { mm::mmap(self.address, self.len, READ_WRITE, flags, file, offset) }?;
        Ok(())
    }

    /// Unmaps what is there, and keeps others out.
    pub fn reserve(&self) -> Result<(), Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: All that it replaces is the arena's.
        unsafe { mm::mmap_anonymous(self.address, self.len, ProtFlags::empty(), flags) }?;
        Ok(())
    }

    pub fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: What the pages hold, or whether they are there, is no invariant of anybody's.
        unsafe { mm::madvise(self.address, self.len, advice) }
    }

    /// Moves the memory to `to`, which is as long.
    pub fn move_to(&self, to: &Span<'_>, leave: Leave) -> Result<(), Errno> {
        assert_eq!(self.len, to.len);
        let flags = match leave {
            Leave::Nothing => MremapFlags::MAYMOVE,
            Leave::Mapping => MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP,
        };
        // SAFETY: All that is moved and replaced is the arena's.
        unsafe { mm::mremap_fixed(self.address, self.len, self.len, flags, to.address) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering::Relaxed;

    #[test]
    fn what_is_moved_is_there() {
        let arena = Arena::new(4 * PMD_SIZE).unwrap();
        let (old, new) = (arena.span(0, 4096), arena.span(PMD_SIZE, 4096));
        assert!(arena.span(0, 1).address().addr().is_multiple_of(PUD_SIZE));
        old.map_anonymous().unwrap();
        old.word(8).store(7, Relaxed);
        old.move_to(&new, Leave::Mapping).unwrap();
        assert_eq!(new.word(8).load(Relaxed), 7);
        assert_eq!(old.word(8).load(Relaxed), 0);
        new.move_to(&old, Leave::Nothing).unwrap();
        new.reserve().unwrap();
        assert_eq!(old.word(8).load(Relaxed), 7);
    }
}
