// SPDX-License-Identifier: GPL-2.0

//! The mappings of a file, one of them, or those of a process, as the [`walk`](super::walk) sees them.

use super::{
    policy::{
        sealed::Sealed,
        Touched, //
    },
    walk::{
        FileLocked,
        Mapping,
        Mappings,
        Permit,
        Unmap, //
    },
    young::Young, //
};
use crate::{
    bindings,
    mm::{
        mechanism,
        page_table::PageTable,
        parts::{
            Changed,
            Cleared,
            Part,
            Parts, //
        },
        place::Place,
        range::{
            PageRange,
            Pending, //
        },
        rmap::{
            AddressSpace,
            RmapGuard,
            Vma, //
        },
        stale_page::StalePage,
        virt::VmaRef,
        window::Window,
        Mm,
        MmapReadGuard, //
    },
    sync::ArcBorrow, //
};
use core::{
    cell::Cell,
    iter,
    ptr::NonNull, //
};

/// All mappings of a file over a driver's data, in all processes. They are locked (`i_mmap_rwsem`)
/// while a walk goes through them.
pub struct FileMappings<'a, T> {
    file: &'a AddressSpace,
    data: ArcBorrow<'a, T>,
    until_killed: bool,
    is_cut_short: Cell<bool>,
}

impl AddressSpace {
    /// Returns the mappings of this file over `data`, in all processes.
    pub fn over<'a, T>(&'a self, data: ArcBorrow<'a, T>) -> FileMappings<'a, T> {
        FileMappings {
            file: self,
            data,
            until_killed: false,
            is_cut_short: Cell::new(false),
        }
    }

    /// As [`AddressSpace::over`], for a walk that ends after one of the mappings if the task is
    /// being killed. Whoever walks has to look at [`FileMappings::is_cut_short`].
    pub fn over_until_killed<'a, T>(&'a self, data: ArcBorrow<'a, T>) -> FileMappings<'a, T> {
        FileMappings {
            until_killed: true,
            ..self.over(data)
        }
    }
}

impl<T> FileMappings<'_, T> {
    /// Returns whether a walk ended before it came to all mappings. Pages that were to be unmapped
    /// may be mapped still: after a flush they have to go back to where a fault finds them.
    pub fn is_cut_short(&self) -> bool {
        self.is_cut_short.get()
    }
}

impl<T> Sealed for FileMappings<'_, T> {}

impl<T: Send + Sync + 'static> Mappings for FileMappings<'_, T> {
    type Mapping = Vma;

    fn for_each(&self, first: usize, last: usize, mut visit: impl FnMut(&Vma)) {
        let rmap = self.file.lock();
        for (nr_before, vma) in rmap.vmas(self.data, first, last).enumerate() {
            if self.until_killed && nr_before > 0 && mechanism::is_being_killed() {
                return self.is_cut_short.set(true);
            }
            visit(vma);
        }
    }

    fn place(&self) -> Option<Place> {
        (!self.is_cut_short()).then(|| self.file.place(self.data))
    }
}

/// As [`FileMappings`], locked already: for a shrinker, which must not wait for the lock
/// ([`AddressSpace::try_lock`]).
pub struct LockedMappings<'a, T> {
    rmap: &'a RmapGuard<'a>,
    data: ArcBorrow<'a, T>,
}

impl RmapGuard<'_> {
    /// Returns the mappings over `data`, in all processes.
    pub fn over<'a, T>(&'a self, data: ArcBorrow<'a, T>) -> LockedMappings<'a, T> {
        LockedMappings { rmap: self, data }
    }
}

impl<T> Sealed for LockedMappings<'_, T> {}

impl<T: Send + Sync + 'static> Mappings for LockedMappings<'_, T> {
    type Mapping = Vma;

    fn for_each(&self, first: usize, last: usize, visit: impl FnMut(&Vma)) {
        self.rmap.vmas(self.data, first, last).for_each(visit);
    }

    fn place(&self) -> Option<Place> {
        Some(self.rmap.mapping().place(self.data))
    }
}

impl<T: Send + Sync + 'static> FileLocked for FileMappings<'_, T> {}
impl<T: Send + Sync + 'static> FileLocked for LockedMappings<'_, T> {}

/// One mapping. It is locked already: by its own lock, or by the `mmap_lock` of its process.
pub struct OneMapping<'a>(&'a Vma);

impl VmaRef {
    /// Returns this mapping for a batch to go through, if [`set_vm_ops`] set it up over `data`.
    ///
    /// A batch that goes through one mapping leaves all others of the file alone: for drivers whose
    /// pages are mapped once, each in the process that it belongs to. Nothing of the file is locked.
    ///
    /// [`set_vm_ops`]: crate::mm::virt::VmaNew::set_vm_ops
    pub fn only_over<T>(&self, data: ArcBorrow<'_, T>) -> Option<OneMapping<'_>> {
        Vma::from_locked(self, data).map(OneMapping)
    }
}

impl OneMapping<'_> {
    /// Returns which page of the file is mapped at `addr`; [`None`] if `addr` lies outside.
    pub fn pgoff_of(&self, addr: usize) -> Option<usize> {
        self.0.window()?.pgoff_of(addr)
    }
}

impl Sealed for OneMapping<'_> {}

impl Mappings for OneMapping<'_> {
    type Mapping = Vma;

    fn for_each(&self, _first: usize, _last: usize, mut visit: impl FnMut(&Vma)) {
        visit(self.0);
    }

    /// There may be others, of the same file and data.
    fn place(&self) -> Option<Place> {
        None
    }
}

/// All who change mappings of an address space flush all of it until this is dropped.
///
/// # Invariants
///
/// `mm` is pinned, and was announced once more than it was retracted.
pub struct Announced {
    mm: NonNull<bindings::mm_struct>,
}

impl Announced {
    #[inline(never)]
    pub(crate) fn new(mm: &Mm) -> Self {
        // INVARIANT: It is announced here.
        Self {
            // SAFETY: `mm` is a reference, and so valid; it is pinned from here on.
            mm: unsafe {
                bindings::tlb_batch_announce(mm.as_raw(), true);
                NonNull::new_unchecked(mm.as_raw())
            },
        }
    }

    pub(crate) fn is_of(&self, mm: &Mm) -> bool {
        core::ptr::eq(self.mm.as_ptr(), mm.as_raw())
    }
}

impl Drop for Announced {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants. Before the flush, others would return early; no memory depends
        // on that: a batch keeps its pages, and `tables` its tables, until it is made.
        unsafe { bindings::tlb_batch_retract(self.mm.as_ptr(), true) }
    }
}

/// The mappings over a driver's data in one process, of whichever file. Its `mmap_lock` is held.
pub struct ProcessMappings<'a, T> {
    guard: &'a MmapReadGuard<'a>,
    data: ArcBorrow<'a, T>,
}

impl MmapReadGuard<'_> {
    /// Returns the mappings of this process that [`set_vm_ops`] set up over `data`.
    ///
    /// A batch that goes through those leaves other processes alone, which may have the same pages
    /// mapped. Nothing of a file is locked.
    ///
    /// [`set_vm_ops`]: crate::mm::virt::VmaNew::set_vm_ops
    pub fn mappings_over<'a, T>(&'a self, data: ArcBorrow<'a, T>) -> ProcessMappings<'a, T> {
        ProcessMappings { guard: self, data }
    }

    /// Returns the first VMA that ends behind `addr`.
    #[inline(never)]
    fn vma_behind(&self, addr: usize) -> Option<&VmaRef> {
        // SAFETY: The `mmap_lock` is held; what is found is valid while it is, and the guard is
        // borrowed for as long.
        unsafe {
            let vma = bindings::find_vma(self.mm.as_raw(), addr);
            (!vma.is_null()).then(|| VmaRef::from_raw(vma))
        }
    }
}

impl<T> Sealed for ProcessMappings<'_, T> {}

impl<T: Send + Sync + 'static> Mappings for ProcessMappings<'_, T> {
    type Mapping = Vma;

    // Nothing is copied or moved meanwhile, since that is done under the lock for writing: the order
    // is any.
    fn for_each(&self, first: usize, last: usize, mut visit: impl FnMut(&Vma)) {
        let mut addr = 0;
        while let Some(vma) = self.guard.vma_behind(addr) {
            addr = vma.end();
            let shows = |vma: &&Vma| vma.window().is_some_and(|w| w.clip(first, last).is_some());
            if let Some(vma) = Vma::from_locked(vma, self.data).filter(shows) {
                visit(vma);
            }
            mechanism::cond_resched();
        }
    }

    /// There may be others, of other processes.
    fn place(&self) -> Option<Place> {
        None
    }
}

impl Sealed for Vma {}

impl Mapping for Vma {
    type Mm = Mm;
    type Table<'m> = PageTable<'m>;
    type Announced = Announced;

    fn mm(&self) -> &Mm {
        self.mm()
    }

    #[inline]
    fn window(&self) -> Option<Window> {
        self.window()
    }

    #[inline]
    fn lock(&self, addr: usize) -> Option<PageTable<'_>> {
        PageTable::lock(self, addr)
    }

    fn leaf(table: &PageTable<'_>) -> Option<PageRange> {
        table.leaf()
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
        self.invalidating(range, f)
    }

    fn flush_is_pending(&self) -> bool {
        mechanism::flush_is_pending(self.mm())
    }

    #[inline]
    fn cond_resched(&self) {
        mechanism::cond_resched();
    }

    #[inline]
    fn trace_owed(&self, pending: Pending, why: Touched) {
        if mechanism::is_traced() {
            mechanism::trace_range_add(self.mm(), pending.range(), pending.nr_pages(), why as i32);
        }
    }
}

impl<P: StalePage> Unmap<P> for Vma {
    fn clear(table: &mut PageTable<'_>, part: Part<'_, P>, _permit: &Permit) -> Cleared {
        // SAFETY: The range is the part's own; the rest is as in `clear_each`.
        unsafe { table.clear(part.pages, iter::once(part)).cleared }
    }

    #[inline]
    fn clear_each(
        table: &mut PageTable<'_>,
        parts: &mut Parts<'_, P>,
        _permit: &Permit,
    ) -> Changed {
        // SAFETY: They lie there by the type invariants of `Parts`. The entries are in a batch, which
        // keeps them until the flush (`Permit`).
        unsafe { table.clear(parts.table(), parts) }
    }

    fn protect(table: &mut PageTable<'_>, part: Part<'_, P>, _permit: &Permit) -> bool {
        // SAFETY: As in `clear_each`.
        unsafe { table.protect(part) }
    }
}

impl Young for Vma {
    fn test_young(table: &mut PageTable<'_>, addr: usize, clear: bool) -> Option<bool> {
        table.test_young(addr, clear)
    }
}
