// SPDX-License-Identifier: GPL-2.0

//! The smallest sample, `rust_tlb_minimal`: what a driver author copies has to be right.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::barrier::Wait;
use crate::child::Child;
use crate::device::Device;
use crate::kernel_module::{self, Other};
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::tlb_events::TlbEvents;
use crate::workers::Workers;

crate::tests! {
    pages_come_and_go,
    a_child_loses_them_too,
    they_go_with_one_round,
    no_page_is_reached_after_its_flush,
    bad_calls_are_refused,
    unload_is_refused_while_mapped,
}

const NODE: &str = "/dev/rust-tlb-minimal";
const NR_PAGES: u64 = 64;
/// `_IO('|', 0x9f)`.
const TAKE_BACK: u32 = 0x7c9f;
/// The kernel flushes for reasons of its own, too.
const NR_ATTEMPTS: u32 = 10;

/// The module as long as a test needs it, and its device.
struct Minimal {
    device: Device,
    _module: Other,
}

impl Minimal {
    fn load() -> Result<Option<Self>> {
        let Some(module) = Other::load(c"rust_tlb_minimal")? else {
            return Ok(None);
        };
        let device = Device::open_at(Path::new(NODE), OFlags::RDWR).context(NODE)?;
        Ok(Some(Self {
            device,
            _module: module,
        }))
    }

    fn call(&self, opcode: u32) -> Result<u64, Errno> {
        // SAFETY: The driver's calls have no argument.
        let ret = unsafe {
            libc::ioctl(
                self.device.file().as_raw_fd(),
                opcode.into(),
                ptr::null_mut::<c_void>(),
            )
        };
        u64::try_from(ret).map_err(|_| {
            let error = std::io::Error::last_os_error();
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })
    }

    fn expect_taken(&self, nr_pages: u64) -> Result<()> {
        let taken = self.call(TAKE_BACK)?;
        ensure!(taken == nr_pages, "{taken} pages, not {nr_pages}");
        Ok(())
    }
}

fn fill(mapping: &Mapping, value: u64) {
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(value, Ordering::Relaxed));
}

fn holds(mapping: &Mapping, value: u64) -> bool {
    (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Ordering::Relaxed) == value)
}

fn pages_come_and_go(options: &Options) -> Result<()> {
    let Some(minimal) = Minimal::load()? else {
        return skip("the smallest sample is not there");
    };
    let mapping = minimal.device.map(NR_PAGES)?;
    minimal.expect_taken(0)?;
    for round in 0..10 * u64::from(options.effort) {
        fill(&mapping, round + 1);
        ensure!(holds(&mapping, round + 1), "what was written is lost");
        minimal.expect_taken(NR_PAGES)?;
        mapping.word(1, 0).load(Ordering::Relaxed);
        minimal.expect_taken(1)?;
        ensure!(holds(&mapping, 0), "old pages");
    }
    // The pages go with the file, mapped or not.
    Ok(())
}

fn a_child_loses_them_too(_: &Options) -> Result<()> {
    let Some(minimal) = Minimal::load()? else {
        return skip("the smallest sample is not there");
    };
    let mapping = minimal.device.map(NR_PAGES)?;
    fill(&mapping, 1);
    let child = Child::fork(|| {
        ensure!(holds(&mapping, 1), "the child sees other pages");
        minimal.expect_taken(NR_PAGES)?;
        ensure!(holds(&mapping, 0), "the child has old pages");
        fill(&mapping, 2);
        Ok(())
    })?;
    child.join()?;
    ensure!(holds(&mapping, 2), "the parent has old pages");
    Ok(())
}

/// The mapping, and a thread on another CPU that does as `read` says at each step.
fn read_elsewhere(
    minimal: &Minimal,
    read: impl Fn(&Mapping) -> Result<()> + Send + Sync + 'static,
) -> Result<(Arc<Mapping>, Workers)> {
    let mapping = Arc::new(minimal.device.map(NR_PAGES)?);
    let workers = Workers::of_threads(&mapping, 1, Wait::Spin, move |worker| loop {
        worker.step()?;
        read(worker.mapping)?;
        worker.step()?;
    })?;
    Ok((mapping, workers))
}

fn they_go_with_one_round(_: &Options) -> Result<()> {
    let Some(minimal) = Minimal::load()? else {
        return skip("the smallest sample is not there");
    };
    let events = || TlbEvents::read()?.context("the kernel does not count TLB flushes");
    let (mapping, workers) = read_elsewhere(&minimal, |mapping| {
        holds(mapping, 1);
        Ok(())
    })?;
    for _ in 0..NR_ATTEMPTS {
        fill(&mapping, 1);
        workers.step()?;
        workers.step()?;
        let before = events()?;
        minimal.expect_taken(NR_PAGES)?;
        let since = events()?.since(before);
        ensure!(since.remote_flush >= 1, "{since:?}");
        if (since.remote_flush, since.remote_flush_received) == (1, 1) {
            return Ok(());
        }
    }
    bail!("more than a round, {NR_ATTEMPTS} times")
}

/// What a thread elsewhere has in its TLB is gone when the call returns.
fn no_page_is_reached_after_its_flush(options: &Options) -> Result<()> {
    let Some(minimal) = Minimal::load()? else {
        return skip("the smallest sample is not there");
    };
    let expected = Arc::new(AtomicU32::new(0));
    let told = expected.clone();
    let (mapping, workers) = read_elsewhere(&minimal, move |mapping| {
        let value = told.load(Ordering::Acquire).into();
        ensure!(holds(mapping, value), "a page that was taken back");
        Ok(())
    })?;
    for round in 0..100 * options.effort {
        for value in [round + 1, 0] {
            if value == 0 {
                minimal.expect_taken(NR_PAGES)?;
            } else {
                fill(&mapping, value.into());
            }
            expected.store(value, Ordering::Release);
            workers.step()?;
            workers.step()?;
        }
    }
    Ok(())
}

fn bad_calls_are_refused(_: &Options) -> Result<()> {
    let Some(minimal) = Minimal::load()? else {
        return skip("the smallest sample is not there");
    };
    for (first, nr) in [(0, NR_PAGES + 1), (NR_PAGES, 1), (1, NR_PAGES)] {
        let refused = Mapping::new(&minimal.device, first, nr).err();
        ensure!(refused == Some(Errno::NXIO), "{first}, {nr}: {refused:?}");
    }
    let refused = minimal.call(TAKE_BACK + 1);
    ensure!(refused == Err(Errno::NOTTY), "{refused:?}");
    Ok(())
}

fn unload_is_refused_while_mapped(_: &Options) -> Result<()> {
    let Some(minimal) = Minimal::load()? else {
        return skip("the smallest sample is not there");
    };
    let Minimal {
        device,
        _module: module,
    } = minimal;
    let mapping = device.map(NR_PAGES)?;
    fill(&mapping, 1);
    drop(device);
    let refused = kernel_module::unload(module.name());
    ensure!(refused == Err(Errno::AGAIN), "{refused:?}");
    ensure!(holds(&mapping, 1), "the pages are gone");
    Ok(())
}
