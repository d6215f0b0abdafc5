// SPDX-License-Identifier: GPL-2.0

//! The kernel's own gather: many VMAs of one process, one flush.
//!
//! A [`Gather`] is C's `struct mmu_gather`. What is zapped under it is flushed when
//! [`Gather::with`] ends, and only then are the references of the pages put, and the page tables
//! freed that became empty. It is for one address space: many of them are a round each, where a
//! [`Batch`](super::Batch) needs one for all.
//!
//! # The protocol
//!
//! 1. [`Gather::with`] raises the mm's `tlb_flush_pending`: from here on, every other gather of
//!    that mm ends in a full flush. A munmap or mprotect that finds a PTE cleared, or a table
//!    taken out, does not return before it is flushed.
//! 2. [`Gather::zap`] clears PTEs under their page-table lock and tracks one range, from the lowest
//!    address to the highest. VMAs far apart are flushed in full, for their distance.
//! 3. With [`Tables::Free`], tables that are empty then leave their PMD. That adds one page to the
//!    range, the first one that the table maps, and asks CPUs in lazy mode, too: nothing else is
//!    flushed for it.
//! 4. At the end: the flush, then the references, then (after RCU) the tables.
//!
//! # What is not guaranteed
//!
//! - If another gather is at work in the same mm, munmap for example, the flush is a full one.
//! - A gather that is full (some ten thousand pages), or one that zapped dirty pages of a file
//!   system, flushes earlier as well.
//! - A page that was mapped by its frame number ([`DriverPage`](super::DriverPage)) is not kept by
//!   the gather. It still comes back through a batch.
//! - On x86 a flush does not differ for executable mappings: what C tracks of them
//!   (`mmu_gather::vma_exec`) is for architectures with a TLB of instructions to flush apart, and
//!   `tlb_flush()` of x86 ignores it.
//!
//! # Locks
//!
//! `i_mmap_rwsem` → (`mmap_lock`, tried) → notifiers → page-table locks. The `mmap_lock` comes
//! before `i_mmap_rwsem` everywhere else, so it is tried, and the tables stay if it is not to be
//! had. Who removes a table needs it: mremap moves PTEs into a table that it has looked up before,
//! and fork copies them out of one, both with the lock held for writing. It is let go before the
//! flush, unlike in madvise: point 1 is what keeps others from returning early.
//!
//! C headers: [`include/asm-generic/tlb.h`](srctree/include/asm-generic/tlb.h),
//! [`include/linux/tlb_batch_gather.h`](srctree/include/linux/tlb_batch_gather.h)

use crate::{
    bindings,
    ffi::c_void,
    mm::{
        range::PageRange,
        rmap::{
            RmapGuard,
            Vma, //
        },
        Mm, //
    },
    prelude::*,
    sync::ArcBorrow,
    types::NotThreadSafe, //
};
use core::ptr::NonNull;

/// Whether page tables go that are empty after the zap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// They stay.
    Keep,
    /// They are freed, if the range covers all that they map and if the `mmap_lock` is to be had.
    Free,
}

/// Zaps in one address space that share a flush.
///
/// # Invariants
///
/// `raw` is an open gather of `mm`, and stays open for `'g`.
pub struct Gather<'g> {
    raw: NonNull<bindings::mmu_gather>,
    mm: &'g Mm,
    // It is on the stack of this task.
    _nts: NotThreadSafe,
}

impl Gather<'_> {
    /// Calls `zaps` with a gather of `mm`, then flushes.
    ///
    /// # Context
    ///
    /// May sleep. IRQs enabled, no spinlock held. `i_mmap_rwsem` may be held; if anything is zapped,
    /// whatever the [`Vma`] is held by is.
    pub fn with(mm: &Mm, zaps: impl FnOnce(&mut Gather<'_>)) {
        let mut call = Call {
            mm,
            zaps: Some(zaps),
        };
        // SAFETY: `call` is what this function of its type takes; it lives until the end of the
        // call, and nobody else uses it.
        unsafe { gather(mm, call.entry(), (&raw mut call).cast()) };
    }

    /// Zaps `range` of `vma`: PTEs are cleared; the pages are kept, and the tables, until the
    /// flush. Returns whether tables could be freed: not with [`Tables::Keep`], and not while
    /// someone changes the mappings of the process.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: `vma` is of another address space, or does not hold all of `range`.
    ///
    /// # Context
    ///
    /// May sleep.
    #[inline(never)]
    pub fn zap(&mut self, vma: &Vma, range: PageRange, tables: Tables) -> Result<bool> {
        let lies_in = |whole: PageRange| whole.union(range) == whole;
        let fits = vma.window().is_some_and(|w| lies_in(w.range()));
        if !core::ptr::eq(vma.mm(), self.mm) || !fits {
            return Err(EINVAL);
        }
        let (gather, vma) = (self.raw.as_ptr(), vma.as_raw());
        let (start, end) = (range.start(), range.end());
        // SAFETY:
        // - By the type invariants the gather is open.
        // - By the invariants of `Vma` it is valid and locked, in one of the three ways.
        // - That it is of the gather's mm, and holds the range, was just checked.
        unsafe {
            match tables {
                Tables::Free => Ok(bindings::tlb_batch_gather_zap_tables(
                    gather, vma, start, end,
                )),
                Tables::Keep => {
                    bindings::tlb_batch_gather_zap(gather, vma, start, end);
                    Ok(false)
                }
            }
        }
    }
}

/// What zaps under a gather.
type Zap = unsafe extern "C" fn(*mut bindings::mmu_gather, *mut c_void);

/// Calls `zap` with a gather of `mm` and `data`, then flushes.
///
/// # Safety
///
/// - `zap` must be fit to be called once with `data`, in this task.
/// - It must not use the gather after it has returned.
#[inline(never)]
unsafe fn gather(mm: &Mm, zap: Zap, data: *mut c_void) {
    // SAFETY: `mm` is a reference, so it is not freed. What is zapped under the gather is as
    // promised by the caller. In another context than documented, `might_sleep()` reports; no
    // memory is at risk.
    unsafe { bindings::tlb_batch_gather(mm.as_raw(), Some(zap), data) }
}

/// What [`Gather::with`] hands through C.
struct Call<'m, Z> {
    mm: &'m Mm,
    zaps: Option<Z>,
}

impl<Z: FnOnce(&mut Gather<'_>)> Call<'_, Z> {
    /// Returns the function that takes this very type.
    fn entry(&self) -> Zap {
        Self::zap
    }

    /// # Safety
    ///
    /// `gather` must be open until this returns, and of the mm of `call`, a valid `Self` that
    /// nobody else uses.
    unsafe extern "C" fn zap(gather: *mut bindings::mmu_gather, call: *mut c_void) {
        // SAFETY: As promised by the caller.
        let call = unsafe { &mut *call.cast::<Self>() };
        if let (Some(raw), Some(zaps)) = (NonNull::new(gather), call.zaps.take()) {
            // INVARIANT: It is open, of this mm, and used no longer than this function runs.
            zaps(&mut Gather {
                raw,
                mm: call.mm,
                _nts: NotThreadSafe,
            });
        }
    }
}

/// Calls `zap` for each of the VMAs over `data` that map any of pages `first` to `last`, with one
/// gather for all those of an address space. Returns how many gathers there were: as many flushes,
/// if each has something to flush.
///
/// The set of VMAs is walked once for each address space, since it has them interleaved, and
/// nothing can be allocated to sort them. A process that is being forked comes before its child, as
/// long as any VMA of the child maps what one of the parent maps: the child's come behind.
///
/// # Context
///
/// May sleep.
pub fn for_each_mm<T>(
    rmap: &RmapGuard<'_>,
    data: ArcBorrow<'_, T>,
    first: usize,
    last: usize,
    mut zap: impl FnMut(&mut Gather<'_>, &Vma),
) -> usize
where
    T: Send + Sync + 'static,
{
    let vmas = || rmap.vmas(data, first, last);
    let mut nr_gathers = 0;
    for (nr, vma) in vmas().enumerate() {
        let is_same = |other: &&Vma| core::ptr::eq(other.mm(), vma.mm());
        if vmas().take(nr).any(|earlier| is_same(&earlier)) {
            continue;
        }
        nr_gathers += 1;
        Gather::with(vma.mm(), |gather| {
            vmas().filter(is_same).for_each(|vma| zap(gather, vma));
        });
    }
    nr_gathers
}
