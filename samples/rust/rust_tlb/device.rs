// SPDX-License-Identifier: GPL-2.0

//! The character device: open, mmap, fault, ioctl.

use crate::{
    abi,
    pages::Pages,
    request::{
        self,
        Limits,
        Run,
        Source,
        UnmapRequest, //
    },
    unmap, //
};
use kernel::{
    alloc::flags::GFP_KERNEL,
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    mm::{
        page_table::PageTable,
        rmap::{
            AddressSpace,
            Vma, //
        },
        tlb,
        virt::VmaNew,
        vm_ops::{
            FaultError,
            VmFault,
            VmOperations, //
        }, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};
use zerocopy::{
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// One open file.
///
/// Lock order: `mmap_lock` (a fault) → `pages` → `i_mmap_rwsem` → page-table lock. User memory is
/// read and written outside of `pages`: it may be a mapping of this very device.
#[pin_data]
pub(crate) struct Device {
    limits: Limits,
    #[pin]
    pages: Mutex<Pages>,
}

impl Device {
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn lock(&self) -> Guard<'_, Pages, MutexBackend> {
        self.pages.lock()
    }
}

#[vtable]
impl VmOperations for Device {
    type Data = Device;

    fn fault(device: ArcBorrow<'_, Device>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        let mut pages = device.lock();
        pages.counters.nr_faults += 1;
        match pages.get_or_populate(vmf.pgoff()) {
            Ok(Some(page)) => vmf.insert_page(page),
            Ok(None) => Err(FaultError::Sigbus),
            Err(_) => Err(FaultError::Oom),
        }
    }
}

#[vtable]
impl MiscDevice for Device {
    type Ptr = Arc<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Arc<Self>> {
        let limits = crate::limits()?;
        let pages = Pages::new(limits.nr_pages as usize)?;
        Arc::pin_init(
            pin_init!(Self {
                limits,
                pages <- new_mutex!(pages),
            }),
            GFP_KERNEL,
        )
    }

    fn mmap(device: ArcBorrow<'_, Self>, _file: &File, vma: &VmaNew) -> Result {
        let len = (vma.end() - vma.start()) as u64;
        let offset = (vma.pgoff() as u64)
            .checked_mul(PAGE_SIZE as u64)
            .ok_or(ENXIO)?;
        Run::new(&device.limits, offset, len)?;
        vma.set_vm_ops::<Device>(device.into())?;
        Ok(())
    }

    fn ioctl(device: ArcBorrow<'_, Self>, file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let call = Call { device, file, arg };
        match cmd {
            abi::DESCRIBE => call.write(&call.describe()),
            abi::POPULATE => call.update(Call::populate),
            abi::UNMAP => call.update(Call::unmap),
            abi::FLUSH => call.update(Call::flush),
            abi::COUNTERS => call.write(&call.counters()),
            abi::ACCESSED => call.update(Call::accessed),
            abi::INVALIDATE => call.update(Call::invalidate),
            _ => return Err(ENOTTY),
        }?;
        Ok(0)
    }
}

/// One ioctl.
struct Call<'a> {
    device: ArcBorrow<'a, Device>,
    file: &'a File,
    arg: usize,
}

impl Call<'_> {
    /// Writes `value` to the argument.
    fn write<T: IntoBytes + Immutable>(&self, value: &T) -> Result {
        let user = UserSlice::new(UserPtr::from_addr(self.arg), size_of::<T>());
        user.writer().write_slice(value.as_bytes())
    }

    /// Reads the argument, works on it, and writes it back.
    fn update<T>(&self, work: impl FnOnce(&Self, &mut T) -> Result) -> Result
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let mut value = T::new_zeroed();
        let user = UserSlice::new(UserPtr::from_addr(self.arg), size_of::<T>());
        user.reader().read_slice(value.as_mut_bytes())?;
        work(self, &mut value)?;
        self.write(&value)
    }

    fn describe(&self) -> abi::Describe {
        let limits = &self.device.limits;
        abi::Describe {
            version: abi::VERSION,
            page_size: PAGE_SIZE as u32,
            nr_pages: u64::from(limits.nr_pages),
            max_list: limits.max_list,
            strategies: request::strategies(),
            max_pending: limits.max_pending,
            reserved: [0; 5],
        }
    }

    fn counters(&self) -> abi::Counters {
        let mut pages = self.device.lock();
        pages.check_pool();
        pages.counters
    }

    fn populate(&self, arg: &mut abi::Populate) -> Result {
        request::all_zero(&[u64::from(arg.flags), u64::from(arg.reserved)])?;
        let limits = &self.device.limits;
        let run = Run::at_most(limits, arg.offset, arg.len, limits.max_list as usize)?;
        let mut pages = self.device.lock();
        arg.nr_allocated = 0;
        for pgoff in run.pages() {
            // What is there stays, so the call can be made again.
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            if !pages.is_present(pgoff) {
                pages.get_or_populate(pgoff)?;
                arg.nr_allocated += 1;
            }
        }
        Ok(())
    }

    fn unmap(&self, arg: &mut abi::Unmap) -> Result {
        let request = UnmapRequest::new(&self.device.limits, arg)?;
        let pgoffs = self.pgoffs(request.source)?;
        (arg.nr_pages, arg.nr_ptes, arg.nr_mms, arg.nr_flush_calls) = (0, 0, 0, 0);
        arg.nr_written_back = 0;
        let target = unmap::Target {
            device: self.device,
            mapping: AddressSpace::of(self.file),
            pgoffs: &pgoffs,
        };
        target.unmap(&request, arg)
    }

    /// The page offsets of an unmap, in ascending order.
    fn pgoffs(&self, source: Source) -> Result<KVVec<usize>> {
        let mut pgoffs = KVVec::new();
        match source {
            Source::Stride { run, step } => {
                pgoffs.reserve(run.nr_pages.div_ceil(step), GFP_KERNEL)?;
                for pgoff in run.pages().step_by(step) {
                    pgoffs.push(pgoff, GFP_KERNEL)?;
                }
            }
            Source::List { address, nr } => {
                pgoffs.reserve(nr, GFP_KERNEL)?;
                let user = UserSlice::new(UserPtr::from_addr(address), nr * size_of::<u64>());
                let mut reader = user.reader();
                for _ in 0..nr {
                    let pgoff = usize::try_from(reader.read::<u64>()?).map_err(|_| ENXIO)?;
                    pgoffs.push(pgoff, GFP_KERNEL)?;
                }
                request::sort_list(&self.device.limits, &mut pgoffs)?;
            }
        }
        Ok(pgoffs)
    }

    fn flush(&self, arg: &mut abi::Flush) -> Result {
        request::all_zero(&[u64::from(arg.flags), u64::from(arg.reserved)])?;
        let mut pages = self.device.lock();
        arg.nr_pages = pages.deferred.as_ref().map_or(0, |d| d.nr_pages() as u64);
        arg.nr_flush_calls = pages.flush_deferred().nr_calls as u64;
        Ok(())
    }

    fn accessed(&self, arg: &mut abi::Accessed) -> Result {
        request::all_zero(&[u64::from(arg.reserved)])?;
        let clear = match arg.op {
            abi::ACCESSED_READ => false,
            abi::ACCESSED_CLEAR => true,
            _ => return Err(EINVAL),
        };
        let max = abi::ACCESSED_MAX_PAGES as usize;
        let run = Run::at_most(&self.device.limits, arg.offset, arg.len, max)?;
        (arg.accessed, arg.mapped) = (0, 0);
        let rmap = AddressSpace::of(self.file).lock();
        for vma in rmap.vmas(self.device, run.first, run.last()) {
            for (bit, pgoff) in run.pages().enumerate() {
                let young = test_young(vma, pgoff, clear);
                arg.mapped |= u64::from(young.is_some()) << bit;
                arg.accessed |= u64::from(young == Some(true)) << bit;
            }
        }
        Ok(())
    }

    fn invalidate(&self, arg: &mut abi::Invalidate) -> Result {
        request::all_zero(&[u64::from(arg.reserved)])?;
        let strategy = request::known_strategy(arg.strategy)?;
        if !request::defers(strategy) {
            return Err(EINVAL);
        }
        let limits = &self.device.limits;
        let run = Run::at_most(limits, arg.offset, arg.len, limits.max_list as usize)?;
        let mut policy = KBox::new(unmap::policy(strategy).ok_or(EINVAL)?, GFP_KERNEL)?;
        let mapping = AddressSpace::of(self.file);
        let report = tlb::invalidate(&mut *policy, mapping, self.device, run.first, run.last());
        arg.nr_flush_calls = report.nr_calls as u64;
        Ok(())
    }
}

/// Whether page `pgoff`, as `vma` maps it, was accessed; [`None`] if it is not mapped.
fn test_young(vma: &Vma, pgoff: usize, clear: bool) -> Option<bool> {
    let addr = vma.window()?.address_of(pgoff)?;
    PageTable::lock(vma, addr)?.test_young(addr, clear)
}
