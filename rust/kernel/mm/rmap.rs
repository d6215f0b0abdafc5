// SPDX-License-Identifier: GPL-2.0

//! The mappings of a file, in all processes.
//!
//! An [`AddressSpace`] knows every VMA that maps its file. It is not the address space of a
//! process: that is an [`Mm`].
//!
//! # Locks
//!
//! `mmap_lock` → the driver's own lock → [`RmapGuard`] (`i_mmap_rwsem`, read) →
//! [`PageTable`](super::page_table::PageTable) (the page-table lock). Reclaim takes `i_mmap_rwsem`
//! too: allocate nothing under a guard that may reclaim. Never take an `mmap_lock` there, and put
//! no reference to an [`Mm`] with users (`mmput()`): the last one takes the lock for writing.
//!
//! # Examples
//!
//! ```
//! use kernel::{mm::rmap::AddressSpace, sync::Arc};
//!
//! let file = AddressSpace::new()?;
//! let data = Arc::new((), GFP_KERNEL)?;
//!
//! // All VMAs over `data` that show any of the first ten pages. Here no process maps the file.
//! let rmap = file.lock();
//! assert_eq!(rmap.vmas(data.as_arc_borrow(), 0, 9).count(), 0);
//! drop(rmap);
//!
//! // The kernel's own way to unmap them: a flush for each VMA.
//! file.unmap_mapping_pages(0, 10);
//! # Ok::<(), Error>(())
//! ```
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h); contracts in
//! [`mm/rust_tlb/mapping.c`](srctree/mm/rust_tlb/mapping.c) and
//! [`mm/rust_tlb/defer.c`](srctree/mm/rust_tlb/defer.c)

use super::{
    mechanism,
    place::Place,
    range::PageRange,
    virt::{
        flags,
        vm_flags_t,
        VmaRef, //
    },
    window::Window,
    Mm, //
};
use crate::{
    bindings,
    ffi::c_void,
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        ArcBorrow, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::ptr::NonNull;

/// Wraps a `struct address_space`, the part of it that knows which VMAs map a file.
///
/// A driver makes one for each open file, or one for several, and hands it out by
/// [`MiscDevice::address_space`]. That of a device node would have the VMAs of all who have the
/// node open, and be pinned by a file system that can be unmounted.
///
/// [`MiscDevice::address_space`]: crate::miscdevice::MiscDevice::address_space
///
/// # Invariants
///
/// It belongs to an inode of `mm/rust_tlb/mapping.c`, in a file system that is never unmounted: a
/// reference to the inode keeps all of it.
#[repr(transparent)]
pub struct AddressSpace(Opaque<bindings::address_space>);

// SAFETY: All methods lock what they use.
unsafe impl Send for AddressSpace {}

// SAFETY: All methods lock what they use.
unsafe impl Sync for AddressSpace {}

// SAFETY: The inode is counted, and by the type invariants nothing else has to be.
unsafe impl AlwaysRefCounted for AddressSpace {
    #[inline(never)]
    fn inc_ref(&self) {
        // SAFETY: `self` is borrowed, so a reference is held. By the type invariants it comes from
        // `tlb_mapping_new()`.
        unsafe { bindings::tlb_mapping_get(self.0.get()) }
    }

    #[inline(never)]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference.
        unsafe { bindings::tlb_mapping_put(obj.cast().as_ptr()) }
    }
}

impl AddressSpace {
    /// Makes an address space without VMAs.
    ///
    /// # Errors
    ///
    /// - `ENOMEM` if there is no memory for it.
    ///
    /// # Context
    ///
    /// May sleep. To drop the last reference may sleep, too.
    #[inline(never)]
    pub fn new() -> Result<ARef<Self>> {
        // SAFETY: Can be called in any context that may sleep.
        let mapping = NonNull::new(unsafe { bindings::tlb_mapping_new() }).ok_or(ENOMEM)?;
        // INVARIANT: It is one of `mm/rust_tlb/mapping.c`.
        // SAFETY: The reference that it was made with goes to the `ARef`.
        Ok(unsafe { ARef::from_raw(mapping.cast()) })
    }

    /// Makes this the address space of a file, to which the reference goes.
    ///
    /// # Safety
    ///
    /// - `file` must be undergoing its initialisation.
    /// - [`AddressSpace::take_from`] must be called when it is released.
    #[inline(never)]
    pub(crate) unsafe fn install(this: ARef<Self>, file: *mut bindings::file) {
        let mapping = ARef::into_raw(this).cast().as_ptr();
        // SAFETY: As promised by the caller; by the type invariants `mapping` is from
        // `tlb_mapping_new()`, and the reference is kept until `take_from`.
        unsafe { bindings::tlb_mapping_install(file, mapping) }
    }

    /// Takes back what was installed.
    ///
    /// # Safety
    ///
    /// `file` must be that of an [`AddressSpace::install`], and be undergoing its release.
    pub(crate) unsafe fn take_from(file: *mut bindings::file) -> ARef<Self> {
        // SAFETY: `install` has put it there, with a reference, which is taken once.
        unsafe { ARef::from_raw(NonNull::new_unchecked((*file).f_mapping).cast()) }
    }

    /// Returns what identifies the mappings over `data` here.
    pub(super) fn place<T>(&self, data: ArcBorrow<'_, T>) -> Place {
        let data: *const T = &*data;
        Place {
            mapping: self.0.get().addr(),
            data: data.addr(),
        }
    }

    /// Locks the set of VMAs for reading.
    ///
    /// # Context
    ///
    /// May sleep. See the [module](self) for the order of locks. Not in reclaim: see
    /// [`AddressSpace::try_lock`].
    #[inline(never)]
    pub fn lock(&self) -> RmapGuard<'_> {
        // SAFETY: `self` is borrowed, and so valid, for as long as the guard.
        unsafe { bindings::tlb_batch_rmap_lock(self.0.get()) };
        RmapGuard {
            mapping: self,
            _nts: NotThreadSafe,
        }
    }

    /// As [`AddressSpace::lock`], if it can be locked at once: for a shrinker, whose task may hold
    /// whatever the holder of this lock waits for.
    #[inline(never)]
    pub fn try_lock(&self) -> Option<RmapGuard<'_>> {
        // SAFETY: `self` is borrowed, and so valid, for as long as the guard.
        let is_locked = unsafe { bindings::tlb_batch_rmap_trylock(self.0.get()) };
        is_locked.then(|| RmapGuard {
            mapping: self,
            _nts: NotThreadSafe,
        })
    }

    /// Unmaps a run of pages from every VMA here: a gather, and so a flush, for each. Pages are
    /// gone from all page tables and TLBs when it returns, unless someone faults them in again.
    ///
    /// # Context
    ///
    /// May sleep. Takes `i_mmap_rwsem`.
    #[inline(never)]
    pub fn unmap_mapping_pages(&self, first: usize, nr_pages: usize) {
        // For C, no pages are all pages.
        if nr_pages == 0 {
            return;
        }
        // SAFETY: `self` is a valid address space. Private copies are left alone.
        unsafe { bindings::unmap_mapping_pages(self.0.get(), first, nr_pages, false) }
    }
}

/// The VMAs of a file do not come, go or change their place while this is held.
pub struct RmapGuard<'a> {
    mapping: &'a AddressSpace,
    // The lock has to be released by the task that took it.
    _nts: NotThreadSafe,
}

impl RmapGuard<'_> {
    /// Returns what is locked.
    pub(super) fn mapping(&self) -> &AddressSpace {
        self.mapping
    }

    /// Returns the VMAs over `data` (see [`set_vm_ops`]) that map any of pages `first` to `last`,
    /// in the order in which a walk has to visit them: a VMA that PTEs are copied or moved to comes
    /// after the one they come from.
    ///
    /// [`set_vm_ops`]: super::virt::VmaNew::set_vm_ops
    pub fn vmas<T>(
        &self,
        data: ArcBorrow<'_, T>,
        first: usize,
        last: usize,
    ) -> impl Iterator<Item = &Vma>
    where
        T: Send + Sync + 'static,
    {
        let wanted: *const T = &*data;
        AllVmas::new(self, first, last).filter_map(move |vma| {
            // SAFETY: The VMA is valid, with its operations, while the rmap lock is held, and so while `self`
            // is borrowed.
            unsafe { Vma::over(vma.as_ptr(), wanted.cast()) }
        })
    }
}

impl Drop for RmapGuard<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: The lock was taken when the guard was made, by this task: guards are not `Send`.
        unsafe { bindings::tlb_batch_rmap_unlock(self.mapping.0.get()) }
    }
}

/// Iterator over all VMAs of a file, of whatever kind.
///
/// # Invariants
///
/// `next` was found with `first` and `last` under the lock of `_guard`.
struct AllVmas<'g> {
    next: Option<NonNull<bindings::vm_area_struct>>,
    first: usize,
    last: usize,
    _guard: &'g RmapGuard<'g>,
}

impl<'g> AllVmas<'g> {
    #[inline(never)]
    fn new(guard: &'g RmapGuard<'g>, first: usize, last: usize) -> Self {
        let mapping = guard.mapping.0.get();
        // INVARIANT: The lock is held as long as the guard is borrowed.
        Self {
            // SAFETY: As above.
            next: NonNull::new(unsafe { bindings::tlb_batch_rmap_first(mapping, first, last) }),
            first,
            last,
            _guard: guard,
        }
    }
}

impl Iterator for AllVmas<'_> {
    type Item = NonNull<bindings::vm_area_struct>;

    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        let vma = self.next?;
        // There can be many, of many processes, and not all of them are looked at.
        mechanism::cond_resched();
        let (first, last) = (self.first, self.last);
        // INVARIANT: The same offsets are used throughout.
        // SAFETY: By the invariant `vma` is in the tree, and the guard is still borrowed.
        self.next =
            NonNull::new(unsafe { bindings::tlb_batch_rmap_next(vma.as_ptr(), first, last) });
        Some(vma)
    }
}

/// A VMA of ours may be split. Not generic, so it has one address: by that, [`is_ours`] recognises the
/// operations that [`set_vm_ops`] installs.
///
/// [`set_vm_ops`]: super::virt::VmaNew::set_vm_ops
#[inline(never)]
pub(super) extern "C" fn may_split(_vma: *mut bindings::vm_area_struct, _addr: usize) -> c_int {
    0
}

/// Returns whether these are the operations that [`set_vm_ops`] installs.
///
/// [`set_vm_ops`]: super::virt::VmaNew::set_vm_ops
#[inline(never)]
pub(super) fn is_ours(ops: &bindings::vm_operations_struct) -> bool {
    let ours: unsafe extern "C" fn(_, _) -> _ = may_split;
    ops.may_split
        .is_some_and(|f| core::ptr::fn_addr_eq(f, ours))
}

/// A VMA found through its file, or held by a lock of its process.
///
/// Unlike for a [`VmaRef`], there may be no `mmap_lock`, and the process may be exiting.
///
/// # Invariants
///
/// - The rmap of the VMA's file is locked, or the VMA's own lock, or the `mmap_lock`. So the VMA is
///   not freed, keeps its place and its file offset, and stays in its [`Mm`], which is not freed
///   either; its page tables above the lowest level stay, too.
/// - [`set_vm_ops`](super::virt::VmaNew::set_vm_ops) or its sister for PFNs set it up: it is a
///   `VM_MIXEDMAP` or `VM_PFNMAP` mapping that is not copy-on-write. If it has leaves, which map all
///   that a page table would, each of them lies in the VMA.
#[repr(transparent)]
pub struct Vma(Opaque<bindings::vm_area_struct>);

impl Vma {
    /// Returns `vma`, if [`set_vm_ops`](super::virt::VmaNew::set_vm_ops) set it up over `data`.
    pub(super) fn from_locked<'a, T>(vma: &'a VmaRef, data: ArcBorrow<'_, T>) -> Option<&'a Self> {
        let wanted: *const T = &*data;
        // SAFETY: A `VmaRef` exists only under the VMA's own lock or the `mmap_lock`, which are held for
        // `'a`. A VMA has null or valid operations, from where it is set up.
        unsafe { Self::over(vma.as_ptr(), wanted.cast()) }
    }

    /// Returns `vma`, if [`set_vm_ops`](super::virt::VmaNew::set_vm_ops) set it up over `data`.
    ///
    /// # Safety
    ///
    /// `vma` must be valid for `'a`, by one of the locks of the type invariants, and its operations be null
    /// or valid.
    #[inline(never)]
    unsafe fn over<'a>(
        vma: *mut bindings::vm_area_struct,
        data: *const c_void,
    ) -> Option<&'a Self> {
        // SAFETY: As promised by the caller. What is not ours may be written meanwhile, hence volatile
        // reads.
        unsafe {
            let ops = (&raw const (*vma).vm_ops).read_volatile();
            let private = (&raw const (*vma).vm_private_data).read_volatile();
            let is_over = ops.as_ref().is_some_and(is_ours) && core::ptr::eq(private, data);
            // INVARIANT: It was just recognised.
            is_over.then(|| &*vma.cast::<Self>())
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::vm_area_struct {
        self.0.get()
    }

    /// Returns the address space of the process. It may be without users.
    pub fn mm(&self) -> &Mm {
        // SAFETY: By the type invariants the VMA is linked, and `vm_mm` stays valid while it is.
        unsafe { Mm::from_raw((*self.as_raw()).vm_mm) }
    }

    /// Returns whether it is `VM_MIXEDMAP` or `VM_PFNMAP`.
    pub(super) fn kind(&self) -> vm_flags_t {
        // SAFETY: By the type invariants the VMA is valid. Under the rmap lock alone other flags may be
        // written meanwhile, hence a volatile read; these do not change any more.
        let all =
            unsafe { (&raw const (*self.as_raw()).__bindgen_anon_2.vm_flags).read_volatile() };
        all & (flags::MIXEDMAP | flags::PFNMAP)
    }

    /// Returns what identifies the mappings over the same data of the same file.
    pub(super) fn place(&self) -> Place {
        // SAFETY: By the type invariants `set_vm_ops` set the VMA up, in a file's `mmap`: the file and
        // the data stay while the VMA does.
        let (mapping, data) = unsafe {
            let vma = self.as_raw();
            ((*(*vma).vm_file).f_mapping, (*vma).vm_private_data)
        };
        Place {
            mapping: mapping.addr(),
            data: data.addr(),
        }
    }

    /// Returns which part of the file this VMA shows, and where; [`None`] for an empty VMA.
    #[inline]
    pub fn window(&self) -> Option<Window> {
        // SAFETY: By the type invariants the VMA is valid and locked: it keeps its place and offset.
        let (start, end, pgoff) = unsafe {
            let vma = self.as_raw();
            let bounds = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
            (bounds.vm_start, bounds.vm_end, (*vma).vm_pgoff)
        };
        Some(Window::new(PageRange::new(start, end)?, pgoff))
    }

    /// Zaps pages `first` to `last` of the file, as far as this VMA shows them, with a gather of
    /// its own: PTEs cleared, one flush, page references put. Returns whether it shows any.
    ///
    /// # Context
    ///
    /// May sleep.
    #[inline(never)]
    pub fn zap(&self, first: usize, last: usize) -> bool {
        let Some(range) = self.window().and_then(|w| w.clip(first, last)) else {
            return false;
        };
        let (start, len_bytes) = (range.start(), range.end() - range.start());
        // SAFETY: The VMA is locked by the type invariants, and `range` was clipped: that is how
        // `unmap_mapping_range()` calls it, too.
        unsafe { bindings::tlb_batch_zap(self.as_raw(), start, len_bytes) };
        true
    }

    /// Calls `f` between the notifications that tell secondary MMUs that PTEs in `range` are being
    /// cleared, and all of the leaves that it touches, if the VMA can have such. `range` has to lie in the
    /// VMA: no memory depends on that, but secondary MMUs may complain of what is told them.
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn invalidating<R>(&self, range: PageRange, f: impl FnOnce() -> R) -> R {
        let _bracket = Bracket::open(self, range);
        f()
    }
}

/// Secondary MMUs are told that PTEs of a VMA change, until this is dropped.
///
/// # Invariants
///
/// The bracket is open, over a VMA that is valid for `'v`.
pub struct Bracket<'v> {
    raw: bindings::mmu_notifier_range,
    _vma: &'v Vma,
}

impl<'v> Bracket<'v> {
    /// Tells them that what `range` maps, which lies in the VMA, is being cleared.
    #[inline(never)]
    pub(super) fn open(vma: &'v Vma, range: PageRange) -> Self {
        let mut raw = bindings::mmu_notifier_range::default();
        let (start, end) = (range.start(), range.end());
        // SAFETY: By the type invariants the VMA is valid and locked for as long as it is borrowed;
        // `raw` is written, and not kept. What is told does not change the VMA.
        unsafe { bindings::tlb_batch_invalidate_start(&raw mut raw, vma.as_raw(), start, end) };
        // INVARIANT: It was just opened.
        Self { raw, _vma: vma }
    }
}

impl Drop for Bracket<'_> {
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is open; the kernel keeps no pointer to it.
        unsafe { bindings::tlb_batch_invalidate_end(&raw mut self.raw) }
    }
}
