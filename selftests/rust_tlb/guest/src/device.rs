// SPDX-License-Identifier: GPL-2.0

//! `/dev/rust-tlb`: an open file, and its calls as methods.
//!
//! Errors are the kernel's errno, since that is what the ABI promises and what the tests compare.

use core::ffi::c_void;
use core::ptr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::abi;
use crate::arena::Span;
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::progress;
use crate::selection::Selection;

/// The device node.
pub const PATH: &str = "/dev/rust-tlb";

/// An argument that belongs to one ioctl.
///
/// # Safety
///
/// The ioctl `OPCODE` reads and writes a `Self`, and through it no other memory that Rust owns.
pub unsafe trait Argument {
    /// The ioctl.
    const OPCODE: u32;
}

macro_rules! arguments {
    ($($argument:ident => $opcode:ident),* $(,)?) => {
        $(
            // SAFETY: This is what the ABI says about the opcode. `Unmap` holds the address of a
            // list, which is only read. `Move` names mappings of the device, whose words are atomics,
            // and changes what is mapped there, as any other process may.
            unsafe impl Argument for abi::$argument {
                const OPCODE: u32 = abi::$opcode;
            }
        )*
    };
}

arguments! {
    Describe => DESCRIBE,
    Populate => POPULATE,
    Unmap => UNMAP,
    Flush => FLUSH,
    Counters => COUNTERS,
    Accessed => ACCESSED,
    Invalidate => INVALIDATE,
    Setup => SETUP,
    Scope => SCOPE,
    Idle => IDLE,
    Move => MOVE,
}

/// One open file of the device, with its own pages.
pub struct Device {
    file: OwnedFd,
}

impl Device {
    /// Opens the device for reading and writing.
    pub fn open() -> Result<Self, Errno> {
        Self::open_with(OFlags::RDWR)
    }

    /// Opens the device with the given access mode.
    pub fn open_with(access: OFlags) -> Result<Self, Errno> {
        Self::open_at(Path::new(PATH), access)
    }

    /// Opens it by another node.
    pub fn open_at(node: &Path, access: OFlags) -> Result<Self, Errno> {
        let file = rustix::fs::open(node, access | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { file })
    }

    /// The file, for `mmap`.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Maps `nr_pages` from the start of the device, for reading and writing.
    pub fn map(&self, nr_pages: u64) -> Result<Mapping, Errno> {
        Mapping::new(self, 0, nr_pages)
    }

    /// Makes the call that takes `argument`.
    pub fn call<A: Argument>(&self, argument: &mut A) -> Result<(), Errno> {
        // SAFETY: By the contract of `Argument`, the call stays within `argument`, which is
        // borrowed for as long as it lasts.
        unsafe { self.call_at(A::OPCODE, ptr::from_mut(argument).cast()) }
    }

    /// Makes the call `opcode` with `address` as its argument.
    ///
    /// # Safety
    ///
    /// At `address` there is either no memory, or memory that the call may write.
    pub unsafe fn call_at(&self, opcode: u32, address: *mut c_void) -> Result<(), Errno> {
        // SAFETY: The file is open; what is at `address` is the caller's duty.
        let ret = unsafe { libc::ioctl(self.file.as_raw_fd(), opcode.into(), address) };
        progress::step();
        if ret < 0 {
            let error = std::io::Error::last_os_error();
            return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
        }
        Ok(())
    }

    /// Version, limits and strategies.
    pub fn describe(&self) -> Result<abi::Describe, Errno> {
        let mut describe = abi::Describe::default();
        self.call(&mut describe)?;
        Ok(describe)
    }

    /// The module's own counters of this open file.
    pub fn counters(&self) -> Result<abi::Counters, Errno> {
        let mut counters = abi::Counters::default();
        self.call(&mut counters)?;
        Ok(counters)
    }

    /// Populates a run of pages and returns how many of them were missing.
    pub fn populate(&self, first: u64, nr: u64) -> Result<u64, Errno> {
        let mut populate = abi::Populate {
            offset: first * PAGE_SIZE as u64,
            len: nr * PAGE_SIZE as u64,
            ..Default::default()
        };
        self.call(&mut populate)?;
        Ok(populate.nr_allocated)
    }

    /// Unmaps `selection` by `strategy`, with `flags` beyond those that the selection needs.
    pub fn unmap(
        &self,
        selection: &Selection,
        strategy: u32,
        flags: u32,
    ) -> Result<abi::Unmap, Errno> {
        let mut unmap = selection.unmap(strategy, flags);
        self.call(&mut unmap)?;
        Ok(unmap)
    }

    /// Flushes the pending batch.
    pub fn flush(&self) -> Result<abi::Flush, Errno> {
        let mut flush = abi::Flush::default();
        self.call(&mut flush)?;
        Ok(flush)
    }

    /// Reads the Accessed bits of a run of pages, and clears them if `op` says so.
    pub fn accessed(&self, first: u64, nr: u64, op: u32) -> Result<abi::Accessed, Errno> {
        let mut accessed = abi::Accessed {
            offset: first * PAGE_SIZE as u64,
            len: nr * PAGE_SIZE as u64,
            op,
            ..Default::default()
        };
        self.call(&mut accessed)?;
        Ok(accessed)
    }

    /// Flushes a run of pages from the TLBs and leaves it mapped.
    pub fn invalidate(&self, first: u64, nr: u64, strategy: u32) -> Result<u64, Errno> {
        self.invalidate_with(first, nr, strategy, 0)
    }

    /// The same, of the caller's own process alone.
    pub fn invalidate_own(&self, first: u64, nr: u64, strategy: u32) -> Result<u64, Errno> {
        self.invalidate_with(first, nr, strategy, abi::INVALIDATE_CALLER)
    }

    fn invalidate_with(
        &self,
        first: u64,
        nr: u64,
        strategy: u32,
        flags: u32,
    ) -> Result<u64, Errno> {
        let mut invalidate = abi::Invalidate {
            offset: first * PAGE_SIZE as u64,
            len: nr * PAGE_SIZE as u64,
            strategy,
            flags,
            ..Default::default()
        };
        self.call(&mut invalidate)?;
        Ok(invalidate.nr_flush_calls)
    }

    /// Says how the file is to be mapped: `SETUP_*`.
    pub fn setup(&self, flags: u32) -> Result<(), Errno> {
        self.setup_folios(flags, 0)
    }

    /// As [`Device::setup`], with folios of `1 << folio_order` pages.
    pub fn setup_folios(&self, flags: u32, folio_order: u32) -> Result<(), Errno> {
        let mut setup = abi::Setup {
            flags,
            folio_order,
            ..Default::default()
        };
        self.call(&mut setup)
    }

    /// Enters a scope of `strategy`: that of `outer`, if there is one.
    pub fn enter(&self, strategy: u32, outer: Option<&Device>) -> Result<abi::Scope, Errno> {
        let mut scope = abi::Scope {
            op: abi::SCOPE_ENTER,
            strategy,
            outer: outer.map_or(abi::SCOPE_NO_FILE, |outer| outer.file.as_raw_fd()),
            ..Default::default()
        };
        self.call(&mut scope)?;
        Ok(scope)
    }

    /// Leaves a level of a scope.
    pub fn leave(&self) -> Result<abi::Scope, Errno> {
        let mut scope = abi::Scope {
            op: abi::SCOPE_LEAVE,
            outer: abi::SCOPE_NO_FILE,
            ..Default::default()
        };
        self.call(&mut scope)?;
        Ok(scope)
    }

    /// Marks a run of pages as idle, or takes it back into use: `IDLE_*`.
    pub fn idle(&self, first: u64, nr: u64, op: u32) -> Result<abi::Idle, Errno> {
        let mut idle = abi::Idle {
            offset: first * PAGE_SIZE as u64,
            len: nr * PAGE_SIZE as u64,
            op,
            ..Default::default()
        };
        self.call(&mut idle)?;
        Ok(idle)
    }

    /// Moves what is mapped at `old` to `new`, which is as long: `MOVE_*`.
    pub fn move_pages(
        &self,
        old: &Span<'_>,
        new: &Span<'_>,
        flags: u32,
        hold_ms: u32,
    ) -> Result<abi::Move, Errno> {
        let mut argument = abi::Move {
            flags,
            hold_ms,
            old: old.address().addr() as u64,
            new: new.address().addr() as u64,
            len: old.len() as u64,
            ..Default::default()
        };
        self.call(&mut argument)?;
        Ok(argument)
    }

    /// Moves `nr` pages of one mapping, from page `first`, to another one of the same pages.
    pub fn move_part(
        &self,
        old: &Mapping,
        new: &Mapping,
        first: u64,
        nr: u64,
        flags: u32,
    ) -> Result<abi::Move, Errno> {
        let offset = first * PAGE_SIZE as u64;
        let mut argument = abi::Move {
            flags,
            old: old.address().addr() as u64 + offset,
            new: new.address().addr() as u64 + offset,
            len: nr * PAGE_SIZE as u64,
            ..Default::default()
        };
        self.call(&mut argument)?;
        Ok(argument)
    }

    /// Those of `wanted` that this kernel was built with.
    pub fn strategies(&self, wanted: &[u32]) -> Result<Vec<u32>, Errno> {
        let built = self.describe()?.strategies;
        let kept = wanted
            .iter()
            .filter(|&&strategy| built & 1 << strategy != 0);
        Ok(kept.copied().collect())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether strategy `nr` flushes, and has a batch, or defers, if that is wanted.
const fn is_wanted(nr: usize, batches: bool, defers: bool) -> bool {
    let strategy = &abi::strategy::ALL[nr];
    !strategy.is_control && (strategy.batches || !batches) && (strategy.defers || !defers)
}

const fn nr_wanted(batches: bool, defers: bool) -> usize {
    let (mut nr, mut found) = (0, 0);
    while nr < abi::strategy::ALL.len() {
        found += is_wanted(nr, batches, defers) as usize;
        nr += 1;
    }
    found
}

const fn wanted<const N: usize>(batches: bool, defers: bool) -> [u32; N] {
    let (mut all, mut nr, mut found) = ([0; N], 0, 0);
    while found < N {
        if is_wanted(nr, batches, defers) {
            all[found] = nr as u32;
            found += 1;
        }
        nr += 1;
    }
    all
}

/// The strategies that flush.
pub const REAL_STRATEGIES: [u32; nr_wanted(false, false)] = wanted(false, false);
/// Those of them that have a batch.
pub const BATCH_STRATEGIES: [u32; nr_wanted(true, false)] = wanted(true, false);
/// Those of them whose flush may be left to later.
pub const DEFERRING_STRATEGIES: [u32; nr_wanted(true, true)] = wanted(true, true);

/// The name of a strategy.
pub fn strategy_name(strategy: u32) -> &'static str {
    abi::strategy::ALL[strategy as usize].name
}
