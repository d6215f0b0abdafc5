// SPDX-License-Identifier: GPL-2.0

//! VM operations: what a driver does when its mappings are used, copied and closed.
//!
//! A driver implements [`VmOperations`] and installs it from its `mmap` hook with
//! [`VmaNew::set_vm_ops`]. The VMA then owns a reference to the driver's data, and each copy of it
//! (by fork, mremap, or a split) another one; they are put when the VMA is closed.
//!
//! # Examples
//!
//! What a driver writes. Only a process can map it; for a whole driver see
//! [`samples/rust/rust_tlb_minimal.rs`](srctree/samples/rust/rust_tlb_minimal.rs).
//!
//! ```
//! use kernel::{
//!     mm::{
//!         virt::VmaNew,
//!         vm_ops::{FaultError, VmFault, VmOperations}, //
//!     },
//!     new_mutex,
//!     page::Page,
//!     sync::{Arc, ArcBorrow, Mutex}, //
//! };
//!
//! #[pin_data]
//! struct Pages {
//!     #[pin]
//!     slots: Mutex<[Option<Page>; 4]>,
//! }
//!
//! #[vtable]
//! impl VmOperations for Pages {
//!     type Data = Self;
//!
//!     fn fault(pages: ArcBorrow<'_, Self>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
//!         let fresh = Page::alloc_page(GFP_KERNEL)?;
//!         let mut slots = pages.slots.lock();
//!         let slot = slots.get_mut(vmf.pgoff()).ok_or(FaultError::Sigbus)?;
//!         vmf.insert_page(slot.get_or_insert(fresh))
//!     }
//! }
//!
//! // What `MiscDevice::mmap` calls.
//! fn mmap(pages: Arc<Pages>, vma: &VmaNew) -> Result {
//!     vma.set_vm_ops::<Pages>(pages).map(|_| ())
//! }
//!
//! let slots = pin_init!(Pages { slots <- new_mutex!([const { None }; 4]) });
//! let pages = Arc::pin_init(slots, GFP_KERNEL)?;
//! assert!(pages.slots.lock().iter().all(Option::is_none));
//! # Ok::<(), Error>(())
//! ```
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

pub use super::fault::{
    FaultError,
    VmFault, //
};

use super::{
    rmap::{
        is_ours,
        may_split, //
    },
    virt::{
        flags,
        VmaMixedMap,
        VmaNew, //
    },
    window::PTRS_PER_PTE, //
};
use crate::{
    bindings,
    error::VTABLE_DEFAULT_ERROR,
    module::this_module,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};
use core::{
    marker::PhantomData,
    mem,
    ptr::NonNull, //
};

/// Operations on the mappings of a driver.
///
/// All are called in process context and may sleep.
#[vtable]
pub trait VmOperations: 'static {
    /// What the mappings share. The VMAs own references to it.
    type Data: Send + Sync + 'static;

    /// A page was touched that no PTE maps. The handler maps one with [`VmFault::insert_page`].
    ///
    /// # Errors
    ///
    /// See [`FaultError`].
    ///
    /// # Context
    ///
    /// The `mmap_lock` is held for reading.
    fn fault(data: ArcBorrow<'_, Self::Data>, vmf: &VmFault<'_>) -> Result<(), FaultError>;

    /// A page was touched where no page table is, in a place where one could map all that a page
    /// table maps (2 MiB) as a whole: [`VmFault::insert_huge`] does. If this returns `false`, because
    /// that cannot be, [`VmOperations::fault`] is called next. It is called for a write to what is
    /// mapped read-only as a whole, too: return `false`, and it is split, and comes back page by page.
    ///
    /// Without `CONFIG_TRANSPARENT_HUGEPAGE` it is never called. Where pages are mapped by reference
    /// ([`VmaNew::set_vm_ops`]), `/sys/kernel/mm/transparent_hugepage/enabled` decides, too: `always`, or
    /// `madvise` for a mapping with `MADV_HUGEPAGE`.
    ///
    /// # Errors
    ///
    /// See [`FaultError`].
    ///
    /// # Context
    ///
    /// The `mmap_lock` is held for reading, or the lock of the VMA alone.
    fn huge_fault(
        _data: ArcBorrow<'_, Self::Data>,
        _vmf: &VmFault<'_>,
    ) -> Result<bool, FaultError> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A VMA was copied: by fork, mremap or a split. The `mmap_lock` is held for writing. A fork
    /// copies the PTEs only after this: to unmap here would not keep the child from having them.
    fn open(_data: ArcBorrow<'_, Self::Data>) {}

    /// A VMA is about to go. The `mmap_lock` is held, for reading at least: faults in other VMAs
    /// and other calls of this may run at the same time.
    fn close(_data: ArcBorrow<'_, Self::Data>) {}

    /// A mapping of `nr_pages` was moved by mremap: all its PTEs are at the new address, and no CPU
    /// knows an old one still. The copy was opened before; the old mapping is closed after
    /// (`MREMAP_DONTUNMAP` is refused). Without this function every move is allowed.
    ///
    /// # Errors
    ///
    /// Whatever mremap is to return: the PTEs are moved back first.
    ///
    /// # Context
    ///
    /// The `mmap_lock` is held for writing.
    fn mremap(_data: ArcBorrow<'_, Self::Data>, _nr_pages: usize) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// A page that is mapped read-only, by reference, is about to be written to. With this
    /// function, PTEs start out read-only in writable mappings, and a write to a clean page comes
    /// here first; on success the PTE becomes writable and dirty, unless it has changed meanwhile:
    /// then the access is tried again. A PTE that is writable and clean exists only in a child: a
    /// fork copies a dirty one as clean.
    ///
    /// # Errors
    ///
    /// See [`FaultError`].
    ///
    /// # Context
    ///
    /// The `mmap_lock` is held for reading. The page is locked.
    fn page_mkwrite(
        _data: ArcBorrow<'_, Self::Data>,
        _vmf: &VmFault<'_>,
    ) -> Result<(), FaultError> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// As [`VmOperations::page_mkwrite`], for a page that is mapped by its frame number.
    ///
    /// # Errors
    ///
    /// See [`FaultError`].
    ///
    /// # Context
    ///
    /// The `mmap_lock` is held for reading.
    fn pfn_mkwrite(_data: ArcBorrow<'_, Self::Data>, _vmf: &VmFault<'_>) -> Result<(), FaultError> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The C view of [`VmOperations`].
///
/// All functions share one contract: `vma` is valid, its `vm_private_data` was set by
/// [`VmaNew::set_vm_ops`] for the same `T`, and so is a reference to a `T::Data` that this VMA
/// owns.
struct VmOperationsVTable<T: VmOperations>(PhantomData<T>);

impl<T: VmOperations> VmOperationsVTable<T> {
    /// # Safety
    ///
    /// `vma` must be valid for `'a`, and have been set up by [`VmaNew::set_vm_ops`] for `T`.
    unsafe fn data<'a>(vma: *mut bindings::vm_area_struct) -> ArcBorrow<'a, T::Data> {
        // SAFETY: `set_vm_ops` stored what `Arc::into_raw` returned, and the VMA's reference is put
        // only in `close`, after which the VMA is not used.
        unsafe { ArcBorrow::from_raw((*vma).vm_private_data.cast_const().cast()) }
    }

    /// # Safety
    ///
    /// `vma` must be a copy of one set up by [`VmaNew::set_vm_ops`] for `T`, not opened before.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The VMA that this one was copied from still exists, with its reference.
        let data = unsafe { Self::data(vma) };
        T::open(data);
        // The copy's own reference; the pointer was copied with the VMA.
        let _ = Arc::into_raw(Arc::from(data));
    }

    /// # Safety
    ///
    /// `vma` must have been set up by [`VmaNew::set_vm_ops`] for `T`, and not be used afterwards.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the caller's promise `vma` is valid, and of `T`. The reference is its own, from
        // `set_vm_ops` or `open`, and is put once, when `data` is dropped.
        let data = unsafe { Arc::<T::Data>::from_raw((*vma).vm_private_data.cast_const().cast()) };
        T::close(data.as_arc_borrow());
    }

    /// # Safety
    ///
    /// `vma` must be a copy, opened and not closed, of one set up by [`VmaNew::set_vm_ops`] for `T`,
    /// and the `mmap_lock` be held for writing.
    unsafe extern "C" fn mremap(vma: *mut bindings::vm_area_struct) -> c_int {
        // SAFETY: As promised by the caller; under the `mmap_lock` the addresses do not change.
        let (data, len) = unsafe {
            let range = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
            (Self::data(vma), range.vm_end - range.vm_start)
        };
        match T::mremap(data, len / PAGE_SIZE) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `vmf` must be valid, for a fault in a VMA set up by [`VmaNew::set_vm_ops`] for `T`.
    unsafe fn handle<R>(
        vmf: *mut bindings::vm_fault,
        handler: Handler<T, R>,
    ) -> Result<R, FaultError> {
        // INVARIANT: As promised by the caller, for the time of this call.
        // SAFETY: As promised by the caller. The VMA of a fault is valid during the fault; the `mmap_lock`
        // is held, or the VMA's own lock.
        let (data, vmf) = unsafe {
            let data = Self::data((*vmf).__bindgen_anon_1.vma);
            (data, VmFault::from_raw(NonNull::new_unchecked(vmf)))
        };
        handler(data, &vmf)
    }

    /// # Safety
    ///
    /// As `handle`.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: As promised by the caller.
        match unsafe { Self::handle(vmf, T::fault) } {
            Ok(()) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Err(error) => error.into_raw(),
        }
    }

    /// # Safety
    ///
    /// As `handle`. For PMDs, `vmf` has that of its address.
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // A PUD, for example: 1 GiB.
        if order != PTRS_PER_PTE.trailing_zeros() {
            return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
        }
        // SAFETY: As promised by the caller.
        match unsafe { Self::handle(vmf, T::huge_fault) } {
            Ok(true) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Ok(false) => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            Err(error) => error.into_raw(),
        }
    }

    /// # Safety
    ///
    /// As `handle`; `vmf` names the page.
    unsafe extern "C" fn page_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // The page has no mapping. Not locked, the kernel would take it for truncated, for ever.
        // SAFETY: The kernel names the page, and holds a reference to it. The fault is being handled for
        // all of this function.
        let locked = unsafe { FaultLock::lock(vmf) };
        // SAFETY: As promised by the caller.
        match unsafe { Self::handle(vmf, T::page_mkwrite) } {
            Ok(()) => {
                // The kernel unlocks it.
                mem::forget(locked);
                bindings::vm_fault_reason_VM_FAULT_LOCKED
            }
            Err(error) => error.into_raw(),
        }
    }

    /// # Safety
    ///
    /// As `handle`.
    unsafe extern "C" fn pfn_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: As promised by the caller.
        match unsafe { Self::handle(vmf, T::pfn_mkwrite) } {
            Ok(()) => 0,
            Err(error) => error.into_raw(),
        }
    }

    const VTABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        may_split: Some(may_split),
        open: Some(Self::open),
        close: Some(Self::close),
        fault: Some(Self::fault),
        huge_fault: if T::HAS_HUGE_FAULT {
            Some(Self::huge_fault)
        } else {
            None
        },
        mremap: if T::HAS_MREMAP {
            Some(Self::mremap)
        } else {
            None
        },
        page_mkwrite: if T::HAS_PAGE_MKWRITE {
            Some(Self::page_mkwrite)
        } else {
            None
        },
        pfn_mkwrite: if T::HAS_PFN_MKWRITE {
            Some(Self::pfn_mkwrite)
        } else {
            None
        },
        ..pin_init::zeroed()
    };
}

/// The lock of the page that a `page_mkwrite` is about.
///
/// # Invariants
///
/// The page that the fault names is locked by this task, for this to unlock, and the fault is still being
/// handled.
struct FaultLock(*mut bindings::vm_fault);

impl FaultLock {
    /// # Safety
    ///
    /// `vmf` must belong to a `page_mkwrite` that is being handled in this task, until what is returned was
    /// dropped or forgotten.
    #[inline(never)]
    unsafe fn lock(vmf: *mut bindings::vm_fault) -> Self {
        // SAFETY: The caller promises that `vmf` names a page.
        unsafe { bindings::tlb_batch_lock_page(vmf) };
        // INVARIANT: It was just locked.
        Self(vmf)
    }
}

impl Drop for FaultLock {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the page is locked, and this unlocks it.
        unsafe { bindings::tlb_batch_unlock_page(self.0) }
    }
}

/// One of the functions of `T` that handle a fault.
type Handler<T, R> =
    fn(ArcBorrow<'_, <T as VmOperations>::Data>, &VmFault<'_>) -> Result<R, FaultError>;

impl VmaNew {
    /// Returns which page of the file is mapped at the start of this VMA.
    pub fn pgoff(&self) -> usize {
        // SAFETY: The VMA is being set up under the `mmap_lock`, so it is valid and does not
        // change.
        unsafe { (*self.as_ptr()).vm_pgoff }
    }

    /// Installs `T` for this VMA and its copies, over `data`.
    ///
    /// The VMA becomes a `VM_MIXEDMAP` mapping of pages with references, and cannot be grown. A
    /// page's PTE owns a reference to it; munmap and exit need no help of the driver.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the mapping is private and can be made writable. It could hold copies that the
    ///   driver knows nothing of. One that can never be written to
    ///   ([`try_clear_maywrite`](VmaNew::try_clear_maywrite)) may be private.
    ///   Or `T` is not of the module that the file pins, which could be unloaded before the mapping
    ///   is gone. Or the VMA is `VM_PFNMAP` already.
    /// - `EBUSY`: this VMA has VM operations, or private data, already.
    ///
    /// # Context
    ///
    /// In the `mmap` hook: the `mmap_lock` is held for writing.
    pub fn set_vm_ops<T: VmOperations>(&self, data: Arc<T::Data>) -> Result<&VmaMixedMap> {
        self.install::<T>(data, false)?;
        self.set_mixedmap()
    }

    /// As [`VmaNew::set_vm_ops`], for pages without references: the VMA becomes a `VM_PFNMAP`
    /// mapping. GUP and `MADV_DONTNEED` are refused there.
    ///
    /// # Errors
    ///
    /// As [`VmaNew::set_vm_ops`]; also `EBUSY` if the VMA is `VM_MIXEDMAP` already.
    pub fn set_pfn_vm_ops<T: VmOperations>(&self, data: Arc<T::Data>) -> Result {
        self.install::<T>(data, true)
    }

    fn install<T: VmOperations>(&self, data: Arc<T::Data>, by_pfn: bool) -> Result {
        if by_pfn && self.flags() & flags::MIXEDMAP != 0 {
            return Err(EBUSY);
        }
        // C: `is_cow_mapping()`.
        if self.flags() & (flags::MAYSHARE | flags::MAYWRITE) == flags::MAYWRITE {
            return Err(EINVAL);
        }
        if !self.is_fresh() {
            return Err(EBUSY);
        }
        if !self.is_pinning::<T>() {
            return Err(EINVAL);
        }
        self.set_dontexpand();
        // SAFETY: The VMA is being set up, so nobody else reads or writes it. The operations are
        // static, in a module that `is_pinning` found to be pinned by the file, which the VMA pins
        // until after `close`. `data` goes to the VMA, as the contract of `VmOperationsVTable` says. What
        // becomes VM_PFNMAP is neither copy-on-write nor VM_MIXEDMAP, by the checks above, and
        // `set_mixedmap` refuses it from here on.
        unsafe {
            let vma = self.as_ptr();
            (*vma).vm_private_data = Arc::into_raw(data).cast_mut().cast();
            (*vma).vm_ops = &VmOperationsVTable::<T>::VTABLE;
            if by_pfn {
                (*vma).__bindgen_anon_2.vm_flags |= flags::PFNMAP;
            }
        }
        Ok(())
    }

    /// Returns whether nobody has installed operations or data.
    #[inline(never)]
    fn is_fresh(&self) -> bool {
        // SAFETY: The VMA is valid, and being set up.
        unsafe { bindings::tlb_batch_vma_is_fresh(self.as_ptr()) }
    }

    /// Returns whether the module of `T` stays as long as the file of this VMA: it is the one that
    /// the file pins, or built in.
    fn is_pinning<T: VmOperations>(&self) -> bool {
        let module = this_module::<T::OwnerModule>().as_ptr();
        // SAFETY: The VMA is being set up in the `mmap` of its file, whose operations are valid.
        let owner = unsafe { (*(*(*self.as_ptr()).vm_file).f_op).owner };
        module.is_null() || module == owner
    }

    /// Undoes [`VmaNew::set_vm_ops`] in an `mmap` hook that fails after it; without effect if it
    /// was not called. The hook has to return an error next: `mmap_file()` then replaces the
    /// operations.
    pub(crate) fn abandon_vm_ops(&self) {
        let vma = self.as_ptr();
        // SAFETY: The VMA is being set up, so nobody else uses it, and `vm_ops` is null or valid.
        let Some(ops) = unsafe { (*vma).vm_ops.as_ref() }.filter(|ops| is_ours(ops)) else {
            return;
        };
        if let Some(close) = ops.close {
            // SAFETY: `set_vm_ops` has run, and gave the VMA the reference that `close` puts. The
            // caller has the kernel install other operations next, so it is put once.
            unsafe { close(vma) };
        }
    }
}

#[cfg(CONFIG_RUST_TLB_KUNIT_TEST)]
#[macros::kunit_tests(rust_tlb_vm_ops)]
mod tests {
    use super::*;
    use crate::{
        mm::virt::vm_flags_t,
        module::ModuleMetadata,
        ThisModule, //
    };
    use core::ptr;

    /// Where a module would be. Nobody looks into it.
    const LOADED: *mut bindings::module = ptr::without_provenance_mut(0x1000);
    const ANOTHER: *mut bindings::module = ptr::without_provenance_mut(0x2000);
    const SHARED: vm_flags_t = flags::MAYSHARE | flags::MAYWRITE;

    struct Owner<const AT: usize>;

    impl<const AT: usize> ModuleMetadata for Owner<AT> {
        const NAME: &'static CStr = c"made_up";
        // SAFETY: It is compared, and not used.
        const THIS_MODULE: ThisModule =
            unsafe { ThisModule::from_ptr(ptr::without_provenance_mut(AT)) };
    }

    struct Ops<const AT: usize>;

    #[vtable]
    impl<const AT: usize> VmOperations for Ops<AT> {
        type Data = ();
        type OwnerModule = Owner<AT>;

        fn fault(_data: ArcBorrow<'_, ()>, _vmf: &VmFault<'_>) -> Result<(), FaultError> {
            Err(FaultError::Sigbus)
        }
    }

    /// Has `what` seen a VMA in a file of `owner`, as its `mmap` hook does.
    fn with_vma<T>(
        owner: *mut bindings::module,
        vm_flags: vm_flags_t,
        what: impl FnOnce(&VmaNew) -> T,
    ) -> T {
        let fops = bindings::file_operations {
            owner,
            ..pin_init::zeroed()
        };
        let mut file: KBox<bindings::file> = KBox::new(pin_init::zeroed(), GFP_KERNEL).unwrap();
        let mut vma: KBox<bindings::vm_area_struct> =
            KBox::new(pin_init::zeroed(), GFP_KERNEL).unwrap();
        file.f_op = &fops;
        vma.vm_file = &mut *file;
        vma.__bindgen_anon_2.vm_flags = vm_flags;
        // SAFETY: Nobody else knows it.
        let vma = unsafe { VmaNew::from_raw(&mut *vma) };
        let result = what(vma);
        vma.abandon_vm_ops();
        result
    }

    fn data() -> Arc<()> {
        Arc::new((), GFP_KERNEL).unwrap()
    }

    #[test]
    fn the_module_of_the_operations_is_pinned_by_the_file() {
        for (owner, expected) in [(LOADED, Ok(())), (ANOTHER, Err(EINVAL))] {
            let installed = with_vma(owner, SHARED, |vma| {
                vma.set_vm_ops::<Ops<0x1000>>(data()).map(|_| ())
            });
            assert_eq!(installed, expected);
        }
        // What is built in stays.
        let installed = with_vma(LOADED, SHARED, |vma| vma.set_pfn_vm_ops::<Ops<0>>(data()));
        assert_eq!(installed, Ok(()));
    }

    #[test]
    fn a_vma_is_of_one_kind_only() {
        with_vma(LOADED, SHARED, |vma| {
            assert_eq!(vma.set_pfn_vm_ops::<Ops<0x1000>>(data()), Ok(()));
            assert_eq!(vma.set_mixedmap().err(), Some(EINVAL));
            assert_eq!(vma.flags() & flags::MIXEDMAP, 0);
        });
        with_vma(LOADED, SHARED | flags::MIXEDMAP, |vma| {
            assert_eq!(vma.set_pfn_vm_ops::<Ops<0x1000>>(data()), Err(EBUSY));
        });
    }

    #[test]
    fn operations_are_installed_once() {
        with_vma(LOADED, SHARED, |vma| {
            assert!(vma.set_vm_ops::<Ops<0x1000>>(data()).is_ok());
            assert_eq!(vma.set_vm_ops::<Ops<0x1000>>(data()).err(), Some(EBUSY));
        });
        // Others' operations need no data.
        let theirs: bindings::vm_operations_struct = Default::default();
        with_vma(LOADED, SHARED, |vma| {
            // SAFETY: Nobody else knows the VMA.
            unsafe { (*vma.as_ptr()).vm_ops = &theirs };
            assert_eq!(vma.set_vm_ops::<Ops<0x1000>>(data()).err(), Some(EBUSY));
            assert_eq!(vma.set_pfn_vm_ops::<Ops<0x1000>>(data()), Err(EBUSY));
        });
    }

    #[test]
    fn a_private_mapping_that_can_be_written_is_refused() {
        for (vm_flags, expected) in [(flags::MAYWRITE, Err(EINVAL)), (0, Ok(()))] {
            let installed = with_vma(LOADED, vm_flags, |vma| {
                vma.set_pfn_vm_ops::<Ops<0x1000>>(data())
            });
            assert_eq!(installed, expected);
        }
    }
}
