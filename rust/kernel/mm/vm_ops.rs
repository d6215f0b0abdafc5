// SPDX-License-Identifier: GPL-2.0

//! VM operations: what a driver does when its mappings are used, copied and closed.
//!
//! A driver implements [`VmOperations`] and installs it from its `mmap` hook with
//! [`VmaNew::set_vm_ops`]. The VMA then owns a reference to the driver's data, and each copy of it
//! (by fork, mremap, or a split) another one; they are put when the VMA is closed.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::{
    mechanism,
    virt::{
        flags,
        VmaMixedMap,
        VmaNew, //
    }, //
};
use crate::{
    alloc::AllocError,
    bindings,
    page::Page,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};
use core::{
    marker::PhantomData,
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

    /// A VMA was copied: by fork, mremap or a split. The `mmap_lock` is held for writing.
    fn open(_data: ArcBorrow<'_, Self::Data>) {}

    /// A VMA is about to go. The `mmap_lock` is held, for reading at least: faults in other VMAs and
    /// other calls of this may run at the same time.
    fn close(_data: ArcBorrow<'_, Self::Data>) {}

    // `page_mkwrite`, `pfn_mkwrite` and `mremap` go here, and into `VmOperationsVTable`, installed
    // only if `HAS_...`: with a `mkwrite`, PTEs start out read-only.
}

/// Why a fault could not be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// No memory: the kernel may kill something, and the access is tried again.
    Oom,
    /// There is nothing to map: the process gets `SIGBUS`.
    Sigbus,
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
/// `vmf` is valid for `'a`, and belongs to a fault in a VMA that
/// [`set_vm_ops`](VmaNew::set_vm_ops) set up.
pub struct VmFault<'a> {
    vmf: NonNull<bindings::vm_fault>,
    _fault: PhantomData<&'a bindings::vm_fault>,
}

impl VmFault<'_> {
    /// Returns which page of the file was touched.
    pub fn pgoff(&self) -> usize {
        // SAFETY: By the type invariants; the field does not change during the fault.
        unsafe { (*self.vmf.as_ptr()).__bindgen_anon_1.pgoff }
    }

    /// Returns whether the access was a write.
    pub fn is_write(&self) -> bool {
        // SAFETY: By the type invariants; the field does not change during the fault.
        let bits = unsafe { (*self.vmf.as_ptr()).flags };
        bits & bindings::fault_flag_FAULT_FLAG_WRITE != 0
    }

    /// Maps `page` where the fault happened. The PTE gets a reference of its own. It is writable if
    /// the mapping is, and dirty if the access was a write.
    ///
    /// If another thread has mapped a page there meanwhile, that one stays: the access is tried
    /// again.
    ///
    /// # Errors
    ///
    /// - [`FaultError::Oom`]: there is no memory for a page table.
    /// - [`FaultError::Sigbus`]: the page cannot be mapped.
    pub fn insert_page(&self, page: &Page) -> Result<(), FaultError> {
        // SAFETY: By the type invariants, and `set_vm_ops` sets VM_MIXEDMAP.
        let fault = unsafe { mechanism::insert_page(self.vmf.as_ptr(), page, self.is_write()) };
        match fault {
            bindings::vm_fault_reason_VM_FAULT_NOPAGE => Ok(()),
            bindings::vm_fault_reason_VM_FAULT_OOM => Err(FaultError::Oom),
            _ => Err(FaultError::Sigbus),
        }
    }
}

/// The C view of [`VmOperations`].
///
/// All functions share one contract: `vma` is valid, its `vm_private_data` was set by
/// [`VmaNew::set_vm_ops`] for the same `T`, and so is a reference to a `T::Data` that this VMA owns.
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
        // SAFETY: As promised by the caller.
        T::close(unsafe { Self::data(vma) });
        // SAFETY: The reference is this VMA's own, from `set_vm_ops` or `open`, and is put once.
        drop(unsafe { Arc::<T::Data>::from_raw((*vma).vm_private_data.cast_const().cast()) });
    }

    /// # Safety
    ///
    /// `vmf` must be valid, for a fault in a VMA set up by [`VmaNew::set_vm_ops`] for `T`.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The VMA of a fault is valid during the fault; the `mmap_lock` is held.
        let data = unsafe { Self::data((*vmf).__bindgen_anon_1.vma) };
        // INVARIANT: As promised by the caller, for the time of this call.
        let vmf = VmFault {
            // SAFETY: The kernel passes a valid pointer.
            vmf: unsafe { NonNull::new_unchecked(vmf) },
            _fault: PhantomData,
        };
        match T::fault(data, &vmf) {
            Ok(()) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Err(FaultError::Oom) => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(FaultError::Sigbus) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }

    const VTABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        may_split: Some(may_split),
        open: Some(Self::open),
        close: Some(Self::close),
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    };
}

/// VMAs may be split. Not generic, so it has one address: by that, [`is_ours`] recognises VMAs that
/// [`VmaNew::set_vm_ops`] set up.
#[inline(never)]
extern "C" fn may_split(_vma: *mut bindings::vm_area_struct, _addr: usize) -> c_int {
    0
}

/// Returns whether these are the operations that [`VmaNew::set_vm_ops`] installs.
#[inline(never)]
pub(super) fn is_ours(ops: &bindings::vm_operations_struct) -> bool {
    let ours: unsafe extern "C" fn(_, _) -> _ = may_split;
    ops.may_split
        .is_some_and(|f| core::ptr::fn_addr_eq(f, ours))
}

impl VmaNew {
    /// Returns which page of the file is mapped at the start of this VMA.
    pub fn pgoff(&self) -> usize {
        // SAFETY: The VMA is being set up under the `mmap_lock`, so it is valid and does not change.
        unsafe { mechanism::vma_pgoff(self.as_ptr()) }
    }

    /// Installs `T` for this VMA and its copies, over `data`.
    ///
    /// The VMA becomes a `VM_MIXEDMAP` mapping of pages with references, and cannot be grown. A
    /// page's PTE owns a reference to it; munmap and exit need no help of the driver.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the mapping is not `MAP_SHARED`. A private one could hold copies that the driver
    ///   knows nothing of.
    /// - `EBUSY`: this VMA has VM operations already.
    ///
    /// # Context
    ///
    /// In the `mmap` hook: the `mmap_lock` is held for writing.
    pub fn set_vm_ops<T: VmOperations>(&self, data: Arc<T::Data>) -> Result<&VmaMixedMap> {
        if self.flags() & flags::MAYSHARE == 0 {
            return Err(EINVAL);
        }
        // SAFETY: The VMA is being set up, so nobody else reads or writes it.
        if !unsafe { (*self.as_ptr()).vm_private_data }.is_null() {
            return Err(EBUSY);
        }
        self.set_dontexpand();
        let mixed = self.set_mixedmap();
        // SAFETY: As above. The operations are static, and the module that they are in is pinned by
        // the file, which the VMA pins until after `close`. `data` goes to the VMA, as the contract
        // of `VmOperationsVTable` says.
        // If `T` is of another module than the file, then that of the file, whose hook has called
        // this, depends on that of `T`, and pins it.
        unsafe {
            (*self.as_ptr()).vm_private_data = Arc::into_raw(data).cast_mut().cast();
            (*self.as_ptr()).vm_ops = &VmOperationsVTable::<T>::VTABLE;
        }
        Ok(mixed)
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
