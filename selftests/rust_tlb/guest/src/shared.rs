// SPDX-License-Identifier: GPL-2.0

//! Ordinary memory that processes share after a fork.

use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64};

use rustix::io::Errno;
use rustix::mm::{self, MapFlags};

use crate::page::READ_WRITE;

/// What may live in memory that other processes write.
///
/// # Safety
///
/// All bytes zero is a value of the type, and its shared references allow changes from elsewhere.
pub unsafe trait Shareable: Sync {}

// SAFETY: Zero is an integer like any other, and the type is atomic.
unsafe impl Shareable for AtomicU32 {}
// SAFETY: As above.
unsafe impl Shareable for AtomicU64 {}

/// A zeroed slice in anonymous shared memory.
pub struct Shared<T: Shareable> {
    first: NonNull<T>,
    nr: usize,
}

// SAFETY: The memory belongs to the process, and `T` can be shared between threads.
unsafe impl<T: Shareable> Send for Shared<T> {}
// SAFETY: As above.
unsafe impl<T: Shareable> Sync for Shared<T> {}

impl<T: Shareable> Shared<T> {
    /// Maps memory for `nr` values, all zero.
    pub fn new(nr: usize) -> Result<Self, Errno> {
        // SAFETY: A new mapping at an address of the kernel's choice replaces no other.
        let address = unsafe {
            mm::mmap_anonymous(
                ptr::null_mut(),
                bytes::<T>(nr),
                READ_WRITE,
                MapFlags::SHARED,
            )
        }?;
        let first = NonNull::new(address.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { first, nr })
    }
}

impl<T: Shareable> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: The mapping holds `nr` values, is zeroed, which `Shareable` allows, and lives as
        // long as `self`.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.nr) }
    }
}

impl<T: Shareable> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { mm::munmap(self.first.as_ptr().cast(), bytes::<T>(self.nr)) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

fn bytes<T>(nr: usize) -> usize {
    (nr * size_of::<T>()).max(1)
}
