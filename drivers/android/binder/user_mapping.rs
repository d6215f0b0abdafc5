// SPDX-License-Identifier: GPL-2.0

//! The mapping of a process that its pages are shown in, and how the shrinker takes pages out of it:
//! one at a time, with a TLB shootdown for each. `user_mapping_tlb.rs` has one for all.

use crate::AssertSync;
use core::marker::PhantomData;
use kernel::{
    bindings,
    mm::virt,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::Arc, //
};

// We do not define any ops. Used only to check the identity of VMAs.
static BINDER_VM_OPS: AssertSync<bindings::vm_operations_struct> = AssertSync(pin_init::zeroed());

/// The mapping that the pages of a range are shown in.
pub(crate) struct UserMapping {
    /// Its address is what the VMA is recognised by. The range keeps it until the file is released,
    /// and so longer than any VMA.
    identity: Arc<u8>,
}

impl UserMapping {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            identity: Arc::new(0, GFP_KERNEL)?,
        })
    }

    /// Makes `vma` the mapping.
    pub(crate) fn install(&self, vma: &virt::VmaNew) -> Result {
        let identity: *const u8 = &*self.identity;
        // SAFETY: The VMA is being set up, so it is ours, and no method of `VmaNew` that relies on
        // these fields is used. The pointer is compared, and not dereferenced.
        unsafe {
            (*vma.as_ptr()).vm_private_data = identity.cast_mut().cast();
            (*vma.as_ptr()).vm_ops = &BINDER_VM_OPS.0;
        }
        Ok(())
    }

    fn of<'a>(&self, vma: &'a virt::VmaRef) -> Option<&'a virt::VmaMixedMap> {
        let identity: *const u8 = &*self.identity;
        // SAFETY: A `VmaRef` is valid, and these fields do not change while it is linked.
        let (vm_ops, private) =
            unsafe { ((*vma.as_ptr()).vm_ops, (*vma.as_ptr()).vm_private_data) };
        if !core::ptr::eq(vm_ops, &BINDER_VM_OPS.0) || !core::ptr::eq(private, identity.cast()) {
            return None;
        }
        vma.as_mixedmap_vma()
    }

    /// Maps `page` at `address` of `vma`.
    ///
    /// The caller holds `mm_lock`.
    pub(crate) fn insert_page(
        &self,
        _scans: &Scans,
        vma: &virt::VmaRef,
        address: usize,
        page: &Page,
    ) -> Result {
        self.of(vma).ok_or(ESRCH)?.vm_insert_page(address, page)
    }

    /// Another handle to the same mapping.
    pub(crate) fn handle(&self) -> Self {
        Self {
            identity: self.identity.clone(),
        }
    }
}

/// The scans of a shrinker.
pub(crate) struct Scans(());

impl Scans {
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// Takes memory for a scan: none is needed.
    pub(crate) fn prepare(&self) -> Result {
        Ok(())
    }

    /// Begins a scan.
    pub(crate) fn begin(&self) -> Scan<'_> {
        Scan(PhantomData)
    }
}

/// A scan of the shrinker.
pub(crate) struct Scan<'s>(PhantomData<&'s Scans>);

impl Scan<'_> {
    /// Takes `page` out of `vma`, where it is mapped at `address`, and frees it.
    ///
    /// The caller holds the range's `mm_lock`, and no spinlock.
    pub(crate) fn free_page(
        &mut self,
        mapping: &UserMapping,
        vma: &virt::VmaRef,
        address: usize,
        page: Option<Page>,
    ) {
        if let Some(vma) = mapping.of(vma) {
            vma.zap_vma_range(address, PAGE_SIZE);
        }
        drop(page);
    }
}

pub(crate) type Switch = ();

pub(crate) fn offer_switch() -> Result<Switch> {
    Ok(())
}
