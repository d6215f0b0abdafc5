// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ABI of `/dev/rust-tlb`: ioctl numbers, structures and constants.
//!
//! One source, compiled into the module and into the user-space selftests, so that the two cannot
//! drift apart. It uses `core` only. Every structure has a fixed size on every architecture, is
//! free of implicit padding, and keeps its reserved fields zero: the device refuses non-zero
//! reserved fields and unknown flags with `EINVAL`, so that they can be given a meaning later.
//!
//! Errors that every call can return: `ENOTTY` (no such ioctl), `EFAULT` (a pointer that cannot be
//! read or written), `EINVAL` (unknown flag or strategy, non-zero reserved field, an offset, length
//! or stride that is not a multiple of the page size, an empty range), `ENXIO` (a range that ends
//! behind the device), `E2BIG` (more pages named in one call than `max_list`), `ENOMEM`. Flags that do
//! not go together are `EINVAL`, too.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the module and the selftests each use their own part, at their own visibility"
)]

use core::mem::size_of;
#[cfg(CONFIG_RUST_TLB)]
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// Version of this ABI, returned by [`DESCRIBE`].
pub const VERSION: u32 = 2;

/// ioctl type: shared by the samples (`Documentation/userspace-api/ioctl/ioctl-number.rst`).
pub const IOCTL_TYPE: u32 = b'|' as u32;

const IOC_READ: u32 = 2;
const IOC_WRITE: u32 = 1;

const fn ioc<T>(dir: u32, nr: u32) -> u32 {
    (dir << 30) | ((size_of::<T>() as u32) << 16) | (IOCTL_TYPE << 8) | nr
}

/// Describes the device: a [`Describe`] is written.
pub const DESCRIBE: u32 = ioc::<Describe>(IOC_READ, 0x90);
/// Allocates pages for a range of the device: takes and returns a [`Populate`].
pub const POPULATE: u32 = ioc::<Populate>(IOC_READ | IOC_WRITE, 0x91);
/// Unmaps pages from every process that maps them: takes and returns an [`Unmap`].
pub const UNMAP: u32 = ioc::<Unmap>(IOC_READ | IOC_WRITE, 0x92);
/// Flushes the pending batch of this open file, if there is one: takes and returns a [`Flush`].
pub const FLUSH: u32 = ioc::<Flush>(IOC_READ | IOC_WRITE, 0x93);
/// Counters of this open file since it was opened: a [`Counters`] is written.
pub const COUNTERS: u32 = ioc::<Counters>(IOC_READ, 0x94);
/// Reads, or clears without a flush, the Accessed bits of a range: takes and returns an
/// [`Accessed`].
pub const ACCESSED: u32 = ioc::<Accessed>(IOC_READ | IOC_WRITE, 0x95);
/// Flushes a range from the TLBs and leaves it mapped: takes and returns an [`Invalidate`].
pub const INVALIDATE: u32 = ioc::<Invalidate>(IOC_READ | IOC_WRITE, 0x96);
/// Says how this open file is to be mapped, before it is: takes a [`Setup`].
pub const SETUP: u32 = ioc::<Setup>(IOC_WRITE, 0x97);
/// Enters or leaves a scope, in which unmaps share one flush: takes and returns a [`Scope`].
pub const SCOPE: u32 = ioc::<Scope>(IOC_READ | IOC_WRITE, 0x98);
/// Marks pages as idle, or takes them back into use: takes and returns an [`Idle`].
pub const IDLE: u32 = ioc::<Idle>(IOC_READ | IOC_WRITE, 0x99);
/// Moves what one mapping of this open file maps to another one: takes and returns a [`Move`].
pub const MOVE: u32 = ioc::<Move>(IOC_READ | IOC_WRITE, 0x9a);

/// How [`UNMAP`] takes pages out of the page tables, and when it flushes.
pub mod strategy {
    /// Clear a PTE, flush that page, next PTE: Linux before 2015. One round per page and mm.
    pub const PAGE: u32 = 0;
    /// `zap_vma_range()` per page: what Rust Binder does, and SGX by `zap_special_vma_range()`. One
    /// gather, one round per page and VMA.
    pub const ZAP: u32 = 1;
    /// `unmap_mapping_pages()` per contiguous run: one gather, one round per run and VMA.
    pub const UNMAP_MAPPING: u32 = 2;
    /// Clear all PTEs in all mms, then one full flush for all CPUs that run any of them.
    pub const BROADCAST: u32 = 3;
    /// Clear all PTEs in all mms, then one flush per mm, ranged if its pages are near each other;
    /// or one full flush for all, where that is better.
    pub const PRECISE: u32 = 4;
    /// Clear, and do not flush: the negative control. Only with `CONFIG_RUST_TLB_FAULTS`.
    pub const NONE: u32 = 5;
    /// As [`BROADCAST`], but mprotect, munmap, mremap and madvise are not told that a flush is
    /// owed: a negative control. Only with `CONFIG_RUST_TLB_FAULTS`.
    pub const UNNOTED: u32 = 6;

    /// Clear all PTEs in all mms, then one round for all, in which each CPU invalidates what was
    /// cleared in the mm that it runs, as far as the kernel's ceiling. An mm without a ring of
    /// flushes ([`super::SETUP_RING`]) is flushed in full, in the same round.
    pub const RING: u32 = 7;
    /// As [`RING`], but above a few pages per mm everything is flushed: what is cheaper.
    pub const AUTO: u32 = 8;
    /// The kernel's own gather, one per mm: all VMAs of it, then one flush. Empty page tables go
    /// with a run that covers them, if [`SETUP_FREE_TABLES`](super::SETUP_FREE_TABLES) says so.
    pub const GATHER: u32 = 9;

    /// What a strategy is.
    pub struct Strategy {
        /// Its name.
        pub name: &'static str,
        /// Pages go into a batch, so that their contents can be saved, and that they can be
        /// unmapped in two phases.
        pub batches: bool,
        /// The flush may be left to later.
        pub defers: bool,
        /// It breaks a rule: only with `CONFIG_RUST_TLB_FAULTS`.
        pub is_control: bool,
    }

    impl Strategy {
        /// One that leaves pages and flushes to the core.
        const fn core(name: &'static str) -> Self {
            Self {
                name,
                batches: false,
                defers: false,
                is_control: false,
            }
        }

        /// One with a batch.
        const fn batch(name: &'static str) -> Self {
            Self {
                batches: true,
                ..Self::core(name)
            }
        }

        /// One with a batch that may stay for a while.
        const fn deferring(name: &'static str) -> Self {
            Self {
                defers: true,
                ..Self::batch(name)
            }
        }

        /// One that breaks a rule.
        const fn control(name: &'static str) -> Self {
            Self {
                is_control: true,
                ..Self::deferring(name)
            }
        }
    }

    /// Number of strategies known to this version, each below it.
    pub const NR: u32 = ALL.len() as u32;
    /// All of them, by number. A new one has a row here, and its policy in the device's
    /// `strategy.rs`.
    pub const ALL: [Strategy; 10] = [
        Strategy::batch("page"),
        Strategy::core("zap"),
        Strategy::core("unmap_mapping"),
        Strategy::deferring("broadcast"),
        Strategy::deferring("precise"),
        Strategy::control("none"),
        Strategy::control("unnoted"),
        Strategy::deferring("ring"),
        Strategy::deferring("auto"),
        Strategy::core("gather"),
    ];
}

/// Contents of a page after it was unmapped and flushed: this 64-bit word, over and over.
pub const POISON: u64 = 0xdead_7ab1_dead_7ab1;

/// What [`DESCRIBE`] returns.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Describe {
    /// [`VERSION`] of the running module.
    pub version: u32,
    /// Bytes in a page.
    pub page_size: u32,
    /// Pages of this open file: `mmap` beyond them fails with `ENXIO`.
    pub nr_pages: u64,
    /// Most pages that one call takes; more is `E2BIG`.
    pub max_list: u32,
    /// Bit `1 << strategy` is set for each strategy that [`UNMAP`] accepts.
    pub strategies: u32,
    /// Most pages that may be pending in a deferred batch before it is flushed by itself.
    pub max_pending: u32,
    /// Milliseconds after which a deferred batch is flushed by itself.
    pub max_age_ms: u32,
    /// Zero.
    pub reserved: [u32; 4],
}

/// Argument of [`POPULATE`]: allocates and zeroes what is missing in the range, and brings saved
/// contents back. A later fault then maps the page and allocates none. A signal interrupts it
/// (`EINTR`, unless it is restarted): what was populated so far stays, and does not count again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Populate {
    /// In: first byte, a multiple of the page size.
    pub offset: u64,
    /// In: bytes, a multiple of the page size, not zero.
    pub len: u64,
    /// In: no flags are defined, zero.
    pub flags: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: pages that were allocated or brought back; pages that were there already do not count.
    pub nr_allocated: u64,
}

/// [`Unmap::flags`]: take the pages from [`Unmap::list`] instead of offset, length and stride.
pub const UNMAP_LIST: u32 = 1 << 0;
/// [`Unmap::flags`]: return with the flush still owed. Only for [`strategy::BROADCAST`],
/// [`strategy::PRECISE`], [`strategy::RING`], [`strategy::AUTO`] and the negative controls. The
/// batch is flushed by [`FLUSH`], by a fault on one of its pages, or [`POPULATE`] of it, by a later
/// unmap by another strategy, without this flag, or with another choice of [`UNMAP_FREE`] and
/// [`UNMAP_WRITE_BACK`], when it is full ([`Describe::max_pending`]) or old
/// ([`Describe::max_age_ms`]), under memory pressure, and at the last close. More than
/// [`Describe::max_pending`] pages in one call is `E2BIG`. In a [`SCOPE`] it goes without saying.
///
/// If a leaf was cleared ([`SETUP_HUGE`]), what is owed by then is flushed before this returns, and
/// counts in [`Unmap::nr_flush_calls`]; the pages stay in the batch all the same.
pub const UNMAP_DEFER: u32 = 1 << 1;
/// [`Unmap::flags`]: free the pages instead of keeping them in the device's pool.
pub const UNMAP_FREE: u32 = 1 << 2;

/// [`Unmap::flags`]: save the contents before the page is released; the next fault brings them back
/// instead of a zeroed page. Only for strategies with a batch, not [`strategy::ZAP`],
/// [`strategy::UNMAP_MAPPING`] and [`strategy::GATHER`]. A page that someone else holds a reference
/// to, or that there is no memory to save, is kept: the next fault maps it again.
pub const UNMAP_WRITE_BACK: u32 = 1 << 3;
/// [`Unmap::flags`]: do not trust the CPU to fault on a write through a stale translation that was
/// writable and clean: write-protect those PTEs, flush, unmap, flush. Read-only and dirty PTEs are
/// unmapped at once. Without it, the device trusts the architecture, as Linux does. Only for
/// strategies with a batch.
pub const UNMAP_TWO_PHASE: u32 = 1 << 4;
/// [`Unmap::flags`]: with [`SETUP_FREE_TABLES`], look at page tables whatever the device knows of the
/// pages that they show. That breaks no rule: none of those below can hide behind it then. Together
/// with [`UNMAP_BREAK_TABLES_LOCK`] only with [`SETUP_PFNMAP`]: `EINVAL`.
/// This one and those below are `EOPNOTSUPP` without `CONFIG_RUST_TLB_FAULTS`, and only for
/// strategies with a batch.
pub const UNMAP_BREAK_TABLES_HINT: u32 = 1 << 22;
/// [`Unmap::flags`]: flush a page of what a table maps: a negative control.
pub const UNMAP_BREAK_TABLES_RANGE: u32 = 1 << 23;
/// [`Unmap::flags`]: do not try the `mmap_lock`.
pub const UNMAP_BREAK_TABLES_LOCK: u32 = 1 << 24;
/// [`Unmap::flags`]: do not look whether a table is empty. Only with [`SETUP_PFNMAP`]: `EINVAL`.
pub const UNMAP_BREAK_TABLES_RECHECK: u32 = 1 << 25;
/// [`Unmap::flags`]: do not tell others that a table waits for its flush.
pub const UNMAP_BREAK_TABLES_PENDING: u32 = 1 << 26;
/// [`Unmap::flags`]: do not ask CPUs in lazy mode to flush.
pub const UNMAP_BREAK_TABLES_LAZY: u32 = 1 << 27;
/// [`Unmap::flags`]: with [`UNMAP_DEFER`] (else `EINVAL`), leave the flush of leaves to later, too
/// ([`SETUP_HUGE`]): a negative control. `EOPNOTSUPP` without `CONFIG_RUST_TLB_FAULTS`.
pub const UNMAP_BREAK_LEAVES: u32 = 1 << 28;
/// [`Unmap::flags`]: open a gather with a spinlock held, and another one with IRQs off, where it
/// may not be: a negative control. Nothing is zapped under them. `EOPNOTSUPP` without
/// `CONFIG_RUST_TLB_FAULTS`. Only for [`strategy::GATHER`].
pub const UNMAP_BREAK_CONTEXT: u32 = 1 << 29;
/// [`Unmap::flags`]: release the pages before the flush: a negative control. `EOPNOTSUPP` without
/// `CONFIG_RUST_TLB_FAULTS`. Only for [`strategy::BROADCAST`], [`strategy::PRECISE`],
/// [`strategy::RING`] and [`strategy::AUTO`], and not with [`UNMAP_WRITE_BACK`].
pub const UNMAP_BREAK_RELEASE: u32 = 1 << 30;
/// [`Unmap::flags`]: with [`UNMAP_WRITE_BACK`], save the contents without the flush that has to
/// come first: a negative control. `EOPNOTSUPP` without `CONFIG_RUST_TLB_FAULTS`.
pub const UNMAP_BREAK_WRITE_BACK: u32 = 1 << 31;

/// Argument of [`UNMAP`]. A leaf ([`SETUP_HUGE`]) is cleared if any of its pages is taken; the others
/// stay, and are mapped again by the next fault. After it returned without [`UNMAP_DEFER`], no CPU can reach the pages
/// through the mapping any more; each is poisoned with [`POISON`] (unless someone else, such as a
/// GUP user, still holds a reference to it), and goes back to the pool or is freed. Pages of the
/// range that are not populated are passed over, and so are saved contents.
///
/// Errors: `EINTR`: the caller is being killed, and not all mappings were gone through. What was
/// cleared is flushed, and all pages of this call stay. Only strategies with a batch end so.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Unmap {
    /// In: `UNMAP_*`.
    pub flags: u32,
    /// In: one of [`strategy`]; `EOPNOTSUPP` for one that this kernel was not built with.
    pub strategy: u32,
    /// In: first byte, a multiple of the page size; zero with [`UNMAP_LIST`].
    pub offset: u64,
    /// In: bytes, a multiple of the page size; zero with [`UNMAP_LIST`].
    pub len: u64,
    /// In: bytes from one page to the next, a multiple of the page size; zero means one page, and
    /// is required with [`UNMAP_LIST`].
    pub stride: u64,
    /// In: address of `nr_list` page offsets (`u64`, in pages) in any order; the same page twice
    /// is `EINVAL`. Zero without [`UNMAP_LIST`].
    pub list: u64,
    /// In: entries in the list; zero without [`UNMAP_LIST`].
    pub nr_list: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: pages taken from the device.
    pub nr_pages: u64,
    /// Out: PTEs cleared by the walk, where a leaf counts as one; zero for `zap`, `unmap_mapping` and
    /// `gather`, where the core clears them.
    pub nr_ptes: u64,
    /// Out: address spaces in which PTEs were cleared, in this call and in earlier ones of the same
    /// batch, at most 16 are told apart; zero for `zap`, `unmap_mapping` and `gather`.
    pub nr_mms: u64,
    /// Out: calls into the kernel's flush functions made by this call. For `zap`, `unmap_mapping`
    /// and `gather`: calls that flush where there is something to flush.
    pub nr_flush_calls: u64,
    /// Out: pages whose contents were saved.
    pub nr_written_back: u64,
    /// Out: PTEs that were write-protected first ([`UNMAP_TWO_PHASE`]).
    pub nr_protected: u64,
    /// Out: PTEs that were written to between the phases ([`UNMAP_TWO_PHASE`]).
    pub nr_redirtied: u64,
    /// Zero.
    pub reserved2: [u64; 2],
}

/// Argument of [`FLUSH`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Flush {
    /// In: no flags are defined, zero.
    pub flags: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: pages released by the flush.
    pub nr_pages: u64,
    /// Out: calls into the kernel's flush functions.
    pub nr_flush_calls: u64,
}

/// What [`COUNTERS`] returns: sums over the life of the open file. They are the module's own view;
/// rounds and IPIs are the kernel's to count (`/proc/vmstat`, `/proc/interrupts`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Counters {
    /// Faults handled.
    pub nr_faults: u64,
    /// Faults that found their page in a pending batch and flushed it first.
    pub nr_pending_hits: u64,
    /// Pages unmapped, by whatever strategy.
    pub nr_unmapped: u64,
    /// PTEs cleared by our own walk.
    pub nr_ptes: u64,
    /// Batches flushed.
    pub nr_batches: u64,
    /// Calls into the kernel's flush functions.
    pub nr_flush_calls: u64,
    /// Pages that went back to the pool.
    pub nr_recycled: u64,
    /// Pages that were freed after the flush.
    pub nr_freed: u64,
    /// Pages given up unpoisoned, because someone else still held a reference, or because they have
    /// gone bad.
    pub nr_shared: u64,
    /// Pages that the device holds now: mapped, populated, pending or in the pool.
    pub nr_pages_held: u64,
    /// Pages of the pool whose poison was overwritten since they were released: someone wrote
    /// through a stale translation. Checked when a page is taken from the pool, and by this call.
    pub nr_stale_writes: u64,
    /// Pages whose flush is owed.
    pub nr_pending: u64,
    /// Writes to pages that were clean ([`SETUP_NOTIFY`]).
    pub nr_mkwrites: u64,
    /// PTEs that were written to between two phases.
    pub nr_redirtied: u64,
    /// Pages marked idle.
    pub nr_idle: u64,
    /// Pages that memory pressure took: idle ones, and those of the pool.
    pub nr_reclaimed: u64,
    /// Times that memory pressure took idle pages. Each is one batch.
    pub nr_scans: u64,
    /// Deferred batches flushed because they were full, ...
    pub nr_flushed_full: u64,
    /// ... too old, ...
    pub nr_flushed_old: u64,
    /// ... or because memory was short.
    pub nr_flushed_pressure: u64,
    /// Mappings that `mremap` moved, ...
    pub nr_moves: u64,
    /// ... and their pages, whether they were there or not.
    pub nr_moved_pages: u64,
    /// Page tables that were empty after an unmap, and were freed with its flush
    /// ([`SETUP_FREE_TABLES`]); not those that a gather frees.
    pub nr_tables_freed: u64,
    /// Page tables that were looked at, and mapped something.
    pub nr_tables_used: u64,
    /// Page tables that stayed, because someone changed the mappings of their process.
    pub nr_tables_busy: u64,
    /// Parts of the file, as long as a page table, that were marked for later
    /// ([`SETUP_FREE_TABLES_LATER`]).
    pub nr_tables_later: u64,
    /// Faults that mapped as a whole what a page table maps ([`SETUP_HUGE`]); not in `nr_faults`.
    pub nr_huge_faults: u64,
    /// Zero.
    pub reserved: [u64; 5],
}

/// [`Accessed::op`]: read the Accessed bits.
pub const ACCESSED_READ: u32 = 0;
/// [`Accessed::op`]: read and clear the Accessed bits, without a TLB flush.
pub const ACCESSED_CLEAR: u32 = 1;
/// Most pages that one [`ACCESSED`] call takes; more is `E2BIG`.
pub const ACCESSED_MAX_PAGES: u64 = 64;

/// Argument of [`ACCESSED`]: the residency probe. A bit that stays clear although a CPU touched the
/// page says that the CPU had the translation in its TLB. A leaf has one bit for all of its pages, and
/// to clear it for one of them clears it for all.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Accessed {
    /// In: first byte, a multiple of the page size.
    pub offset: u64,
    /// In: bytes, a multiple of the page size, at most [`ACCESSED_MAX_PAGES`] pages.
    pub len: u64,
    /// In: [`ACCESSED_READ`] or [`ACCESSED_CLEAR`].
    pub op: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: bit n is set if page n of the range is mapped anywhere with the Accessed bit set
    /// (before clearing).
    pub accessed: u64,
    /// Out: bit n is set if page n of the range is mapped anywhere.
    pub mapped: u64,
}

/// [`Invalidate::flags`]: only where the caller's own process has them mapped. Other processes keep
/// their translations, and CPUs that run none of its threads are not asked by a precise strategy.
pub const INVALIDATE_CALLER: u32 = 1 << 0;

/// Argument of [`INVALIDATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Invalidate {
    /// In: first byte, a multiple of the page size.
    pub offset: u64,
    /// In: bytes, a multiple of the page size.
    pub len: u64,
    /// In: a strategy that can be deferred ([`UNMAP_DEFER`]); `EOPNOTSUPP`: one that was not built.
    pub strategy: u32,
    /// In: `INVALIDATE_*`.
    pub flags: u32,
    /// Out: calls into the kernel's flush functions.
    pub nr_flush_calls: u64,
}

/// [`Setup::flags`]: map by page frame number (`VM_PFNMAP`): PTEs own no reference, and the pages
/// are the device's alone. GUP is refused.
pub const SETUP_PFNMAP: u32 = 1 << 0;
/// [`Setup::flags`]: map read-only first, and learn of the first write to each page
/// (`page_mkwrite`, `pfn_mkwrite`). Only a PTE that a fork has copied is writable and clean then.
pub const SETUP_NOTIFY: u32 = 1 << 1;
/// [`Setup::flags`]: `mmap()` fails when its VM operations are installed already (`ENODEV`).
/// `EOPNOTSUPP` without `CONFIG_RUST_TLB_FAULTS`.
pub const SETUP_BREAK_MAP: u32 = 1 << 2;
/// [`Setup::flags`]: a process that maps it gets a ring of flushes, if this machine has such, for
/// [`strategy::RING`] and [`strategy::AUTO`]. All flushes of that process are then exact more often.
pub const SETUP_RING: u32 = 1 << 3;
/// [`Setup::flags`]: page tables that an unmap leaves empty are freed, with the flush that the
/// unmap needs anyway. A table of a mapping that does not cover all that the table maps stays, and
/// so does one that shows a page which is populated. Those of a deferred batch stay until it is
/// flushed, and longer if a fault or memory pressure flushes it.
pub const SETUP_FREE_TABLES: u32 = 1 << 4;
/// [`Setup::flags`]: with [`SETUP_FREE_TABLES`] (else `EINVAL`), they are freed a little later, by a
/// flush of their own for those of all processes, or when memory is short. That is so for all pages
/// that were unmapped by a batch, whatever flushes it.
pub const SETUP_FREE_TABLES_LATER: u32 = 1 << 5;
/// [`Setup::flags`]: with folios of 2 MiB, or with [`SETUP_PFNMAP`] and pages, and without
/// [`SETUP_NOTIFY`] (else `EINVAL`), what a page table would map (2 MiB) is mapped as a whole, by a leaf:
/// where a fault finds no table, nor, unless it is a folio, a page in all of it, the mapping covers it,
/// offset and address are aligned to it, and there is memory for that. Everywhere else, and in a kernel
/// without `CONFIG_TRANSPARENT_HUGEPAGE`, there is a table. So it is without [`SETUP_PFNMAP`], too, if
/// `/sys/kernel/mm/transparent_hugepage/enabled` is not `always`, unless that is `madvise` and so was the
/// mapping (`MADV_HUGEPAGE`).
pub const SETUP_HUGE: u32 = 1 << 6;
/// [`Setup::flags`]: with [`SETUP_PFNMAP`], and without [`SETUP_HUGE`] (else `EINVAL`), populate by
/// bundles instead of folios: `1 << folio_order` pages that are owned together, wherever they are in
/// memory. What is said of a folio is said of a bundle, but that its order is 1 to
/// [`SETUP_MAX_FOLIO_ORDER`].
pub const SETUP_BUNDLES: u32 = 1 << 7;

/// [`Setup::folio_order`]: highest one.
pub const SETUP_MAX_FOLIO_ORDER: u32 = 9;

/// Argument of [`SETUP`]: `EBUSY` if the file was mapped or populated before.
///
/// With folios, what is said of a page elsewhere is said of a folio: one that is touched is populated as
/// a whole, and mapped around where it was touched; one is unmapped as a whole if any of its pages is
/// named, by the strategies that take pages, and counts as so many. A fault for whose folio there is no
/// memory is a `SIGBUS`, if that is of more than 8 pages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Setup {
    /// In: `SETUP_*`.
    pub flags: u32,
    /// In: populate by folios of `1 << folio_order` pages: 0 (pages), or 2 to
    /// [`SETUP_MAX_FOLIO_ORDER`]; by bundles ([`SETUP_BUNDLES`]): 1 to that. Others are `EINVAL`, and so is one that the file has no whole number
    /// of.
    pub folio_order: u32,
    /// In: zero.
    pub reserved: [u32; 2],
}

/// [`Scope::op`]: enter a scope, or one more level of it.
pub const SCOPE_ENTER: u32 = 0;
/// [`Scope::op`]: leave a level. The last one to leave flushes.
pub const SCOPE_LEAVE: u32 = 1;
/// Levels of a scope that one open file can be in; one more is `EOVERFLOW`.
pub const SCOPE_MAX_DEPTH: u32 = 1024;
/// [`Scope::outer`]: no other file.
pub const SCOPE_NO_FILE: i32 = -1;

/// Argument of [`SCOPE`]. All unmaps of an open file in a scope share one flush: at the end of the
/// outermost level, or before anything that needs it (see [`UNMAP_DEFER`]). An open file can enter
/// the scope of another one; then both share the flush. Pages come back to each file when it is
/// next used. Leaving happens by itself at the last close.
///
/// Errors: `EINVAL`: unknown `op`; a strategy that cannot be deferred, or is not the scope's; left
/// without having entered; `outer` is not in a scope. `EOPNOTSUPP`: a strategy that was not built.
/// `EBADF`: `outer` is not an open file;
/// `EXDEV`: not one of this device. `EBUSY`: this file is in another scope. `EOVERFLOW`: this file is
/// in [`SCOPE_MAX_DEPTH`] levels. An unmap in a scope by another strategy is `EINVAL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Scope {
    /// In: [`SCOPE_ENTER`] or [`SCOPE_LEAVE`].
    pub op: u32,
    /// In: to enter, one of [`strategy`] that can be deferred. To leave, zero.
    pub strategy: u32,
    /// In: to enter the scope of another open file, its descriptor, else [`SCOPE_NO_FILE`].
    pub outer: i32,
    /// In: zero.
    pub reserved: u32,
    /// Out: levels that this open file is in now.
    pub depth: u32,
    /// Out: levels of the scope, of all files.
    pub nr_levels: u32,
    /// Out: calls into the kernel's flush functions made by this call.
    pub nr_flush_calls: u64,
}

/// [`Idle::op`]: the pages are not needed for now: under memory pressure they may be taken, with
/// their contents.
pub const IDLE_MARK: u32 = 0;
/// [`Idle::op`]: the pages are needed again. The contents of those that were taken are gone.
pub const IDLE_UNMARK: u32 = 1;

/// Argument of [`IDLE`]. Pages that are not populated are passed over.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Idle {
    /// In: first byte, a multiple of the page size.
    pub offset: u64,
    /// In: bytes, a multiple of the page size.
    pub len: u64,
    /// In: [`IDLE_MARK`] or [`IDLE_UNMARK`].
    pub op: u32,
    /// In: zero.
    pub reserved: u32,
    /// Out: pages whose mark changed.
    pub nr_pages: u64,
    /// Out: pages of the range that were taken since they were marked. If one was used again
    /// meanwhile, it is there, but came back empty.
    pub nr_taken: u64,
}

/// [`Move::flags`]: flush the old addresses once, at the end of the move, and keep the pages until
/// then; where that does not do, at once. Without it, they are flushed page table by page table,
/// before each is unlocked.
pub const MOVE_DEFER: u32 = 1 << 0;
/// [`Move::flags`]: wait for [`Move::hold_ms`] before the flush at the end. Only with [`MOVE_DEFER`].
/// `EOPNOTSUPP` without `CONFIG_RUST_TLB_FAULTS`, as all that follow.
pub const MOVE_HOLD: u32 = 1 << 27;
/// [`Move::flags`]: have the first page locked meanwhile, as if somebody else worked on it. Only with
/// [`MOVE_DEFER`].
pub const MOVE_LOCK_PAGE: u32 = 1 << 28;
/// [`Move::flags`]: do not keep the pages: a negative control. Only with [`MOVE_DEFER`].
pub const MOVE_BREAK_PIN: u32 = 1 << 29;
/// [`Move::flags`]: flush the new addresses instead of the old ones: a negative control. Only with
/// [`MOVE_DEFER`], not with [`MOVE_BREAK_PIN`].
pub const MOVE_BREAK_RANGE: u32 = 1 << 30;
/// [`Move::hold_ms`] at most; more is `EINVAL`.
pub const MOVE_MAX_HOLD_MS: u32 = 1000;

/// Argument of [`MOVE`]. Both ranges lie in mappings of this open file in the caller's process, and
/// show the same pages of it. Afterwards what was mapped at an old address is mapped at the new one;
/// the next use of the old address maps the page there, too. What is mapped at a new address already
/// stays mapped at both. What is mapped by a leaf, at either address, does not move: it is unmapped and
/// flushed, and mapped again page by page by the next use. A whole page table moves as it is, where both ranges have one, and the new
/// one is not there yet. Until a deferred move has returned, CPUs of the caller's process may use an
/// old address for a page that was taken meanwhile ([`UNMAP`]): such a page is not used again before.
///
/// Errors: `EINVAL`: an address that is not a multiple of the page size, ranges that overlap, or that
/// show different pages. `EFAULT`: nothing is mapped at an address, or not by one mapping. `EXDEV`:
/// something else than this open file is. `EACCES`: the mappings are protected differently. `ENOMEM`:
/// some of the pages may have moved. `EINTR`: the caller is being killed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(CONFIG_RUST_TLB, derive(FromBytes, IntoBytes, Immutable))]
pub struct Move {
    /// In: `MOVE_*`.
    pub flags: u32,
    /// In: milliseconds, with [`MOVE_HOLD`], else zero.
    pub hold_ms: u32,
    /// In: first address to move from.
    pub old: u64,
    /// In: first address to move to.
    pub new: u64,
    /// In: bytes, a multiple of the page size.
    pub len: u64,
    /// Out: PTEs that were moved.
    pub nr_ptes: u64,
    /// Out: page tables that were moved as they are.
    pub nr_tables: u64,
    /// Out: PTEs that stayed, for something was mapped at the new address.
    pub nr_occupied: u64,
    /// Out: calls into the kernel's flush functions, ...
    pub nr_flush_calls: u64,
    /// ... and those of them that were made before page tables were unlocked.
    pub nr_locked_flushes: u64,
    /// Out: with [`MOVE_DEFER`], PTEs that were flushed before page tables were unlocked, because of
    /// no page, a locked one, bad memory, a page that others find, writeback.
    pub nr_forced: [u64; 5],
    /// Zero.
    pub reserved: [u64; 2],
}
