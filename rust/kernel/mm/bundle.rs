// SPDX-License-Identifier: GPL-2.0

//! Pages of their own that are owned together, wherever they are in memory.

use crate::{
    alloc::{
        flags::__GFP_HIGHMEM,
        Flags, //
    },
    bindings,
    mm::mechanism,
    page::{
        BorrowedPage,
        Page, //
    },
    prelude::*, //
};
use core::{
    mem::{
        offset_of,
        ManuallyDrop, //
    },
    ptr::NonNull, //
};

/// Pages that are owned together.
///
/// Its owner knows the first of them, and how many there are: so it is no larger than who owns a page.
/// The list of all is where a page has room for what its owner likes (`page->private`).
///
/// # Invariants
///
/// Each is valid, and one reference to it is owned.
pub(super) struct Bundle(KVec<NonNull<bindings::page>>);

// SAFETY: As `Page`: it has no logic that relies on a thread.
unsafe impl Send for Bundle {}

// SAFETY: As `Page`: the list does not change.
unsafe impl Sync for Bundle {}

impl Bundle {
    /// Allocates `nr` zeroed pages, one at least, and returns the first. Its reference is the bundle's:
    /// it is put by who [takes](Self::take) that.
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there are none, or if the task is being killed.
    pub(super) fn alloc_zeroed(nr: usize, flags: Flags) -> Result<ManuallyDrop<Page>> {
        // That is for pages, and not for a list of them.
        let list_flags = flags & !__GFP_HIGHMEM;
        let list = KVec::with_capacity(nr, list_flags)?;
        // INVARIANT: There are none.
        let mut bundle = KBox::new(Self(list), list_flags)?;
        for _ in 0..nr {
            // Else it takes from reserves, as many as there are.
            if mechanism::is_being_killed() {
                return Err(ENOMEM);
            }
            bundle.push(Page::alloc_page(flags | __GFP_ZERO)?)?;
        }
        let first = *bundle.0.first().ok_or(EINVAL)?;
        let bundle = KBox::into_raw(bundle);
        // SAFETY: It is valid, nobody else knows of it, and what it has there is its owner's.
        unsafe { *private_of(first.as_ptr()) = bundle.expose_provenance() };
        // SAFETY: It is valid until `take`. Its reference is that of the list: who gets this does not
        // put it.
        Ok(ManuallyDrop::new(unsafe { owned(first) }))
    }

    fn push(&mut self, page: Page) -> Result {
        // A `Page` is never null.
        let raw = NonNull::new(page.as_ptr()).ok_or(ENOMEM)?;
        self.0.push_within_capacity(raw).map_err(|_| ENOMEM)?;
        // INVARIANT: Its reference goes with it.
        core::mem::forget(page);
        Ok(())
    }

    /// Returns all pages of the bundle of which `first` is the first.
    ///
    /// # Safety
    ///
    /// `first` must come from [`Bundle::alloc_zeroed`], and the bundle not be taken while it is borrowed.
    pub(super) unsafe fn pages_of(first: &Page) -> &[NonNull<bindings::page>] {
        // SAFETY: As promised by the caller.
        let bundle = unsafe { &*Self::of(first) };
        &bundle.0
    }

    /// Takes the bundle of which `first` is the first.
    ///
    /// # Safety
    ///
    /// `first` must come from [`Bundle::alloc_zeroed`], and be used no more.
    pub(super) unsafe fn take(first: &Page) -> KBox<Self> {
        // SAFETY: It comes from `KBox::into_raw`, and is taken once, as the caller promises.
        unsafe { KBox::from_raw(Self::of(first)) }
    }

    /// # Safety
    ///
    /// `first` must come from [`Bundle::alloc_zeroed`], and the bundle not have been taken.
    unsafe fn of(first: &Page) -> *mut Self {
        // SAFETY: A `Page` is valid. It was written before anybody else knew of it.
        let addr = unsafe { *private_of(first.as_ptr()) };
        core::ptr::with_exposed_provenance_mut(addr)
    }
}

/// Returns where the owner of `page` may put a word (`page->private`).
fn private_of(page: *mut bindings::page) -> *mut usize {
    const OFFSET: usize = offset_of!(bindings::page, __bindgen_anon_1.__bindgen_anon_1.private);
    page.wrapping_byte_add(OFFSET).cast()
}

/// Makes a `Page` of a reference to one.
///
/// # Safety
///
/// The reference must be the caller's, and be used no more; or the `Page` must not be dropped, and not
/// be used any longer than the reference is held.
pub(super) unsafe fn owned(page: NonNull<bindings::page>) -> Page {
    // SAFETY: As promised by the caller. What is borrowed does not put the reference when it is dropped.
    unsafe { core::ptr::read(&*BorrowedPage::from_raw(page)) }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if let Some(first) = self.0.first() {
            // SAFETY: It is valid, and ours.
            unsafe { *private_of(first.as_ptr()) = 0 };
        }
        for &page in self.0.iter() {
            // SAFETY: By the type invariants the reference is ours, and it is put once.
            drop(unsafe { owned(page) });
        }
    }
}

#[cfg(CONFIG_RUST_TLB_KUNIT_TEST)]
#[macros::kunit_tests(rust_tlb_bundle)]
mod tests {
    use super::*;

    /// A bundle, dropped again. Returns whether its pages are one behind the other.
    fn is_in_a_row(nr: usize) -> bool {
        let first = Bundle::alloc_zeroed(nr, GFP_KERNEL | __GFP_HIGHMEM).unwrap();
        let raw = first.as_ptr();
        // SAFETY: It was just made, and `first` is not used afterwards.
        let bundle = unsafe { Bundle::take(&first) };
        assert_eq!(bundle.0.len(), nr);
        assert_eq!(bundle.0[0].as_ptr(), raw);
        bundle
            .0
            .windows(2)
            .all(|two| two[0].as_ptr().wrapping_add(1) == two[1].as_ptr())
    }

    /// Else all that is tested of bundles could be so of folios. What was freed last comes first, so
    /// that a second one is the first one backwards, if nobody else comes between.
    #[test]
    fn pages_are_not_in_a_row() {
        assert!((0..64).any(|_| !is_in_a_row(16)));
    }
}
