// SPDX-License-Identifier: GPL-2.0

//! Moves of PTEs between two mappings of one process, by a driver.
//!
//! What `mremap()` does to a mapping, a driver does here to pages: [`MmapWriteGuard`] locks the
//! process, [`MmapWriteGuard::movable`] finds a mapping of the driver's in it, and
//! [`move_pages`](super::moves::move_pages) moves what one of them maps to where another shows
//! the same pages. The old addresses are flushed at once, or when the
//! [`Moved`](super::moves::Moved) goes that it hands back.
//!
//! # Locks
//!
//! `mmap_lock` (write) → VMA locks (write) → `i_mmap_rwsem` (write) → the page-table lock of the old
//! address → that of the new one. Whole tables: PMD lock of the old place → that of the new one → the
//! table's own. The driver's own lock is not taken, and may be held by those who wait for
//! `i_mmap_rwsem`; a driver that holds it meanwhile must not take it in a fault.
//!
//! C headers: [`include/linux/mmap_lock.h`](srctree/include/linux/mmap_lock.h),
//! [`include/linux/tlb_move.h`](srctree/include/linux/tlb_move.h); contracts in
//! [`mm/rust_tlb/move.c`](srctree/mm/rust_tlb/move.c)

use super::{
    force_flush::Reasons,
    mappings::Announced,
    moves::{
        Move,
        Permit, //
    },
    policy::{
        sealed::Sealed,
        Touched, //
    },
    walk::Mapping, //
};
#[cfg(CONFIG_RUST_TLB_FAULTS)]
use crate::page::Page;
use crate::{
    bindings,
    error::to_result,
    mm::{
        mechanism,
        page_table::{
            read_pte,
            PageTable, //
        },
        pte::{
            Look,
            PageState,
            Pte, //
        },
        range::{
            PageRange,
            Pending, //
        },
        rmap::{
            Bracket,
            Vma, //
        },
        virt::VmaRef,
        window::{
            Window,
            PTRS_PER_PTE, //
        },
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::ArcBorrow,
    types::NotThreadSafe, //
};
use core::ptr::NonNull;

/// The `mmap_lock` of a process, held for writing: its mappings do not come, go or change, and nobody
/// faults in one that is [`Movable`].
///
/// # Invariants
///
/// This task holds the lock.
pub struct MmapWriteGuard<'a> {
    mm: &'a MmWithUser,
    // The lock has to be released by the task that took it.
    _nts: NotThreadSafe,
}

impl MmWithUser {
    /// Locks the mappings of the process for writing.
    ///
    /// # Errors
    ///
    /// - `EINTR`: the task is being killed.
    ///
    /// # Context
    ///
    /// May sleep. No `mmap_lock` is held, nor any lock that a fault takes.
    #[inline(never)]
    pub fn mmap_write_lock(&self) -> Result<MmapWriteGuard<'_>> {
        // SAFETY: `self` is a reference. In a context that must not sleep, or with the lock held,
        // lockdep reports; no memory is at risk.
        to_result(unsafe { bindings::tlb_move_lock(self.as_raw()) })?;
        // INVARIANT: It was just taken.
        Ok(MmapWriteGuard {
            mm: self,
            _nts: NotThreadSafe,
        })
    }
}

impl Drop for MmapWriteGuard<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is held.
        unsafe { bindings::tlb_move_unlock(self.mm.as_raw()) }
    }
}

impl MmapWriteGuard<'_> {
    /// Returns the mapping at `range`, if all of that is one that
    /// [`set_vm_ops`](crate::mm::virt::VmaNew::set_vm_ops) or its sister set up over `data`.
    ///
    /// # Errors
    ///
    /// - `EFAULT`: nothing is mapped there, or not by one mapping.
    /// - `EXDEV`: something else is.
    pub fn movable<T>(&self, range: PageRange, data: ArcBorrow<'_, T>) -> Result<Movable<'_>> {
        let vma = self.vma_at(range.start()).ok_or(EFAULT)?;
        let vma = Vma::from_locked(vma, data).ok_or(EXDEV)?;
        let window = vma.window().ok_or(EFAULT)?;
        if range.end() > window.range().end() {
            return Err(EFAULT);
        }
        // INVARIANT: It was write-locked above, and remains so while `self` is borrowed.
        Ok(Movable {
            vma,
            reasons: Reasons::default(),
            _nts: NotThreadSafe,
        })
    }

    /// Finds the VMA at `addr`, and write-locks it, too.
    #[inline(never)]
    fn vma_at(&self, addr: usize) -> Option<&VmaRef> {
        // SAFETY: By the type invariants the lock is held; what is found is valid while it is, and so
        // while `self` is borrowed.
        unsafe {
            let vma = bindings::tlb_move_vma(self.mm.as_raw(), addr);
            (!vma.is_null()).then(|| VmaRef::from_raw(vma))
        }
    }
}

/// A mapping in a process whose `mmap_lock` is held for writing.
///
/// # Invariants
///
/// The `mmap_lock` is held for writing by this task, and the VMA is write-locked, as long as `'g`.
pub struct Movable<'g> {
    vma: &'g Vma,
    reasons: Reasons,
    _nts: NotThreadSafe,
}

impl Movable<'_> {
    /// Returns which page of the file is mapped at `addr`; [`None`] if `addr` lies outside.
    pub fn pgoff_of(&self, addr: usize) -> Option<usize> {
        self.vma.window()?.pgoff_of(addr)
    }

    /// Checks that a PTE that is right in `from`, which is a [`Movable`]'s, too, is right here.
    ///
    /// # Errors
    ///
    /// - `EXDEV`: they are of two processes, files, or drivers' data.
    /// - `EACCES`: they are protected differently.
    #[inline(never)]
    fn check_vma(&self, from: &Vma) -> Result {
        // SAFETY: By the type invariants both are valid, and the `mmap_lock` is held; a `Vma` maps a
        // file.
        to_result(unsafe { bindings::tlb_move_check(from.as_raw(), self.vma.as_raw()) })
    }
}

/// The rmap of a file, locked for writing.
///
/// # Invariants
///
/// This task has locked the rmap of the file of the VMA, which is valid for `'v`.
struct RmapLocked<'v> {
    vma: &'v Vma,
}

impl<'v> RmapLocked<'v> {
    #[inline(never)]
    fn lock(vma: &'v Vma) -> Self {
        // SAFETY: A `Vma` is valid, and was set up in the `mmap` hook of a file.
        unsafe { bindings::tlb_move_rmap_lock(vma.as_raw()) };
        // INVARIANT: It was just locked.
        Self { vma }
    }
}

impl Drop for RmapLocked<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is locked.
        unsafe { bindings::tlb_move_rmap_unlock(self.vma.as_raw()) }
    }
}

/// A page table, locked under the rmap of its file.
pub struct OldTable<'v> {
    // Dropped in this order.
    table: PageTable<'v>,
    _rmap: RmapLocked<'v>,
}

/// Two places of a page table, and the table, locked under the rmap of its file.
///
/// # Invariants
///
/// `raw` is locked. Its `ptes` is the first entry of the table.
pub struct WholeTable<'v> {
    raw: bindings::tlb_move_whole,
    _rmap: RmapLocked<'v>,
    _nts: NotThreadSafe,
}

impl Drop for WholeTable<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is locked; the rmap is unlocked after this.
        unsafe { bindings::tlb_move_whole_unlock(&mut self.raw) }
    }
}

/// A reference to a page, which keeps it from being reused.
///
/// # Invariants
///
/// It owns the reference.
pub struct PinnedPage(NonNull<bindings::page>);

impl Drop for PinnedPage {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::tlb_move_unpin(self.0.as_ptr()) }
    }
}

/// A page that was locked as by somebody else who works on it, for tests of who tries to lock it.
///
/// # Invariants
///
/// The page is locked, and the reference owned.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
pub struct LockedPage(NonNull<bindings::page>);

#[cfg(CONFIG_RUST_TLB_FAULTS)]
impl LockedPage {
    /// Locks `page`, if nobody has.
    #[inline(never)]
    pub fn try_lock(page: &Page) -> Option<Self> {
        // SAFETY: A `Page` is valid and holds a reference.
        let is_locked = unsafe { bindings::tlb_move_page_trylock(page.as_ptr()) };
        // INVARIANT: It was just locked, and a reference taken.
        NonNull::new(page.as_ptr()).filter(|_| is_locked).map(Self)
    }
}

#[cfg(CONFIG_RUST_TLB_FAULTS)]
impl Drop for LockedPage {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::tlb_move_page_unlock(self.0.as_ptr()) }
    }
}

impl Sealed for Movable<'_> {}

impl Mapping for Movable<'_> {
    type Mm = Mm;
    type Table<'m>
        = OldTable<'m>
    where
        Self: 'm;
    type Announced = Announced;

    fn mm(&self) -> &Mm {
        self.vma.mm()
    }

    fn window(&self) -> Option<Window> {
        self.vma.window()
    }

    fn lock(&self, addr: usize) -> Option<OldTable<'_>> {
        let rmap = RmapLocked::lock(self.vma);
        let table = PageTable::lock(self.vma, addr)?;
        Some(OldTable { table, _rmap: rmap })
    }

    fn leaf(table: &OldTable<'_>) -> Option<PageRange> {
        table.table.leaf()
    }

    fn announce(&self) -> Announced {
        Announced::new(self.mm())
    }

    fn is_announced(&self, by: &Announced) -> bool {
        by.is_of(self.mm())
    }

    fn flush_now(&self, range: PageRange) {
        mechanism::flush_range(self.mm(), range);
    }

    fn invalidating<R>(&self, range: PageRange, f: impl FnOnce() -> R) -> R {
        self.vma.invalidating(range, f)
    }

    fn flush_is_pending(&self) -> bool {
        mechanism::flush_is_pending(self.mm())
    }

    fn cond_resched(&self) {
        mechanism::cond_resched();
    }

    fn trace_owed(&self, pending: Pending, why: Touched) {
        mechanism::trace_range_add(self.mm(), pending.range(), pending.nr_pages(), why as i32);
    }
}

impl Move for Movable<'_> {
    type Pin = PinnedPage;
    type Bracket<'m>
        = Bracket<'m>
    where
        Self: 'm;
    type Nested<'m>
        = PageTable<'m>
    where
        Self: 'm;
    type Whole<'m>
        = WholeTable<'m>
    where
        Self: 'm;

    fn check(&self, to: &Self) -> Result {
        to.check_vma(self.vma)
    }

    fn bracket(&self, range: PageRange) -> Bracket<'_> {
        Bracket::open(self.vma, range)
    }

    #[inline(never)]
    fn prepare(&self, addr: usize, table: bool) -> Result {
        if !self.vma.window().is_some_and(|w| w.range().contains(addr)) {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants the VMA is valid, and the `mmap_lock` held; it contains
        // `addr`.
        to_result(unsafe { bindings::tlb_move_prepare(self.vma.as_raw(), addr, table) })
    }

    #[inline(never)]
    fn split_leaf(&self, addr: usize) {
        if self.vma.window().is_some_and(|w| w.range().contains(addr)) {
            // SAFETY: By the type invariants the VMA is valid, and the `mmap_lock` held; it contains
            // `addr`.
            unsafe { bindings::tlb_batch_split_leaf(self.vma.as_raw(), addr) }
        }
    }

    fn lock_beside<'m>(&'m self, addr: usize, old: &'m OldTable<'_>) -> Option<PageTable<'m>> {
        self.check_vma(old._rmap.vma).ok()?;
        // SAFETY: Both VMAs are of one process and of one kind, as was just checked. By the type
        // invariants of `Movable`, which `old` comes from, too, its `mmap_lock` is held for writing, and
        // they are write-locked.
        unsafe { PageTable::lock_beside(self.vma, addr, &old.table) }
    }

    #[inline(never)]
    fn lock_whole<'m>(&'m self, old: usize, to: &'m Self, new: usize) -> Option<WholeTable<'m>> {
        self.check(to).ok()?;
        self.vma.window()?.whole_table_at(old)?;
        to.vma.window()?.whole_table_at(new)?;
        let rmap = RmapLocked::lock(self.vma);
        let mut raw = bindings::tlb_move_whole::default();
        let (from, to) = (self.vma.as_raw(), to.vma.as_raw());
        // SAFETY: By the type invariants the VMAs are valid and the `mmap_lock` is held; they are of
        // one process (`check`). Each holds what was just looked at, and the rmap was just locked.
        // `raw` is written, and may be moved.
        let is_locked = unsafe { bindings::tlb_move_whole_lock(&raw mut raw, from, old, to, new) };
        // INVARIANT: It was just locked, from the first entry on: `old` is where a table begins.
        is_locked.then(|| WholeTable {
            raw,
            _rmap: rmap,
            _nts: NotThreadSafe,
        })
    }

    fn pte<'t>(table: &'t OldTable<'_>, addr: usize) -> Option<Pte<'t>> {
        table.table.read(addr)
    }

    fn pte_of_whole<'t>(whole: &'t WholeTable<'_>, index: usize) -> Option<Pte<'t>> {
        if index >= PTRS_PER_PTE {
            return None;
        }
        // SAFETY: By the type invariants the table is locked as long as `whole` is borrowed; it has
        // that many entries, and `ptes` is the first.
        Some(unsafe { read_pte(whole.raw.ptes.add(index)) })
    }

    #[inline(never)]
    fn pin(&self, pte: Pte<'_>) -> Option<PinnedPage> {
        if !pte.is_present() {
            return None;
        }
        // SAFETY: By its invariants the frame is mapped, by a table that is locked as long as `pte` exists.
        let page = unsafe { bindings::tlb_move_pin(pte.pfn()) };
        // INVARIANT: A reference was taken.
        NonNull::new(page).map(PinnedPage)
    }

    fn move_pte(
        from: &OldTable<'_>,
        old: usize,
        to: &mut PageTable<'_>,
        new: usize,
        _permit: &Permit,
    ) -> bool {
        // SAFETY:
        // - By the invariants of `Movable` the `mmap_lock` is held for writing, and the VMAs are
        //   write-locked. Those of both tables were checked to be of one process, file and kind
        //   (`lock_beside`).
        // - The mover finds both addresses by one page of the file, and the page is pinned until `old` is
        //   flushed, or that comes before the unlock (`Permit`).
        unsafe { from.table.move_to(old, to, new) }
    }

    #[inline(never)]
    fn move_whole(whole: &mut WholeTable<'_>, _permit: &Permit) {
        // SAFETY: By the type invariants it is locked. A move moves it once, and has pinned its pages
        // or flushes them before the unlock (`Permit`).
        unsafe { bindings::tlb_move_whole_move(&mut whole.raw) }
    }

    #[inline(never)]
    fn settle_others(&self) {
        // SAFETY: The mm is a reference. Can be called under page-table locks.
        unsafe { bindings::tlb_move_settle_others(self.mm().as_raw()) }
    }

    #[inline(never)]
    fn look(&self, pte: Pte<'_>) -> Look {
        if !pte.is_present() {
            return Look::NoPage;
        }
        // SAFETY: As in `pin`.
        let found = unsafe { bindings::tlb_move_look(pte.pfn()) };
        match found {
            bindings::TLB_MOVE_NO_PAGE => Look::NoPage,
            bindings::TLB_MOVE_LOCKED => Look::Locked,
            _ => Look::Page(PageState {
                bad: found & bindings::TLB_MOVE_BAD != 0,
                has_rmap: found & bindings::TLB_MOVE_RMAP != 0,
                writeback: found & bindings::TLB_MOVE_WRITEBACK != 0,
            }),
        }
    }

    fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    fn trace_moved(&self, old: PageRange, new: usize, nr_ptes: usize, nr_flushed: usize) {
        mechanism::trace_move(self.mm(), old, new, nr_ptes, nr_flushed);
    }
}
