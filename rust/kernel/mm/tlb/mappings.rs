// SPDX-License-Identifier: GPL-2.0

//! The mappings of a file, or one of them, as the [`walk`](super::walk) sees them.

use super::{
    policy::{
        sealed::Sealed,
        Touched, //
    },
    range::{
        PageRange,
        Pending, //
    },
    walk::{
        Cleared,
        Mapping,
        Mappings,
        Permit,
        Place,
        Unmap, //
    },
    window::Window,
    young::Young,
    StalePage, //
};
use crate::{
    mm::{
        mechanism,
        page_table::PageTable,
        rmap::{
            AddressSpace,
            Vma, //
        },
        virt::VmaRef,
        Mm, //
    },
    sync::ArcBorrow, //
};

/// All mappings of a file over a driver's data, in all processes. They are locked (`i_mmap_rwsem`)
/// while a walk goes through them.
pub struct FileMappings<'a, T> {
    file: &'a AddressSpace,
    data: ArcBorrow<'a, T>,
}

impl AddressSpace {
    /// Returns the mappings of this file over `data`, in all processes.
    pub fn over<'a, T>(&'a self, data: ArcBorrow<'a, T>) -> FileMappings<'a, T> {
        FileMappings { file: self, data }
    }
}

impl<T> Sealed for FileMappings<'_, T> {}

impl<T: Send + Sync + 'static> Mappings for FileMappings<'_, T> {
    type Mapping = Vma;

    fn for_each(&self, first: usize, last: usize, visit: impl FnMut(&Vma)) {
        let rmap = self.file.lock();
        rmap.vmas(self.data, first, last).for_each(visit);
    }

    fn place(&self) -> Option<Place> {
        Some(self.file.place(self.data))
    }
}

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

impl Sealed for Vma {}

impl Mapping for Vma {
    type Mm = Mm;
    type Table<'m> = PageTable<'m>;

    fn mm(&self) -> &Mm {
        self.mm()
    }

    fn window(&self) -> Option<Window> {
        self.window()
    }

    fn lock(&self, addr: usize) -> Option<PageTable<'_>> {
        PageTable::lock(self, addr)
    }

    fn invalidating<R>(&self, range: PageRange, f: impl FnOnce() -> R) -> R {
        self.invalidating(range, f)
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

impl<P: StalePage> Unmap<P> for Vma {
    fn clear(table: &mut PageTable<'_>, addr: usize, page: &P, permit: &Permit) -> Option<Cleared> {
        table.clear(addr, page, permit)
    }

    fn protect(table: &mut PageTable<'_>, addr: usize, page: &P, permit: &Permit) -> bool {
        table.protect(addr, page, permit)
    }
}

impl Young for Vma {
    fn test_young(table: &mut PageTable<'_>, addr: usize, clear: bool) -> Option<bool> {
        table.test_young(addr, clear)
    }
}
