// SPDX-License-Identifier: GPL-2.0

//! Batched TLB flushes: take many pages back from many processes, and interrupt their CPUs once.
//!
//! # The protocol
//!
//! A page that was mapped into a process may be used by other CPUs, through their TLBs, long after
//! its PTE is gone. So, in this order:
//!
//! 1. **Own.** The driver moves the page into a [`Batch`] ([`Staging::push`]). From here on nobody
//!    can free or reuse it.
//! 2. **Clear.** [`Staging::unmap`] clears the PTEs that map it, in all processes, each under its
//!    page-table lock and with a locked read-modify-write, so that no Accessed or Dirty bit is
//!    lost.
//! 3. **Record.** Under the same lock the policy is told. Then, or at the flush, the generation of
//!    the mm goes up, and *after that* its set of CPUs is read. The other way round, a CPU that
//!    switches to the mm in between would be left out. Also under this lock, mprotect, munmap,
//!    mremap and madvise are told.
//! 4. **Flush.** [`Batch::flush`] interrupts the CPUs, once for all of it if the policy says so.
//! 5. **Release.** [`Flushed::drain`] hands the pages out. Nobody reaches them through a mapping
//!    any more, not even where someone else had cleared the PTE first. Who else holds a reference,
//!    for example for direct I/O, still does: only an [`ExclusivePage`] may be overwritten.
//!
//! Release before flush, and another process's data turns up in this one. Record after the lock
//! is gone, and a munmap in between frees what it believes nobody can reach. Steps 1, 4 and 5 are
//! in the types: [`batch`]. Steps 2 and 3 are in one loop: [`walk`]. Which flush, and when,
//! is the [`policy`]'s to say: [`Broadcast`], [`Precise`], [`PerPage`] or
//! [`Ringed`](ringed::Ringed). The whole argument, with
//! locks and barriers, is in
//! [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst).
//!
//! What all of this stands on is beside this module, in [`mm`](super): [ranges](super::range), what a
//! file shows [where](super::window), what a page table [answers](super::parts), who owns a page that
//! may be [stale](super::stale_page). None of it knows of batches, policies or flushes.
//!
//! # Terms
//!
//! | term      | meaning                                                                      |
//! |-----------|------------------------------------------------------------------------------|
//! | staged    | moved into a batch, its PTEs not touched yet                                 |
//! | stale     | of a translation: its PTE is gone or changed, and a TLB still has it         |
//! | recorded  | of cleared PTEs: the policy knows of them                                    |
//! | owed      | of a flush: what it is for was recorded, and the flush has not begun         |
//! | pending   | of pages or PTEs: their flush is owed, by us or by someone else              |
//! | round     | one set of interrupts to CPUs, and the wait for them                         |
//! | settled   | of pages: nobody can write to them through a mapping, though some may read   |
//! | flushed   | of pages: no TLB has a translation to them any more                          |
//! | deferred  | of a flush: it is left to some later time                                    |
//! | scope     | a flush that several batches share; of a batch in it: its flush is hoisted   |
//! | lazy      | of a CPU: runs a kernel thread, has the last mm loaded, is not interrupted   |
//! | place     | the mappings of one file over one driver's data                              |
//! | folio     | several pages that are one entry of a batch; said of a bundle, too           |
//! | bundle    | pages of their own, wherever in memory, that are one entry of a batch        |
//! | policy    | what is owed, and which flush is made for it: a type                         |
//! | strategy  | what the sample is asked for: a batch with a policy, or a call of the core   |
//!
//! The C functions below all of it are `tlb_batch_*`, and so are the documents. Those for one part of
//! it are named after that: `tlb_move_*`, `tlb_charge_*` (who pays for memory), `tlb_mapping_*`,
//! `flush_ring_*`, and `tlb_hold_*` for tests. What a user sees is `rust_tlb`: the configuration, the
//! events, debugfs, the sample.
//!
//! H1 to H14, where comments name them, are the rules in
//! [`Documentation/mm/tlb_batch.rst`](srctree/Documentation/mm/tlb_batch.rst), with where each is
//! kept and what backs it.
//!
//! # What is not guaranteed
//!
//! - Between 2 and 4, other CPUs can read the page, and write to it if the PTE was dirty. Who saves
//!   the contents calls [`Batch::flush_dirty`] first.
//! - A fault after 3 maps whatever the fault handler gives it. If that is *another* page, the
//!   handler has to flush the batch first, or two CPUs see two pages at one address.
//! - x86-64 only. An entry of a batch is a page, a folio ([`ExclusivePage::alloc_folio`]) or
//!   a bundle ([`ExclusivePage::alloc_bundle`]), which go as a whole. A folio of 2 MiB, and what is mapped by frame numbers, may be mapped as a whole, too
//!   ([`VmFault::insert_huge`]): such a leaf is flushed before [`Staging::unmap`] returns. Page tables
//!   that are empty stay, unless they are taken out before the flush: [`tables`]. The kernel's own way
//!   for one process is [`gather`].
//!
//! [`VmFault::insert_huge`]: super::vm_ops::VmFault::insert_huge
//!
//! # Examples
//!
//! A whole driver, to be copied, is
//! [`samples/rust/rust_tlb_minimal.rs`](srctree/samples/rust/rust_tlb_minimal.rs). A page is in the
//! batch, or it is out after a flush:
//!
//! ```
//! use kernel::{
//!     mm::{
//!         rmap::AddressSpace,
//!         tlb::{Batch, Broadcast, Cpus}, //
//!     },
//!     page::Page,
//!     sync::Arc, //
//! };
//!
//! // One for each open file, and what the driver maps: see `rmap` and `vm_ops`.
//! let file = AddressSpace::new()?;
//! let data = Arc::new((), GFP_KERNEL)?;
//!
//! let mut batch = Batch::new(Broadcast::new(Cpus::new(GFP_KERNEL)?), 2, GFP_KERNEL)?;
//! let mut staging = batch.stage();
//! staging.push(7, Page::alloc_page(GFP_KERNEL)?).map_err(|_| ENOSPC)?;
//! let nr_ptes = staging.unmap(&file.over(data.as_arc_borrow()));
//! // No process maps the file here.
//! assert_eq!((nr_ptes, batch.nr_entries()), (0, 1));
//!
//! let mut flushed = batch.flush();
//! // So nobody was interrupted, and the page comes out.
//! assert_eq!(flushed.report().nr_calls, 0);
//! assert_eq!(flushed.drain().count(), 1);
//! # Ok::<(), Error>(())
//! ```
//!
//! Storage is taken beforehand, and a full batch gives the page back:
//!
//! ```
//! use kernel::{
//!     mm::tlb::{Batch, Cpus, Full, Precise},
//!     page::Page, //
//! };
//!
//! let mut batch = Batch::new(Precise::new(Cpus::new(GFP_KERNEL)?), 0, GFP_KERNEL)?;
//! let page = Page::alloc_page(GFP_KERNEL)?;
//! let Err(Full(page)) = batch.stage().push(7, page) else {
//!     return Err(EINVAL);
//! };
//! batch.reserve(1, GFP_KERNEL)?;
//! assert!(batch.stage().push(7, page).is_ok());
//! # Ok::<(), Error>(())
//! ```
//!
//! C headers: [`include/linux/tlb_batch.h`](srctree/include/linux/tlb_batch.h),
//! [`arch/x86/include/asm/tlbflush.h`](srctree/arch/x86/include/asm/tlbflush.h)

use super::Mm;

mod actions;
pub mod batch;
pub mod broadcast;
pub mod ceiling;
mod cpus;
pub mod force_flush;
pub mod gather;
pub mod ledger;
mod locks;
pub mod mappings;
mod movable;
mod mover;
pub mod moves;
pub mod moving;
pub mod owed;
pub mod per_page;
pub mod policy;
pub mod precise;
#[cfg(CONFIG_RUST_TLB_RING)]
pub mod ring;
#[cfg(CONFIG_RUST_TLB_RING)]
mod ring_entry;
pub mod ringed;
pub mod rings;
pub mod run_list;
pub mod scope;
mod settled;
pub mod tables;
mod taker;
pub mod trace;
pub mod two_phase;
#[cfg(CONFIG_RUST_TLB_FAULTS)]
pub mod unflushed;
#[cfg(CONFIG_RUST_TLB_FAULTS)]
pub mod unnoted;
pub mod walk;
pub mod young;

pub use super::{
    driver_page::DriverPage,
    exclusive::{
        ExclusivePage,
        Unwritable, //
    },
    stale::{
        Proof,
        Stale, //
    },
    stale_page::StalePage, //
};
pub use batch::{
    Batch,
    Flushed,
    Full,
    Sent,
    Settled,
    Staging, //
};
pub use cpus::Cpus;
pub use gather::Gather;
pub use mappings::{
    FileMappings,
    LockedMappings,
    OneMapping,
    ProcessMappings, //
};
pub use policy::{
    Flush,
    Policy,
    Report,
    Why, //
};
pub use rings::Rings;
pub use two_phase::{
    Phases,
    Quiesced,
    WriteProtected, //
};
pub use walk::invalidate;
pub use young::test_young;

/// One round for all processes: see [`broadcast::Broadcast`].
pub type Broadcast = Policy<Cpus, broadcast::Broadcast>;
/// A ranged flush per process: see [`precise::Precise`].
pub type Precise = Policy<Cpus, precise::Precise>;
/// A flush per page: see [`per_page::PerPage`].
pub type PerPage = Policy<Cpus, per_page::PerPage>;
/// One round for all processes, and exact: see [`ringed::Ringed`].
pub type Ringed = Policy<Cpus, ringed::Ringed>;
/// No flush, to show that tests notice: see [`unflushed::Unflushed`].
#[cfg(CONFIG_RUST_TLB_FAULTS)]
pub type Unflushed = Policy<Cpus, unflushed::Unflushed>;
/// One round, unknown to others: see [`unnoted::Unnoted`].
#[cfg(CONFIG_RUST_TLB_FAULTS)]
pub type Unnoted = Policy<unnoted::Unnoted<Cpus>, broadcast::Broadcast>;
/// A policy chosen at run time, in a box.
pub type AnyPolicy = dyn Flush<Mm = Mm> + Send;
/// A flush that several batches share: see [`scope::Scope`].
pub type Scope = scope::Scope<AnyPolicy>;
/// The policy of a batch in a [`Scope`]: see [`scope::Hoisted`].
pub type Hoisted = scope::Hoisted<AnyPolicy>;
