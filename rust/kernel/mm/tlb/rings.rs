// SPDX-License-Identifier: GPL-2.0

//! Which address spaces have a [ring](super::ring).

use crate::{
    bindings,
    error::to_result,
    mm::Mm,
    prelude::*, //
};

/// Rings are in use as long as one of these exists. Where there is none, those hooks of the kernel
/// that fill and read rings are branches that are patched out.
pub struct Rings(());

impl Rings {
    /// Puts rings to use.
    ///
    /// # Context
    ///
    /// May sleep, and takes the lock of CPU hotplug, so no `mmap_lock` is held: for a module's
    /// `init`. The same goes for drop.
    #[inline(never)]
    pub fn enable() -> Self {
        // SAFETY: Counts, and patches branches. In another context it could wait for ever, and lockdep
        // reports; no memory is at risk.
        unsafe { bindings::tlb_batch_rings_get() };
        Self(())
    }

    /// Gives `mm` a ring, a page that is charged to the caller's memory cgroup, unless it has one.
    /// It keeps the ring as long as it exists; a child of it starts without. An address space
    /// without a ring is flushed in full where one with a ring is flushed page by page.
    ///
    /// # Errors
    ///
    /// - [`EOPNOTSUPP`] if the kernel was built without rings, or if this machine has other ways to
    ///   flush, which leave no room for one: `INVLPGB`, or Xen's.
    /// - [`ENOMEM`] if there is no memory.
    ///
    /// # Context
    ///
    /// May sleep. `mmap_lock` may be held.
    #[inline(never)]
    pub fn add(&self, mm: &Mm) -> Result {
        // SAFETY: `self` keeps rings in use. `mm` is a reference, so it is not freed during the call.
        to_result(unsafe { bindings::tlb_batch_ring_add(mm.as_raw()) })
    }
}

impl Drop for Rings {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: As in `enable`, which counted one more.
        unsafe { bindings::tlb_batch_rings_put() }
    }
}
