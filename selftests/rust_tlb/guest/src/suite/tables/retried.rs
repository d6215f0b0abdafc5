// SPDX-License-Identifier: GPL-2.0

//! A fault whose page table is freed under it is tried again. It is no want of memory: that would
//! be an error to whoever has the kernel touch the page.

use core::ffi::c_void;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::thread;

use anyhow::{ensure, Result};

use crate::abi;
use crate::cpu;
use crate::device::Device;
use crate::held_moment;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};

/// The ways in which pages are mapped that madvise may take out again.
const SETUPS: [u32; 2] = [0, abi::SETUP_NOTIFY];

fn mapped(setup: u32) -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    device.setup(setup)?;
    let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
    Ok((device, mapping))
}

/// Someone who touches the first pages of a mapping, as many as it is told.
type Touch = fn(&Mapping, usize) -> Result<()>;

const TOUCHES: [(&str, Touch); 3] = [
    ("user space", touch),
    ("read()", read_into),
    ("process_vm_readv()", read_from),
];

fn touch(mapping: &Mapping, nr: usize) -> Result<()> {
    for page in 0..nr as u64 {
        mapping.word(page, 1).load(Relaxed);
    }
    Ok(())
}

/// Has the kernel write to the pages.
fn read_into(mapping: &Mapping, nr: usize) -> Result<()> {
    let (zero, len) = (File::open("/dev/zero")?, nr * PAGE_SIZE);
    // SAFETY: The pages are the mapping's, of atomics that anybody may write.
    let nr_read = unsafe { libc::read(zero.as_raw_fd(), mapping.address(), len) };
    expect_all("read()", nr_read, len)
}

/// Has the kernel read from the pages, by get_user_pages().
fn read_from(mapping: &Mapping, nr: usize) -> Result<()> {
    let len = nr * PAGE_SIZE;
    let mut copy = vec![0_u8; len];
    let io = |at: *mut c_void| libc::iovec {
        iov_base: at,
        iov_len: len,
    };
    let (local, remote) = (io(copy.as_mut_ptr().cast()), io(mapping.address()));
    // SAFETY: `local` describes `copy`, which is borrowed mutably; `remote` is only read.
    let nr_read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    expect_all("process_vm_readv()", nr_read, len)
}

fn expect_all(call: &str, nr: isize, len: usize) -> Result<()> {
    let error = Error::last_os_error();
    ensure!(nr >= 0, "{call}: {error}");
    ensure!(nr == len as isize, "{call}: {nr} bytes of {len}");
    Ok(())
}

/// The moment held open: the fault has made sure of a table, and has yet to lock it.
pub fn a_table_that_goes_is_no_want_of_memory(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    for setup in SETUPS {
        for (who, touch) in TOUCHES {
            let (device, mapping) = mapped(setup)?;
            thread::scope(|scope| {
                let toucher = scope.spawn(|| {
                    cpu::pin_worker(0)?;
                    held_moment::hold_own_fault()?;
                    touch(&mapping, 1)
                });
                held_moment::await_held()?;
                mapping.dont_need()?;
                held_moment::go_on()?;
                toucher.join().expect("a toucher does not panic")
            })?;
            let nr_faults = device.counters()?.nr_faults;
            ensure!(nr_faults == 2, "{who}: {nr_faults} faults");
        }
    }
    Ok(())
}

/// Transfers of all pages by each who makes any.
const NR_TRANSFERS: u32 = 10;

/// The same without help, from many sides.
pub fn faults_find_a_table_every_time(options: &Options) -> Result<()> {
    for setup in SETUPS {
        let (_device, mapping) = mapped(setup)?;
        let nr_transfers = NR_TRANSFERS * options.effort;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for worker in 0..2 {
                let (mapping, stop) = (&mapping, &stop);
                scope.spawn(move || {
                    let _ = cpu::pin_worker(worker);
                    while !stop.load(Relaxed) {
                        mapping.dont_need().expect("madvise() of all pages");
                    }
                });
            }
            let mapping = &mapping;
            let touchers = TOUCHES.map(|(_, touch)| {
                scope.spawn(move || {
                    cpu::unpin()?;
                    (0..nr_transfers).try_for_each(|_| touch(mapping, PAGES_PER_TABLE as usize))
                })
            });
            let outcomes = touchers.map(|toucher| toucher.join().expect("nobody panics"));
            stop.store(true, Relaxed);
            outcomes.into_iter().collect::<Result<()>>()
        })?;
    }
    Ok(())
}
