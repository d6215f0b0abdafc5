// SPDX-License-Identifier: GPL-2.0

//! User pages that are pinned for as long as the test wants: registered buffers of an `io_uring`.
//!
//! I/O through them goes to the pages that were mapped when they were registered, whatever is
//! mapped at those addresses by now.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::io_uring::{
    self, io_uring_cqe, io_uring_params, io_uring_ptr, io_uring_sqe, IoringEnterFlags, IoringOp,
    IoringRegisterOp, IoringSetupFlags, IORING_OFF_SQES, IORING_OFF_SQ_RING,
};
use rustix::mm::{self, MapFlags};

use crate::mapping::{Mapping, PAGE_SIZE, READ_WRITE};

/// Whether the kernel can do it.
pub fn is_possible() -> bool {
    Ring::new().is_ok()
}

/// All pages of a mapping, pinned.
pub struct Pinned {
    ring: Ring,
    address: *mut c_void,
    len: usize,
}

impl Pinned {
    /// Pins the pages of `mapping`, and faults those in that are not mapped.
    pub fn new(mapping: &Mapping) -> Result<Self, Errno> {
        let pinned = Self {
            ring: Ring::new()?,
            address: mapping.address(),
            len: mapping.nr_pages() as usize * PAGE_SIZE,
        };
        let buffer = libc::iovec {
            iov_base: pinned.address,
            iov_len: pinned.len,
        };
        pinned
            .ring
            .register(IoringRegisterOp::RegisterBuffers, &raw const buffer, 1)?;
        Ok(pinned)
    }

    /// Reads `file` from its start into the pinned pages, and returns the bytes read.
    pub fn read_from(&self, file: impl AsFd) -> Result<usize, Errno> {
        self.transfer(IoringOp::ReadFixed, file)
    }

    /// Writes the pinned pages to the start of `file`, and returns the bytes written.
    pub fn write_to(&self, file: impl AsFd) -> Result<usize, Errno> {
        self.transfer(IoringOp::WriteFixed, file)
    }

    /// Lets go of the pages; they are free of this pin when it returns.
    pub fn release(self) -> Result<(), Errno> {
        let unregister = IoringRegisterOp::UnregisterBuffers;
        self.ring
            .register(unregister, ptr::null::<libc::iovec>(), 0)
    }

    fn transfer(&self, opcode: IoringOp, file: impl AsFd) -> Result<usize, Errno> {
        let mut request = io_uring_sqe {
            opcode,
            fd: file.as_fd().as_raw_fd(),
            ..Default::default()
        };
        // The only registered buffer is number 0.
        request.addr_or_splice_off_in.addr = io_uring_ptr::new(self.address);
        request.len.len = self.len as u32;
        self.ring.run(request)
    }
}

/// A ring with room for one request.
struct Ring {
    file: OwnedFd,
    params: io_uring_params,
    queues: Area,
    requests: Area,
}

impl Ring {
    fn new() -> Result<Self, Errno> {
        let mut params = io_uring_params::default();
        params.flags = IoringSetupFlags::NO_SQARRAY;
        // SAFETY: No flag makes use of a file descriptor.
        let file = unsafe { io_uring::io_uring_setup(1, &mut params) }?;
        let end =
            params.cq_off.cqes as usize + params.cq_entries as usize * size_of::<io_uring_cqe>();
        let queues = Area::new(&file, IORING_OFF_SQ_RING, end)?;
        let requests = Area::new(&file, IORING_OFF_SQES, size_of::<io_uring_sqe>())?;
        Ok(Self {
            file,
            params,
            queues,
            requests,
        })
    }

    fn register(
        &self,
        what: IoringRegisterOp,
        argument: *const libc::iovec,
        nr: u32,
    ) -> Result<(), Errno> {
        // SAFETY: The argument is a buffer in a device's mapping, or nothing. The kernel may read
        // and write that memory at any time: its words are atomics.
        unsafe { io_uring::io_uring_register(&self.file, what, argument.cast(), nr) }?;
        Ok(())
    }

    /// Makes one request, and waits for its end.
    fn run(&self, request: io_uring_sqe) -> Result<usize, Errno> {
        let tail = self.queues.word(self.params.sq_off.tail);
        // SAFETY: The area has room for one request, and the kernel does not look at it before the
        // tail moves.
        unsafe { self.requests.address.cast::<io_uring_sqe>().write(request) };
        tail.fetch_add(1, Ordering::Release);
        let flags = IoringEnterFlags::GETEVENTS;
        // SAFETY: The request is about a registered buffer.
        unsafe { io_uring::io_uring_enter(&self.file, 1, 1, flags) }?;
        match self.take_result() {
            result @ 0.. => Ok(result as usize),
            error => Err(Errno::from_raw_os_error(-error)),
        }
    }

    /// The result of the request that has ended.
    fn take_result(&self) -> i32 {
        let offsets = &self.params.cq_off;
        let head = self.queues.word(offsets.head);
        assert_ne!(
            head.load(Ordering::Relaxed),
            self.queues.word(offsets.tail).load(Ordering::Acquire),
            "a request that has ended has a result"
        );
        let index = head.load(Ordering::Relaxed) & (self.params.cq_entries - 1);
        let results = self.queues.at(offsets.cqes).cast::<io_uring_cqe>();
        // SAFETY: The result is inside the area, and the kernel leaves it alone until the head moves.
        let result = unsafe { (*results.add(index as usize)).res };
        head.fetch_add(1, Ordering::Release);
        result
    }
}

/// Memory that is shared with the kernel.
struct Area {
    address: *mut c_void,
    len: usize,
}

impl Area {
    fn new(ring: &OwnedFd, offset: u64, len: usize) -> Result<Self, Errno> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: A new mapping at an address of the kernel's choice replaces no other.
        let address = unsafe { mm::mmap(ptr::null_mut(), len, READ_WRITE, flags, ring, offset) }?;
        Ok(Self { address, len })
    }

    fn at(&self, offset: u32) -> *mut c_void {
        assert!((offset as usize) < self.len);
        self.address.wrapping_byte_add(offset as usize)
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: The word is inside the area, which lives as long as `self`, and aligned.
        unsafe { &*self.at(offset).cast() }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { mm::munmap(self.address, self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}
