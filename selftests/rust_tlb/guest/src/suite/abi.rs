// SPDX-License-Identifier: GPL-2.0

//! What the device says of itself, and what it refuses, with which errno. A refused call changes
//! nothing.

mod arguments;
mod refusal;
mod scope_arguments;
mod unmap_arguments;

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;
use rustix::mm::{self, MapFlags, ProtFlags};

use crate::abi::{self, strategy};
use crate::device::{Device, PATH, REAL_STRATEGIES};
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGE_SIZE, READ_WRITE};
use crate::selection::Selection;

use arguments::{
    accessed_refuses_bad_arguments, flush_refuses_bad_arguments, invalidate_refuses_bad_arguments,
    populate_refuses_bad_arguments,
};
use refusal::{Refusal, BAD_ADDRESS};
use scope_arguments::{
    idle_refuses_bad_arguments, scope_refuses_bad_arguments, setup_comes_before_the_first_use,
    setup_refuses_bad_arguments,
};
use unmap_arguments::{
    unmap_refuses_bad_lists, unmap_refuses_bad_ranges, unmap_refuses_bad_strategies,
    unmap_refuses_to_break_what_has_no_batch, unmap_refuses_to_defer_what_flushes_at_once,
    unmap_refuses_two_phases_without_a_batch,
};

crate::tests! {
    node_is_for_root_only,
    describe_is_consistent,
    an_open_file_has_its_own_pages,
    unknown_calls_are_refused,
    bad_addresses_are_refused,
    populate_refuses_bad_arguments,
    unmap_refuses_bad_ranges,
    unmap_refuses_bad_lists,
    unmap_refuses_bad_strategies,
    unmap_refuses_to_defer_what_flushes_at_once,
    unmap_refuses_two_phases_without_a_batch,
    unmap_refuses_to_break_what_has_no_batch,
    flush_refuses_bad_arguments,
    accessed_refuses_bad_arguments,
    invalidate_refuses_bad_arguments,
    setup_refuses_bad_arguments,
    setup_comes_before_the_first_use,
    scope_refuses_bad_arguments,
    idle_refuses_bad_arguments,
    private_mappings_are_refused,
    mappings_beyond_the_device_are_refused,
}

fn node_is_for_root_only(_: &Options) -> Result<()> {
    let node = std::fs::metadata(PATH)?;
    ensure!(
        node.file_type().is_char_device(),
        "{PATH} is not a character device"
    );
    ensure!(node.mode() & 0o7777 == 0o600, "mode {:o}", node.mode());
    ensure!(
        node.uid() == 0 && node.gid() == 0,
        "owner {}:{}",
        node.uid(),
        node.gid()
    );
    Ok(())
}

fn describe_is_consistent(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let describe = device.describe()?;
    println!("# {describe:?}");
    ensure!(describe.version == abi::VERSION, "version");
    ensure!(describe.page_size as usize == PAGE_SIZE, "page size");
    ensure!(
        describe.nr_pages > 0 && describe.max_list > 0 && describe.max_pending > 0,
        "limits"
    );
    ensure!(describe.max_age_ms > 0, "age");
    ensure!(describe.reserved == [0; 4], "reserved");
    ensure!(
        describe.strategies >> strategy::NR == 0,
        "a strategy without a name"
    );
    let real = REAL_STRATEGIES
        .iter()
        .all(|strategy| describe.strategies & 1 << strategy != 0);
    ensure!(real, "a strategy is missing");
    ensure!(device.describe()? == describe, "it changes");
    ensure!(
        device.counters()? == abi::Counters::default(),
        "counters of a new file"
    );
    Ok(())
}

fn an_open_file_has_its_own_pages(_: &Options) -> Result<()> {
    let (one, two) = (Device::open()?, Device::open()?);
    let (map_one, map_two) = (one.map(1)?, two.map(1)?);
    map_one.word(0, 0).store(1, Relaxed);
    ensure!(map_two.word(0, 0).load(Relaxed) == 0, "a page is shared");
    map_two.word(0, 0).store(2, Relaxed);
    let reply = two.unmap(&Selection::run(0, 1), strategy::BROADCAST, 0)?;
    ensure!(reply.nr_pages == 1 && reply.nr_ptes == 1, "{reply:?}");
    ensure!(
        map_one.word(0, 0).load(Relaxed) == 1,
        "the other file's page is gone"
    );
    ensure!(
        one.counters()?.nr_unmapped == 0,
        "the other file's counters"
    );
    Ok(())
}

fn unknown_calls_are_refused(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let size_bit = 1 << 16;
    let next_number = abi::IDLE + 1;
    let other_type = abi::DESCRIBE ^ 0x100;
    let opcodes = [
        ("an unknown number", next_number),
        ("another type", other_type),
        ("another size", abi::DESCRIBE + size_bit),
        ("another direction", abi::UNMAP & !(1 << 31)),
    ];
    for (what, opcode) in opcodes {
        let mut argument = [0_u64; 32];
        let address: *mut c_void = argument.as_mut_ptr().cast();
        // SAFETY: The array is longer than any argument.
        let answer = unsafe { refusal.device.call_at(opcode, address) };
        refusal.expect_answer(what, Errno::NOTTY, answer)?;
    }
    refusal.finish()
}

fn bad_addresses_are_refused(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let opcodes = [
        ("describe", abi::DESCRIBE),
        ("populate", abi::POPULATE),
        ("unmap", abi::UNMAP),
        ("flush", abi::FLUSH),
        ("counters", abi::COUNTERS),
        ("accessed", abi::ACCESSED),
        ("invalidate", abi::INVALIDATE),
        ("setup", abi::SETUP),
        ("scope", abi::SCOPE),
        ("idle", abi::IDLE),
    ];
    for (what, opcode) in opcodes {
        for address in [0, BAD_ADDRESS] {
            let address = ptr::without_provenance_mut(address as usize);
            // SAFETY: There is no memory at either address.
            let answer = unsafe { refusal.device.call_at(opcode, address) };
            refusal.expect_answer(what, Errno::FAULT, answer)?;
        }
    }
    read_only_result(&refusal)?;
    refusal.finish()
}

/// A result cannot be written to memory that the process may only read.
fn read_only_result(refusal: &Refusal) -> Result<()> {
    // SAFETY: A new mapping at an address of the kernel's choice replaces no other.
    let address = unsafe {
        mm::mmap_anonymous(
            ptr::null_mut(),
            PAGE_SIZE,
            ProtFlags::READ,
            MapFlags::PRIVATE,
        )
    }?;
    // SAFETY: No reference to this memory exists.
    let answer = unsafe { refusal.device.call_at(abi::DESCRIBE, address) };
    refusal.expect_answer("read-only result", Errno::FAULT, answer)
}

fn private_mappings_are_refused(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    for prot in [ProtFlags::READ, READ_WRITE] {
        let answer = Mapping::with(&refusal.device, 0, 1, prot, MapFlags::PRIVATE).map(drop);
        refusal.expect_answer("private", Errno::INVAL, answer)?;
    }
    refusal.finish()
}

fn mappings_beyond_the_device_are_refused(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let end = refusal.describe.nr_pages;
    for (first, nr) in [
        (0, end + 1),
        (1, end),
        (end, 1),
        (end + 100, 1),
        (u64::MAX >> 13, 1),
    ] {
        let answer = Mapping::new(&refusal.device, first, nr).map(drop);
        refusal.expect_answer(&format!("{nr} pages from {first}"), Errno::NXIO, answer)?;
    }
    drop(Mapping::new(&refusal.device, end - 1, 1).context("the last page")?);
    drop(Mapping::new(&refusal.device, 0, end).context("the whole device")?);
    refusal.finish()
}
