// SPDX-License-Identifier: GPL-2.0

//! One open file of the driver, and the memory in which it puts what others send.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::AtomicU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{mmap, MapFlags, ProtFlags};

use super::wire::{self, Commands, Said, Transaction, WriteRead};
use crate::mapping::PAGE_SIZE;
use crate::progress;

/// Enough for what the driver says at one time.
const READ_LEN_BYTES: usize = 512;

/// An open file of the driver. It belongs to the process that opened it.
pub struct Endpoint {
    file: OwnedFd,
    memory: *mut c_void,
    len_bytes: usize,
}

// SAFETY: The memory stays mapped until the process ends, and is only read.
unsafe impl Sync for Endpoint {}

impl Endpoint {
    /// Opens `device`, with `nr_pages` to receive in.
    pub fn open(device: &Path, nr_pages: usize) -> Result<Self> {
        let file = rustix::fs::open(device, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| device.display().to_string())?;
        let len_bytes = nr_pages * PAGE_SIZE;
        // SAFETY: A new mapping, where the kernel likes.
        let memory = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mmap(ptr::null_mut(), len_bytes, ProtFlags::READ, flags, &file, 0)
        }?;
        Ok(Self {
            file,
            memory,
            len_bytes,
        })
    }

    /// Makes this file the one that all others in its binderfs talk to.
    pub fn become_service(&self) -> Result<()> {
        let mut zero = 0_u32;
        // SAFETY: The call reads a word.
        unsafe { self.ioctl(wire::SET_CONTEXT_MGR, ptr::from_mut(&mut zero).cast()) }?;
        self.write_read(&Commands::default().plain(wire::BC_ENTER_LOOPER), false)?;
        Ok(())
    }

    /// Calls the service and waits for its answer.
    pub fn call(&self, code: u32, data: &[u8]) -> Result<Buffer<'_>> {
        let transaction = Transaction::carrying(code, data);
        let commands = Commands::default().transaction(wire::BC_TRANSACTION, &transaction);
        let mut said = self.write_read(&commands, true)?;
        loop {
            for one in said {
                match one {
                    Said::Reply(reply) => {
                        progress::step();
                        return self.buffer(reply);
                    }
                    Said::Taken => {}
                    Said::Transaction(_) => bail!("a client is called"),
                    Said::Lost => bail!("the call was lost"),
                }
            }
            said = self.write_read(&Commands::default(), true)?;
        }
    }

    /// Answers calls, each with what `answer` makes of its code and data, until the file is dead.
    /// Who has died meanwhile misses the answer.
    pub fn serve(&self, mut answer: impl FnMut(u32, &[u8]) -> Vec<u8>) -> Result<()> {
        let mut commands = Commands::default();
        // What the commands point to, until the driver has taken them.
        let mut _kept = Vec::new();
        loop {
            let said = self.write_read(&commands, true)?;
            commands = Commands::default();
            for one in said {
                let Said::Transaction(call) = one else {
                    continue;
                };
                let buffer = self.buffer(call)?;
                let reply = answer(call.code, buffer.bytes());
                core::mem::forget(buffer);
                let transaction = Transaction::carrying(0, &reply);
                commands = commands
                    .word(wire::BC_FREE_BUFFER, call.buffer)
                    .transaction(wire::BC_REPLY, &transaction);
                _kept = reply;
            }
        }
    }

    /// A word of the memory that the driver fills, mapped or not.
    ///
    /// # Safety
    ///
    /// To read it where no page is, is a fault that nobody handles.
    pub unsafe fn word(&self, page: usize) -> &AtomicU64 {
        assert!(page < self.len_bytes / PAGE_SIZE);
        // SAFETY: It is inside the memory, which stays mapped.
        unsafe { &*self.memory.byte_add(page * PAGE_SIZE).cast() }
    }

    /// Where the memory begins.
    pub fn address(&self) -> usize {
        self.memory.addr()
    }

    fn buffer(&self, transaction: Transaction) -> Result<Buffer<'_>> {
        let start = transaction.buffer.wrapping_sub(self.memory as u64);
        let len_bytes = transaction.data_len_bytes;
        let fits = start
            .checked_add(len_bytes)
            .is_some_and(|end| end <= self.len_bytes as u64);
        ensure!(fits, "a buffer outside the memory: {transaction:?}");
        Ok(Buffer {
            endpoint: self,
            start: start as usize,
            len_bytes: len_bytes as usize,
        })
    }

    fn write_read(&self, commands: &Commands, waits: bool) -> Result<Vec<Said>> {
        let mut read = [0_u8; READ_LEN_BYTES];
        let mut argument = WriteRead {
            write_size: commands.bytes().len() as u64,
            write_buffer: commands.bytes().as_ptr() as u64,
            read_size: if waits { read.len() as u64 } else { 0 },
            read_buffer: read.as_mut_ptr() as u64,
            ..WriteRead::default()
        };
        loop {
            // SAFETY: The call reads `commands` and what they point to, and writes to `read` and
            // to its argument.
            match unsafe { self.ioctl(wire::WRITE_READ, ptr::from_mut(&mut argument).cast()) } {
                Ok(()) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context("BINDER_WRITE_READ"),
            }
        }
        wire::parse(&read[..argument.read_consumed as usize])
    }

    /// # Safety
    ///
    /// The call must stay within what `argument` points to.
    unsafe fn ioctl(&self, opcode: u32, argument: *mut c_void) -> Result<(), Errno> {
        // SAFETY: The file is open; the argument is the caller's duty.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), opcode.into(), argument) } {
            0.. => Ok(()),
            _ => {
                let error = std::io::Error::last_os_error();
                Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
        }
    }
}

/// What somebody sent, until it is dropped: then its pages may go to the shrinker.
pub struct Buffer<'e> {
    endpoint: &'e Endpoint,
    start: usize,
    len_bytes: usize,
}

impl Buffer<'_> {
    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: The driver maps these pages, and does not write to them, until the buffer is
        // given back.
        unsafe {
            let start = self.endpoint.memory.byte_add(self.start);
            core::slice::from_raw_parts(start.cast(), self.len_bytes)
        }
    }

    /// The first page of the endpoint's memory that it fills as a whole.
    pub fn first_page(&self) -> usize {
        self.start.div_ceil(PAGE_SIZE)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let address = self.endpoint.memory.addr() + self.start;
        let commands = Commands::default().word(wire::BC_FREE_BUFFER, address as u64);
        // Fails for a dead file only, whose buffers are gone.
        let _ = self.endpoint.write_read(&commands, false);
    }
}
