// SPDX-License-Identifier: GPL-2.0

//! The least that a driver needs to map pages and to take them back with one flush.
//!
//! `/dev/rust-tlb-minimal` shows [`NR_PAGES`] pages. A fault makes a page; [`TAKE_BACK`] takes all
//! of them away from all processes, and returns how many there were. What is touched again is zero.

use kernel::{
    alloc::flags::__GFP_ZERO,
    fs::File,
    ioctl::_IO,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    mm::{
        rmap::AddressSpace,
        tlb::{
            Batch,
            Cpus,
            Precise, //
        },
        virt::VmaNew,
        vm_ops::{
            FaultError,
            VmFault,
            VmOperations, //
        }, //
    },
    new_mutex,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

const NR_PAGES: usize = 64;
const TAKE_BACK: u32 = _IO('|' as u32, 0x9f);

module! {
    type: Minimal,
    name: "rust_tlb_minimal",
    authors: ["rust-tlb authors"],
    description: "Batched TLB flushes: the smallest driver",
    license: "GPL",
}

/// What an open file and its mappings share. A fault looks its page up under the lock under which
/// pages are taken away: no page is mapped again while it is on its way out.
#[pin_data]
struct Pages {
    mapping: ARef<AddressSpace>,
    #[pin]
    slots: Mutex<[Option<Page>; NR_PAGES]>,
}

#[vtable]
impl VmOperations for Pages {
    type Data = Self;

    fn fault(pages: ArcBorrow<'_, Self>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        // Before the lock: whoever waits for memory is to keep nobody from their pages.
        let fresh = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        let mut slots = pages.slots.lock();
        let slot = slots.get_mut(vmf.pgoff()).ok_or(FaultError::Sigbus)?;
        vmf.insert_page(slot.get_or_insert(fresh))
    }
}

impl Pages {
    /// Takes all pages back. A page that someone else still holds, for example for direct I/O, is
    /// freed when that one lets go.
    fn take_back(this: ArcBorrow<'_, Self>) -> Result<usize> {
        let precise = Precise::new(Cpus::new(GFP_KERNEL)?);
        let mut batch = Batch::new(precise, NR_PAGES, GFP_KERNEL)?;
        let mut slots = this.slots.lock();
        let mut staging = batch.stage();
        for (pgoff, slot) in slots.iter_mut().enumerate() {
            if let Some(page) = slot.take() {
                staging.push(pgoff, page).map_err(|_| ENOSPC)?;
            }
        }
        staging.unmap(&this.mapping.over(this));
        // Here the CPUs are interrupted, once for each process. Only now the pages are free.
        Ok(batch.flush().drain().count())
    }
}

#[vtable]
impl MiscDevice for Pages {
    type Ptr = Arc<Self>;

    fn open(_: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        let new = try_pin_init!(Self {
            mapping: AddressSpace::new()?,
            slots <- new_mutex!([const { None }; NR_PAGES]),
        });
        Arc::pin_init(new, GFP_KERNEL)
    }

    fn address_space(pages: ArcBorrow<'_, Self>) -> ARef<AddressSpace> {
        pages.mapping.clone()
    }

    fn mmap(pages: ArcBorrow<'_, Self>, _file: &File, vma: &VmaNew) -> Result {
        let nr_pages = (vma.end() - vma.start()) / PAGE_SIZE;
        if vma.pgoff() >= NR_PAGES || nr_pages > NR_PAGES - vma.pgoff() {
            return Err(ENXIO);
        }
        vma.set_vm_ops::<Self>(pages.into()).map(|_| ())
    }

    fn ioctl(pages: ArcBorrow<'_, Self>, _: &File, cmd: u32, _arg: usize) -> Result<isize> {
        match cmd {
            TAKE_BACK => Ok(Self::take_back(pages)? as isize),
            _ => Err(ENOTTY),
        }
    }
}

#[pin_data]
struct Minimal {
    #[pin]
    _device: MiscDeviceRegistration<Pages>,
}

impl kernel::InPlaceModule for Minimal {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let name = c"rust-tlb-minimal";
        try_pin_init!(Self {
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        })
    }
}
