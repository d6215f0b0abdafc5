// SPDX-License-Identifier: GPL-2.0

//! What does not go with pages that are mapped by number.

use anyhow::{ensure, Result};
use rustix::io::Errno;
use rustix::mm::MapFlags;

use super::{expect_contents, new_device, written, NR_PAGES};
use crate::abi::strategy;
use crate::device::Device;
use crate::direct_io::Disk;
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGE_SIZE, READ_WRITE};
use crate::page_holder::PageHolder;
use crate::pinned::{self, Pinned};

/// Copies of single pages would be mapped by number too, and be nobody's.
pub fn private_mappings_are_refused(_: &Options) -> Result<()> {
    let device = new_device()?;
    let private = Mapping::with(&device, 0, 1, READ_WRITE, MapFlags::PRIVATE);
    ensure!(private.map(drop) == Err(Errno::INVAL), "mapped");
    Ok(())
}

pub fn dontneed_is_refused(_: &Options) -> Result<()> {
    let (_device, mapping) = written()?;
    let answer = mapping.dont_need();
    ensure!(answer == Err(Errno::INVAL), "{answer:?}");
    expect_contents(&mapping, &[])
}

/// Reads the mapping as a debugger would, and returns how much.
fn read_memory(mapping: &Mapping) -> Result<usize, Errno> {
    let mut copy = vec![0_u8; mapping.nr_pages() as usize * PAGE_SIZE];
    let local = libc::iovec {
        iov_base: copy.as_mut_ptr().cast(),
        iov_len: copy.len(),
    };
    let remote = libc::iovec {
        iov_base: mapping.address(),
        iov_len: copy.len(),
    };
    // SAFETY: `local` describes `copy`, which is borrowed mutably; `remote` is only read.
    let nr_read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    usize::try_from(nr_read).map_err(|_| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// What those say who want references to the pages of `mapping`.
fn take_references(mapping: &Mapping) -> Result<Vec<(&'static str, Result<(), Errno>)>> {
    let mut answers = vec![
        ("process_vm_readv", read_memory(mapping).map(drop)),
        ("vmsplice", PageHolder::take(mapping).map(drop)),
    ];
    if pinned::is_possible() {
        let registered = Pinned::new(mapping).and_then(Pinned::release);
        answers.push(("a registered buffer", registered));
    }
    if Disk::exists() {
        let disk = Disk::open()?;
        let written = disk.write_from(mapping, 0).map(drop);
        answers.push(("direct I/O from the mapping", written));
        let read = disk.read_into(mapping, 0).map(drop);
        answers.push(("direct I/O to the mapping", read));
    }
    Ok(answers)
}

fn expect_answers(mapping: &Mapping, expected: Result<(), Errno>) -> Result<()> {
    for (what, answer) in take_references(mapping)? {
        ensure!(answer == expected, "{what}: {answer:?}");
    }
    Ok(())
}

/// Whether the pages are mapped already or not; those of the usual flavour show that it can be done.
pub fn others_cannot_take_references(_: &Options) -> Result<()> {
    let usual = Device::open()?;
    expect_answers(&usual.map(NR_PAGES)?, Ok(()))?;
    let (device, mapping) = written()?;
    let untouched = Mapping::new(&device, NR_PAGES, NR_PAGES)?;
    expect_answers(&mapping, Err(Errno::FAULT))?;
    expect_answers(&untouched, Err(Errno::FAULT))?;
    expect_contents(&mapping, &[])?;
    device.unmap(&super::all(), strategy::BROADCAST, 0)?;
    let counters = device.counters()?;
    ensure!(counters.nr_shared == 0, "{counters:?}");
    Ok(())
}
