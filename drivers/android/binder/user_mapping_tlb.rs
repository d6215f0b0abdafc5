// SPDX-License-Identifier: GPL-2.0

//! The mapping of a process that its pages are shown in, and how the shrinker takes pages out of it:
//! one batch for each scan, over all processes, and so one TLB shootdown.
//!
//! Stands in for `user_mapping.rs` where the kernel has `CONFIG_RUST_TLB`.
//!
//! # The protocol
//!
//! 1. A scan takes the batch's storage, which was allocated when the shrinker was registered: under
//!    memory pressure nothing is allocated. A second scan at the same time finds none, and unmaps
//!    page by page.
//! 2. For each page, under `mm_lock` and the VMA's lock, the PTE is cleared and the page handed to
//!    the batch. The flush is owed: until then CPUs of that process can read the page.
//! 3. The end of the scan flushes, once for all, and frees the pages.
//!
//! Between 2 and 3 a transaction may need the same place for another page. A thread of the process
//! would then read the old one, through its TLB. So [`UserMapping::insert_page`] flushes that one
//! address if a scan is under way ([`Scans::may_owe`]). `mm_lock` orders the two: who inserts a page
//! after 2 sees that the scan has begun.
//!
//! When the process goes, its PTEs go with it; the pages of a batch are the batch's. So the end of a
//! range has nothing to flush: the pages that it frees are those that no scan took, and the mapping
//! went before it, with a flush of its own, since a VMA keeps the file that keeps the range.
//!
//! `user_mapping_switch.rs` is for comparison, and for tests.

use kernel::{
    mm::{
        tlb::{
            self,
            Batch,
            Cpus,
            OneMapping,
            Why, //
        },
        virt,
        vm_ops::{
            FaultError,
            VmFault,
            VmOperations, //
        }, //
    },
    new_spinlock,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        ArcBorrow,
        SetOnce,
        SpinLock, //
    }, //
};

/// Pages that a scan can take out: the shrinker's `batch`, `SHRINK_BATCH`.
const NR_PAGES: usize = 128;

/// What the VMAs of one range have in common.
struct Shown;

struct Operations;

#[vtable]
impl VmOperations for Operations {
    type Data = Shown;

    /// All pages are inserted before the process is told of them.
    fn fault(_shown: ArcBorrow<'_, Shown>, _vmf: &VmFault<'_>) -> Result<(), FaultError> {
        Err(FaultError::Sigbus)
    }
}

/// The mapping that the pages of a range are shown in.
pub(crate) struct UserMapping {
    shown: Arc<Shown>,
}

impl UserMapping {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            shown: Arc::new(Shown, GFP_KERNEL)?,
        })
    }

    /// Makes `vma` the mapping.
    pub(crate) fn install(&self, vma: &virt::VmaNew) -> Result {
        vma.set_vm_ops::<Operations>(self.shown.clone())?;
        Ok(())
    }

    fn of<'a>(&self, vma: &'a virt::VmaRef) -> Option<(OneMapping<'a>, &'a virt::VmaMixedMap)> {
        let one = vma.only_over(self.shown.as_arc_borrow())?;
        Some((one, vma.as_mixedmap_vma()?))
    }

    /// Maps `page` at `address` of `vma`, which no translation shows another page at any more.
    ///
    /// The caller holds `mm_lock`.
    pub(crate) fn insert_page(
        &self,
        scans: &Scans,
        vma: &virt::VmaRef,
        address: usize,
        page: &Page,
    ) -> Result {
        let (one, vma) = self.of(vma).ok_or(ESRCH)?;
        if scans.may_owe() && !switch::owed_is_ignored() {
            let pgoff = one.pgoff_of(address).ok_or(EINVAL)?;
            let cpus = Cpus::new(GFP_KERNEL)?;
            tlb::invalidate(&mut tlb::PerPage::new(cpus), &one, pgoff, pgoff);
        }
        vma.vm_insert_page(address, page)
    }

    /// Another handle to the same mapping.
    pub(crate) fn handle(&self) -> Self {
        Self {
            shown: self.shown.clone(),
        }
    }
}

#[path = "user_mapping_switch.rs"]
mod switch;

pub(crate) use switch::{
    offer as offer_switch,
    Switch, //
};

type PageBatch = Batch<Page, tlb::Broadcast>;

/// The scans of a shrinker.
pub(crate) struct Scans {
    /// The storage for one, while none has it.
    spare: SetOnce<Pin<KBox<SpinLock<Option<PageBatch>>>>>,
    nr_owing: Atomic<i32>,
}

impl Scans {
    pub(crate) const fn new() -> Self {
        Self {
            spare: SetOnce::new(),
            nr_owing: Atomic::new(0),
        }
    }

    /// Takes memory for a scan.
    pub(crate) fn prepare(&self) -> Result {
        let broadcast = tlb::Broadcast::new(Cpus::new(GFP_KERNEL)?);
        let batch = Batch::new(broadcast, NR_PAGES, GFP_KERNEL)?;
        let spare = KBox::pin_init(new_spinlock!(Some(batch), "Scans::spare"), GFP_KERNEL)?;
        self.spare.populate(spare);
        Ok(())
    }

    /// Begins a scan; its end is when it is dropped.
    pub(crate) fn begin(&self) -> Scan<'_> {
        let batch = self.spare.as_ref().and_then(|spare| spare.lock().take());
        if batch.is_some() {
            // Ordered before what is inserted later by the `mm_lock` under which PTEs are cleared.
            self.nr_owing.fetch_add(1, Relaxed);
        }
        Scan { scans: self, batch }
    }

    /// Returns whether a scan that has cleared PTEs may have yet to flush them.
    fn may_owe(&self) -> bool {
        // Partner: `Scan::drop`. Who reads zero comes after the flush.
        self.nr_owing.load(Acquire) != 0
    }
}

/// A scan of the shrinker.
pub(crate) struct Scan<'s> {
    scans: &'s Scans,
    batch: Option<PageBatch>,
}

impl Scan<'_> {
    /// Takes `page` out of `vma`, where it is mapped at `address`, and frees it, at the end of the
    /// scan or at once.
    ///
    /// The caller holds the range's `mm_lock`, and no spinlock.
    pub(crate) fn free_page(
        &mut self,
        mapping: &UserMapping,
        vma: &virt::VmaRef,
        address: usize,
        page: Option<Page>,
    ) {
        let (Some(page), Some((one, vma))) = (page, mapping.of(vma)) else {
            // Nothing to free, or it is not mapped where it was.
            return;
        };
        let staged = match (&mut self.batch, one.pgoff_of(address)) {
            (Some(batch), Some(pgoff)) if !switch::is_by_page() => {
                let mut staging = batch.stage();
                staging.push(pgoff, page).map(|()| staging)
            }
            _ => Err(tlb::Full(page)),
        };
        match staged {
            Ok(staging) => {
                staging.unmap(&one);
            }
            Err(tlb::Full(page)) => {
                vma.zap_vma_range(address, PAGE_SIZE);
                drop(page);
            }
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        let (Some(batch), Some(spare)) = (self.batch.take(), self.scans.spare.as_ref()) else {
            return;
        };
        let batch = switch::end(batch, flush);
        // Partner: `Scans::may_owe`. The flush is done.
        self.scans.nr_owing.fetch_add(-1, Release);
        *spare.lock() = Some(batch);
    }
}

/// Flushes what a scan owes, and frees its pages.
fn flush(batch: PageBatch) -> PageBatch {
    let mut flushed = batch.flush_because(Why::Pressure);
    flushed.drain().for_each(drop);
    flushed.into_empty()
}
