// SPDX-License-Identifier: GPL-2.0

//! Arguments of setup, scope and idle that are refused.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{ensure, Result};
use rustix::io::Errno;

use super::refusal::{Refusal, PAGE};
use crate::abi::{self, strategy};
use crate::device::Device;
use crate::ktap::Options;

const ALL_SETUP_FLAGS: u32 = abi::SETUP_PFNMAP | abi::SETUP_NOTIFY | abi::SETUP_RING;

pub fn setup_refuses_bad_arguments(_: &Options) -> Result<()> {
    let device = Device::open()?;
    let bad = |flags, reserved| {
        let answer = device.call(&mut abi::Setup {
            flags,
            folio_order: 0,
            reserved,
        });
        ensure!(answer == Err(Errno::INVAL), "{flags:#x}: {answer:?}");
        Ok(())
    };
    bad(1 << 7, [0; 2])?;
    // Only of frame numbers, or of folios.
    bad(abi::SETUP_HUGE, [0; 2])?;
    // Which says when, but not what.
    bad(abi::SETUP_FREE_TABLES_LATER, [0; 2])?;
    bad(1 << 31, [0; 2])?;
    bad(0, [1, 0])?;
    bad(ALL_SETUP_FLAGS, [0, 1 << 31])?;
    // Refused calls have not set anything up, nor used the file.
    device.setup(ALL_SETUP_FLAGS)?;
    Ok(())
}

/// Pages that are mapped in one way cannot be mapped in another.
pub fn setup_comes_before_the_first_use(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    for flags in [abi::SETUP_PFNMAP, abi::SETUP_NOTIFY] {
        let answer = refusal.device.setup(flags);
        refusal.expect_answer("mapped", Errno::BUSY, answer)?;
    }
    refusal.finish()?;
    let (mapped, populated) = (Device::open()?, Device::open()?);
    drop(mapped.map(1)?);
    populated.populate(0, 1)?;
    for device in [mapped, populated] {
        let answer = device.setup(abi::SETUP_NOTIFY);
        ensure!(answer == Err(Errno::BUSY), "{answer:?}");
    }
    Ok(())
}

pub fn scope_refuses_bad_arguments(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let good = abi::Scope {
        op: abi::SCOPE_ENTER,
        strategy: strategy::BROADCAST,
        outer: abi::SCOPE_NO_FILE,
        ..Default::default()
    };
    refusal.expect_each(
        good,
        Errno::INVAL,
        &[
            ("unknown op", |scope| scope.op = 2),
            ("last unknown op", |scope| scope.op = u32::MAX),
            ("reserved field", |scope| scope.reserved = 1),
            ("page", |scope| scope.strategy = strategy::PAGE),
            ("zap", |scope| scope.strategy = strategy::ZAP),
            ("unmap_mapping", |scope| {
                scope.strategy = strategy::UNMAP_MAPPING;
            }),
            ("unknown strategy", |scope| scope.strategy = strategy::NR),
            ("leave without enter", |scope| {
                (scope.op, scope.strategy) = (abi::SCOPE_LEAVE, 0);
            }),
        ],
    )?;
    bad_outer_files(&refusal, good)?;
    refusal.finish()
}

fn bad_outer_files(refusal: &Refusal, good: abi::Scope) -> Result<()> {
    let (null, idle) = (File::open("/dev/null")?, Device::open()?);
    let closed = File::open("/dev/null")?.as_raw_fd();
    let outer = |outer| abi::Scope { outer, ..good };
    refusal.expect("closed", Errno::BADF, outer(closed))?;
    refusal.expect("no descriptor", Errno::BADF, outer(i32::MAX))?;
    refusal.expect("another device", Errno::XDEV, outer(null.as_raw_fd()))?;
    let not_in_one = outer(idle.file().as_raw_fd());
    refusal.expect("not in a scope", Errno::INVAL, not_in_one)?;
    let own = outer(refusal.device.file().as_raw_fd());
    refusal.expect("its own", Errno::INVAL, own)
}

pub fn idle_refuses_bad_arguments(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let good = abi::Idle {
        len: PAGE,
        op: abi::IDLE_MARK,
        ..Default::default()
    };
    refusal.expect_bad_ranges(good, |idle, offset, len| {
        (idle.offset, idle.len) = (offset, len);
    })?;
    refusal.expect_each(
        good,
        Errno::INVAL,
        &[
            ("unknown op", |idle| idle.op = 2),
            ("reserved field", |idle| idle.reserved = 1),
        ],
    )?;
    refusal.finish()
}
