// SPDX-License-Identifier: GPL-2.0

//! The character device: open, mmap, ioctl.

use crate::{
    abi,
    huge::Huge,
    moves,
    open_files,
    pressure,
    request::{
        self,
        Run,
        Setup,
        Source,
        UnmapRequest, //
    },
    scope,
    store::{
        Later,
        Notified,
        Store, //
    },
    strategy,
    unmap, //
};
use kernel::{
    alloc::flags::{
        GFP_KERNEL,
        GFP_KERNEL_ACCOUNT, //
    },
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    mm::{
        deadline::Deadline,
        rmap::AddressSpace,
        tlb,
        virt::VmaNew, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
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
#[pin_data]
pub(crate) struct Device {
    store: Arc<Store>,
    rings: tlb::Rings,
    #[pin]
    deadline: Deadline<Store>,
    #[pin]
    later: Deadline<Later>,
}

#[vtable]
impl MiscDevice for Device {
    type Ptr = Pin<KBox<Self>>;

    fn open(file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        let store = Store::new(crate::limits()?, AddressSpace::new()?, pressure::tell)?;
        let device = KBox::pin_init(
            pin_init!(Self {
                deadline <- Deadline::new(store.clone()),
                later <- Deadline::new(store.clone()),
                store: store.clone(),
                rings: tlb::Rings::enable(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        open_files::announce(file, device.store.clone())?;
        Ok(device)
    }

    fn address_space(device: Pin<&Self>) -> ARef<AddressSpace> {
        device.store.mapping().into()
    }

    fn release(device: Pin<KBox<Self>>, file: &File) {
        let store = device.store.as_arc_borrow();
        open_files::retire(file);
        scope::leave_all(store);
        Store::clear(store);
    }

    fn mmap(device: Pin<&Self>, _file: &File, vma: &VmaNew) -> Result {
        let len = (vma.end() - vma.start()) as u64;
        let offset = (vma.pgoff() as u64)
            .checked_mul(PAGE_SIZE as u64)
            .ok_or(ENXIO)?;
        let store = device.store.clone();
        Run::new(store.limits(), offset, len)?;
        let mut state = device.store.lock();
        match (state.setup.pfnmap, state.setup.notify) {
            (false, false) if state.setup.huge => vma.set_vm_ops::<Huge>(store).map(|_| ()),
            (false, false) => vma.set_vm_ops::<Store>(store).map(|_| ()),
            (false, true) => vma.set_vm_ops::<Notified>(store).map(|_| ()),
            (true, false) if state.setup.huge => vma.set_pfn_vm_ops::<Huge>(store),
            (true, false) => vma.set_pfn_vm_ops::<Store>(store),
            (true, true) => vma.set_pfn_vm_ops::<Notified>(store),
        }?;
        if state.setup.break_map {
            return Err(ENODEV);
        }
        if state.setup.ring {
            // Without one, flushes of it take more than they have to, and are as good.
            let _ = device.rings.add(vma.mm());
        }
        state.is_set_up = true;
        Ok(())
    }

    fn ioctl(device: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        let call = Call {
            device: device.get_ref(),
            store: device.get_ref().store.as_arc_borrow(),
            arg,
        };
        match cmd {
            abi::DESCRIBE => call.write(&call.describe()),
            abi::POPULATE => call.update(Call::populate),
            abi::UNMAP => call.update(Call::unmap),
            abi::FLUSH => call.update(Call::flush),
            abi::COUNTERS => call.write(&call.counters()),
            abi::ACCESSED => call.update(Call::accessed),
            abi::INVALIDATE => call.update(Call::invalidate),
            abi::SETUP => call.update(Call::setup),
            abi::SCOPE => call.update(|call, arg| scope::update(call.store, arg)),
            abi::IDLE => call.update(Call::idle),
            abi::MOVE => call.update(|call, arg| moves::update(call.store, arg)),
            _ => return Err(ENOTTY),
        }?;
        if call.store.is_marked() {
            device.later.start_once(call.store.limits().tables_age_ms);
        }
        Ok(0)
    }
}

/// One ioctl.
struct Call<'a> {
    device: &'a Device,
    store: ArcBorrow<'a, Store>,
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
        let limits = self.store.limits();
        abi::Describe {
            version: abi::VERSION,
            page_size: PAGE_SIZE as u32,
            nr_pages: u64::from(limits.nr_pages),
            max_list: limits.max_list,
            strategies: strategy::built(),
            max_pending: limits.max_pending,
            max_age_ms: limits.max_age_ms,
            reserved: [0; 4],
        }
    }

    fn counters(&self) -> abi::Counters {
        let mut state = self.store.lock();
        state.reap();
        state.check_pool();
        abi::Counters {
            nr_idle: state.nr_idle() as u64,
            nr_pending: state.nr_pending() as u64,
            ..state.counters
        }
    }

    fn populate(&self, arg: &mut abi::Populate) -> Result {
        request::all_zero(&[u64::from(arg.flags), u64::from(arg.reserved)])?;
        let limits = self.store.limits();
        let run = Run::at_most(limits, arg.offset, arg.len, limits.max_list as usize)?;
        arg.nr_allocated = 0;
        for pgoff in run.pages() {
            // What is there stays, so the call can be made again.
            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            let (state, was_missing) = self.store.lock_populated(pgoff)?;
            let nr_per_slot = state.slots.nr_per_slot() as u64;
            arg.nr_allocated += if was_missing { nr_per_slot } else { 0 };
        }
        Ok(())
    }

    fn unmap(&self, arg: &mut abi::Unmap) -> Result {
        let request = UnmapRequest::new(self.store.limits(), arg)?;
        let pgoffs = self.pgoffs(request.source)?;
        (arg.nr_pages, arg.nr_ptes, arg.nr_mms, arg.nr_flush_calls) = (0, 0, 0, 0);
        arg.nr_written_back = 0;
        (arg.nr_protected, arg.nr_redirtied) = (0, 0);
        let target = unmap::Target {
            store: self.store,
            pgoffs: &pgoffs,
        };
        if target.unmap(&request, arg)? {
            self.device.deadline.start(self.store.limits().max_age_ms);
        }
        Ok(())
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
                request::sort_list(self.store.limits(), &mut pgoffs)?;
            }
        }
        Ok(pgoffs)
    }

    fn flush(&self, arg: &mut abi::Flush) -> Result {
        request::all_zero(&[u64::from(arg.flags), u64::from(arg.reserved)])?;
        let mut state = self.store.lock();
        arg.nr_pages = state.nr_pending() as u64;
        let mappings = self.store.mapping().over(self.store);
        let report = state.flush_deferred_with_tables(&mappings, tlb::Why::Asked);
        arg.nr_flush_calls = report.nr_calls as u64;
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
        let run = Run::at_most(self.store.limits(), arg.offset, arg.len, max)?;
        (arg.accessed, arg.mapped) = (0, 0);
        let mut pgoffs = KVVec::with_capacity(run.nr_pages, GFP_KERNEL)?;
        for pgoff in run.pages() {
            pgoffs.push(pgoff, GFP_KERNEL)?;
        }
        let mappings = self.store.mapping().over(self.store);
        tlb::test_young(&mappings, &pgoffs, clear, |pgoff, young| {
            let bit = pgoff - run.first;
            arg.mapped |= 1 << bit;
            arg.accessed |= u64::from(young) << bit;
        });
        Ok(())
    }

    fn invalidate(&self, arg: &mut abi::Invalidate) -> Result {
        let strategy = strategy::known(arg.strategy)?;
        if arg.flags & !abi::INVALIDATE_CALLER != 0 || !strategy::defers(strategy) {
            return Err(EINVAL);
        }
        let limits = self.store.limits();
        let run = Run::at_most(limits, arg.offset, arg.len, limits.max_list as usize)?;
        let mut policy = strategy::policy(strategy)?;
        let report = match arg.flags & abi::INVALIDATE_CALLER {
            0 => {
                let mappings = self.store.mapping().over(self.store);
                tlb::invalidate(&mut *policy, &mappings, run.first, run.last())
            }
            _ => {
                let task = current!();
                let guard = task.mm().ok_or(EINVAL)?.mmap_read_lock();
                let mappings = guard.mappings_over(self.store);
                tlb::invalidate(&mut *policy, &mappings, run.first, run.last())
            }
        };
        arg.nr_flush_calls = report.nr_calls as u64;
        Ok(())
    }

    fn setup(&self, arg: &mut abi::Setup) -> Result {
        request::all_zero(&arg.reserved.map(u64::from))?;
        let nr_pages = self.store.limits().nr_pages;
        let setup = Setup::new(arg.flags, arg.folio_order, nr_pages)?;
        self.store.lock().set_up(setup)
    }

    fn idle(&self, arg: &mut abi::Idle) -> Result {
        request::all_zero(&[u64::from(arg.reserved)])?;
        let limits = self.store.limits();
        let run = Run::at_most(limits, arg.offset, arg.len, limits.max_list as usize)?;
        let mark = match arg.op {
            abi::IDLE_MARK => true,
            abi::IDLE_UNMARK => false,
            _ => return Err(EINVAL),
        };
        (arg.nr_pages, arg.nr_taken) = (0, 0);
        let mut state = self.store.lock();
        for pgoff in run.pages() {
            if mark {
                arg.nr_pages += u64::from(state.slots.mark_idle(pgoff));
            } else {
                let (was_idle, was_taken) = state.slots.unmark_idle(pgoff);
                arg.nr_pages += u64::from(was_idle);
                arg.nr_taken += u64::from(was_taken);
            }
        }
        // So far these are slots.
        let nr_per_slot = state.slots.nr_per_slot() as u64;
        arg.nr_pages *= nr_per_slot;
        arg.nr_taken *= nr_per_slot;
        Ok(())
    }
}
