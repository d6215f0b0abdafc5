// SPDX-License-Identifier: GPL-2.0

//! A fault that a driver handles, and what it maps.
//!
//! C sources: [`mm/rust_tlb/fault.c`](srctree/mm/rust_tlb/fault.c),
//! [`mm/rust_tlb/huge.c`](srctree/mm/rust_tlb/huge.c)

use super::{
    driver_page::DriverPage,
    folio::Pages,
    rmap::Vma,
    virt::{
        flags,
        vm_flags_t, //
    },
    window::PTRS_PER_PTE, //
};
use crate::{
    alloc::AllocError,
    bindings,
    page::Page, //
};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr::NonNull, //
};

/// A page that is to be mapped by a fault, and those of its folio before it and behind it.
#[derive(Clone, Copy)]
struct Around {
    /// That is touched.
    page: *mut bindings::page,
    nr_before: u32,
    nr_behind: u32,
}

/// Why a fault could not be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// No memory: the kernel may kill something, and the access is tried again.
    Oom,
    /// There is nothing to map: the process gets `SIGBUS`.
    Sigbus,
}

impl FaultError {
    pub(super) fn into_raw(self) -> bindings::vm_fault_t {
        match self {
            Self::Oom => bindings::vm_fault_reason_VM_FAULT_OOM,
            Self::Sigbus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}

impl From<AllocError> for FaultError {
    fn from(_: AllocError) -> Self {
        Self::Oom
    }
}

/// A fault that is being handled.
///
/// # Invariants
///
/// `vmf` is valid for `'a`, and belongs to a fault that this task handles, in a VMA that
/// [`set_vm_ops`](super::virt::VmaNew::set_vm_ops) set up. It has the PMD of its address.
pub struct VmFault<'a> {
    vmf: NonNull<bindings::vm_fault>,
    _fault: PhantomData<&'a bindings::vm_fault>,
}

impl<'a> VmFault<'a> {
    /// # Safety
    ///
    /// `vmf` must be valid for `'a`, for a fault that this task handles in a VMA that
    /// [`set_vm_ops`](super::virt::VmaNew::set_vm_ops) set up, and have the PMD of its address.
    pub(super) unsafe fn from_raw(vmf: NonNull<bindings::vm_fault>) -> Self {
        // INVARIANT: As promised by the caller.
        Self {
            vmf,
            _fault: PhantomData,
        }
    }

    fn raw(&self) -> &bindings::vm_fault {
        // SAFETY: By the type invariants. Only what this task calls writes to it: who asks for it copies a
        // field out, and calls nothing before.
        unsafe { self.vmf.as_ref() }
    }

    /// Returns which page of the file was touched.
    pub fn pgoff(&self) -> usize {
        self.raw().__bindgen_anon_1.pgoff
    }

    /// Returns whether the access was a write.
    pub fn is_write(&self) -> bool {
        self.raw().flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0
    }

    fn vma(&self) -> &Vma {
        let vma: *const Vma = self.raw().__bindgen_anon_1.vma.cast();
        // INVARIANT: By those of `self`, `set_vm_ops` set it up; a fault holds the `mmap_lock`, or the VMA's
        // own lock.
        // SAFETY: For the same reason it is valid during the fault.
        unsafe { &*vma }
    }

    /// Returns whether the VMA is of `kind` alone.
    fn is_in(&self, kind: vm_flags_t) -> bool {
        self.vma().kind() == kind
    }

    /// Maps `page` where the fault happened. The PTE gets a reference of its own. It is writable if
    /// the mapping is, unless the driver wants to know of writes ([`VmOperations::page_mkwrite`]).
    /// If the access was a write, it is writable and dirty.
    ///
    /// If another thread has mapped a page there meanwhile, be it the same, that PTE stays as it
    /// is, and the access is tried again. So it is if the page table was freed meanwhile, as
    /// `MADV_DONTNEED` does to an empty one.
    ///
    /// # Errors
    ///
    /// - [`FaultError::Oom`]: there is no memory for a page table.
    /// - [`FaultError::Sigbus`]: the page cannot be mapped, or the VMA maps frame numbers.
    ///
    /// [`VmOperations::page_mkwrite`]: super::vm_ops::VmOperations::page_mkwrite
    pub fn insert_page(&self, page: &Page) -> Result<(), FaultError> {
        let around = Around {
            page: page.as_ptr(),
            nr_before: 0,
            nr_behind: 0,
        };
        self.insert_around(around)
    }

    /// As [`VmFault::insert_page`], for `folio`, which begins with page `first` of the file. What is
    /// around the page that was touched is mapped with it, clean, as far as the folio goes, and the VMA,
    /// and the page table, and up to where something is mapped. Each PTE gets a reference of its own.
    ///
    /// # Errors
    ///
    /// - [`FaultError::Oom`]: there is no memory for a page table.
    /// - [`FaultError::Sigbus`]: it cannot be mapped, the page that was touched is not of it, it is a
    ///   bundle, or the VMA maps frame numbers.
    pub fn insert_folio(&self, folio: &DriverPage, first: usize) -> Result<(), FaultError> {
        let folio = folio.all().as_folio().ok_or(FaultError::Sigbus)?;
        let around = self.around(folio, first).ok_or(FaultError::Sigbus)?;
        self.insert_around(around)
    }

    #[inline(never)]
    fn insert_around(&self, around: Around) -> Result<(), FaultError> {
        if !self.is_in(flags::MIXEDMAP) {
            return Err(FaultError::Sigbus);
        }
        let (vmf, is_write) = (self.vmf.as_ptr(), self.is_write());
        let Around {
            page,
            nr_before,
            nr_behind,
        } = around;
        // SAFETY: By the type invariants, and the VMA is VM_MIXEDMAP. The pages are of one folio; the
        // PTEs get references of their own.
        inserted(unsafe {
            bindings::tlb_batch_insert_page(vmf, page, nr_before, nr_behind, is_write)
        })
    }

    /// Where the fault is in `pages`, which begin with page `first` of the file.
    fn around(&self, pages: Pages<'_>, first: usize) -> Option<Around> {
        let nth = self.pgoff().checked_sub(first)?;
        let nr_behind = pages.nr().checked_sub(nth)?.checked_sub(1)?;
        Some(Around {
            page: pages.get(nth)?.as_ptr(),
            nr_before: nth as u32,
            nr_behind: nr_behind as u32,
        })
    }

    /// Maps `page` where the fault happened, by its frame number. Of several, which begin with page
    /// `first` of the file, what is around the page that was touched is mapped, too, as by
    /// [`VmFault::insert_folio`]. The PTEs own no reference, and nothing is accounted. They are writable
    /// if the mapping is, unless the driver wants to know of writes ([`VmOperations::pfn_mkwrite`]), and
    /// clean. What was mapped meanwhile stays, as with [`VmFault::insert_page`].
    ///
    /// # Errors
    ///
    /// - [`FaultError::Oom`]: there is no memory for a page table.
    /// - [`FaultError::Sigbus`]: the page cannot be mapped, the one that was touched is not of it, the VMA
    ///   does not map frame numbers, or the page is mapped over other data, in another file, or at
    ///   another offset already.
    ///
    /// [`VmOperations::pfn_mkwrite`]: super::vm_ops::VmOperations::pfn_mkwrite
    #[inline(never)]
    pub fn insert_pfn(&self, page: &DriverPage, first: usize) -> Result<(), FaultError> {
        let around = self.around(page.all(), first).ok_or(FaultError::Sigbus)?;
        if !self.is_in(flags::PFNMAP) || !page.note_mapped(self.vma().place(), first) {
            return Err(FaultError::Sigbus);
        }
        let vmf = self.vmf.as_ptr();
        let Around {
            page: touched,
            nr_before,
            nr_behind,
        } = around;
        let bundle = page.all().bundle();
        // SAFETY: By the type invariants, and the VMA is VM_PFNMAP. `page` knows that it is mapped, and
        // is not freed before it is unmapped and flushed. Of a bundle, `around` has seen to it that
        // there are as many; the list, of `NonNull`, is one of pointers, and is not kept.
        inserted(unsafe {
            match bundle {
                None => bindings::tlb_batch_insert_pfn(vmf, touched, nr_before, nr_behind),
                Some(pages) => {
                    let nr = pages.len() as u32;
                    bindings::tlb_batch_insert_pfns(vmf, pages.as_ptr().cast(), nr_before, nr)
                }
            }
        })
    }

    /// Returns which pages of the file would be mapped as a whole around the fault. [`None`] if that
    /// cannot be: the VMA does not cover all of it, at its start or at its end, or the offset in the
    /// file is not aligned as the address is.
    pub fn leaf_pgoffs(&self) -> Option<Range<usize>> {
        let address = self.raw().__bindgen_anon_1.address;
        self.vma().window()?.leaf_of(address)
    }

    /// Maps all that a page table would map around the fault, as a whole; for
    /// [`VmOperations::huge_fault`]. `page_at` returns the page at an offset of the file, or the folio
    /// that it is of. Where pages are mapped by reference, so is this, as by [`VmFault::insert_folio`];
    /// elsewhere by frame numbers, as [`VmFault::insert_pfn`] does one page. Returns whether there is
    /// nothing left to do, here or because somebody else was faster. There is, and no leaf, unless
    ///
    /// - there are [such offsets](VmFault::leaf_pgoffs),
    /// - a folio of so many pages begins at the first of them; or, where frame numbers are mapped, there
    ///   is a page at each of them, and they are one behind the other in memory, aligned to all of it, as
    ///   [`ExclusivePage::alloc_huge`](super::tlb::ExclusivePage::alloc_huge) makes them, and
    /// - neither a page table nor a leaf is there.
    ///
    /// By frame numbers, the pages may be noted as mapped ([`DriverPage`]) even so: those that were asked
    /// for go through a batch before they are dropped, as any that is mapped.
    ///
    /// Flushes first what others have cleared in that process and have yet to flush: a page table that
    /// went from this very place may be in use until then, and no CPU has to bear translations of two
    /// sizes.
    ///
    /// The caller keeps pages from being mapped there meanwhile, one by one or otherwise, for example
    /// by the lock under which its fault handlers look them up. If it does not, no page is lost, but
    /// translations of two sizes may meet, and the kernel may warn.
    ///
    /// A page, or a folio, is unmapped by a batch as any other; see
    /// [`Staging::unmap`](super::tlb::Staging::unmap) for what goes with it.
    ///
    /// # Errors
    ///
    /// - [`FaultError::Sigbus`]: one of the pages is mapped by its frame number over other data, in
    ///   another file, or at another offset already.
    ///
    /// # Context
    ///
    /// May send IPIs and wait for them: IRQs enabled, no spinlock held.
    ///
    /// [`VmOperations::huge_fault`]: super::vm_ops::VmOperations::huge_fault
    pub fn insert_huge<'p>(
        &self,
        page_at: impl Fn(usize) -> Option<&'p DriverPage>,
    ) -> Result<bool, FaultError> {
        let Some(pgoffs) = self.leaf_pgoffs() else {
            return Ok(false);
        };
        let Some(first) = page_at(pgoffs.start).filter(|page| page.all().as_folio().is_some())
        else {
            return Ok(false);
        };
        let can_be = if self.is_in(flags::PFNMAP) {
            self.note_huge(first, pgoffs, page_at)?
        } else {
            self.is_in(flags::MIXEDMAP) && first.nr_pages() == PTRS_PER_PTE
        };
        if !can_be {
            return Ok(false);
        }
        // SAFETY:
        // - By `leaf_pgoffs`, all that the leaf maps lies in the VMA.
        // - In one that is VM_PFNMAP, so many pages, which are one behind the other from `first` on, have
        //   just noted that they are mapped: none of them is freed before it is unmapped and flushed.
        // - In another, which is VM_MIXEDMAP, `first` is a folio of so many pages.
        match unsafe { self.insert_leaf(first.page()) } {
            bindings::vm_fault_reason_VM_FAULT_FALLBACK => Ok(false),
            fault => inserted(fault).map(|()| true),
        }
    }

    /// # Safety
    ///
    /// - All that a page table maps around the address must lie in the VMA, which is `VM_PFNMAP` or
    ///   `VM_MIXEDMAP`, and not both.
    /// - If it is `VM_PFNMAP`, `first` and the pages behind it, as many as a page table maps, must be kept
    ///   until the leaf, and its copies, are gone and flushed.
    /// - If not, `first` must be the first of a folio of so many pages.
    #[inline(never)]
    unsafe fn insert_leaf(&self, first: &Page) -> bindings::vm_fault_t {
        let (vmf, page, write) = (self.vmf.as_ptr(), first.as_ptr(), self.is_write());
        let is_pfnmap = self.is_in(flags::PFNMAP);
        // SAFETY: By the type invariants, and those of `Vma`: it is not copy-on-write. The rest is as
        // promised by the caller. What is mapped by reference gets one of its own. That nobody maps anything there meanwhile keeps sizes apart in
        // TLBs; no memory depends on it, for a leaf goes in only where the PMD is empty under its lock.
        unsafe {
            if is_pfnmap {
                bindings::tlb_batch_insert_huge(vmf, page)
            } else {
                bindings::tlb_batch_insert_huge_folio(vmf, page, write)
            }
        }
    }

    /// Has all that would be mapped by frame numbers as a whole, from `first` on, note that it is about
    /// to be. Returns whether it can be: `first` is a folio of as many pages, or they are one behind the
    /// other.
    fn note_huge<'p>(
        &self,
        first: &DriverPage,
        pgoffs: Range<usize>,
        page_at: impl Fn(usize) -> Option<&'p DriverPage>,
    ) -> Result<bool, FaultError> {
        let place = self.vma().place();
        let noted = |all: bool| all.then_some(true).ok_or(FaultError::Sigbus);
        if first.nr_pages() == PTRS_PER_PTE {
            return noted(first.note_mapped(place, pgoffs.start));
        }
        let start = first.page().as_ptr();
        // The page that is right at the `nr`th place.
        let right = |nr, pgoff| {
            let page: Option<&DriverPage> = page_at(pgoff);
            page.filter(|page| {
                page.nr_pages() == 1 && page.page().as_ptr() == start.wrapping_add(nr)
            })
        };
        let mut places = pgoffs.clone().enumerate();
        if !places.all(|(nr, pgoff)| right(nr, pgoff).is_some()) {
            return Ok(false);
        }
        // Asked once more: those that note it have to be those that are mapped.
        let note = |(nr, pgoff)| right(nr, pgoff).is_some_and(|p| p.note_mapped(place, pgoff));
        noted(pgoffs.enumerate().all(note))
    }
}

fn inserted(fault: bindings::vm_fault_t) -> Result<(), FaultError> {
    match fault {
        bindings::vm_fault_reason_VM_FAULT_NOPAGE => Ok(()),
        bindings::vm_fault_reason_VM_FAULT_OOM => Err(FaultError::Oom),
        _ => Err(FaultError::Sigbus),
    }
}
