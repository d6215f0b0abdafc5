// SPDX-License-Identifier: GPL-2.0

//! Scopes that cannot be entered or left. What is in one goes on as if nothing had been asked.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{ensure, Result};
use rustix::io::Errno;

use super::{
    enter, expect_fresh, expect_released, leave, unmap_and_owe, written, NR_AT_ONCE, STRATEGIES,
};
use crate::abi::{self, strategy};
use crate::device::Device;
use crate::ktap::Options;
use crate::mapping::Mapping;

fn expect_refused(what: &str, errno: Errno, answer: Result<abi::Scope, Errno>) -> Result<()> {
    ensure!(answer == Err(errno), "{what}: {answer:?}, not {errno:?}");
    Ok(())
}

/// Enters with anything for a file.
fn enter_of(device: &Device, strategy: u32, outer: i32) -> Result<abi::Scope, Errno> {
    let mut scope = abi::Scope {
        op: abi::SCOPE_ENTER,
        strategy,
        outer,
        ..Default::default()
    };
    device.call(&mut scope).map(|()| scope)
}

/// A file in a scope, with a flush owed.
fn in_scope(strategy: u32) -> Result<(Device, Mapping)> {
    let (device, mapping) = written()?;
    enter(&device, strategy, None, 1)?;
    unmap_and_owe(&device, strategy, 0)?;
    Ok((device, mapping))
}

/// Demands that the file is where [`in_scope`] has left it.
fn expect_end(device: &Device, mapping: &Mapping) -> Result<()> {
    leave(device, 1, 0, 0)?;
    expect_released(device, NR_AT_ONCE)?;
    expect_fresh(mapping, NR_AT_ONCE)
}

pub fn who_has_not_entered_cannot_leave(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (outer, mapping) = in_scope(strategy)?;
        let other = Device::open()?;
        expect_refused("never entered", Errno::INVAL, other.leave())?;
        enter(&other, strategy, Some(&outer), 2)?;
        leave(&other, 0, 0, 1)?;
        expect_refused("left before", Errno::INVAL, other.leave())?;
        expect_end(&outer, &mapping)?;
        expect_refused("ended", Errno::INVAL, outer.leave())?;
    }
    Ok(())
}

pub fn a_scope_has_one_strategy(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = in_scope(strategy)?;
        let joining = Device::open()?;
        for other in (0..strategy::NONE).filter(|&other| other != strategy) {
            expect_refused("again", Errno::INVAL, device.enter(other, None))?;
            let answer = joining.enter(other, Some(&device));
            expect_refused("another file", Errno::INVAL, answer)?;
        }
        let unknown = device.enter(strategy::NR, None);
        expect_refused("unknown", Errno::INVAL, unknown)?;
        expect_refused("never entered", Errno::INVAL, joining.leave())?;
        expect_end(&device, &mapping)?;
    }
    Ok(())
}

pub fn outer_files_are_in_a_scope(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = in_scope(strategy)?;
        let (joining, idle) = (Device::open()?, Device::open()?);
        let null = File::open("/dev/null")?;
        let closed = File::open("/dev/null")?.as_raw_fd();
        for (what, errno, outer) in [
            ("closed", Errno::BADF, closed),
            ("negative", Errno::BADF, -2),
            ("another device", Errno::XDEV, null.as_raw_fd()),
            ("not in a scope", Errno::INVAL, idle.file().as_raw_fd()),
        ] {
            expect_refused(what, errno, enter_of(&joining, strategy, outer))?;
        }
        expect_refused("never entered", Errno::INVAL, joining.leave())?;
        // Nor is a file that has left.
        enter(&joining, strategy, Some(&device), 2)?;
        leave(&joining, 0, 0, 1)?;
        let left = idle.enter(strategy, Some(&joining));
        expect_refused("left before", Errno::INVAL, left)?;
        expect_end(&device, &mapping)?;
    }
    Ok(())
}

pub fn a_file_is_in_one_scope(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = in_scope(strategy)?;
        let (other, other_mapping) = in_scope(strategy)?;
        let answer = device.enter(strategy, Some(&other));
        expect_refused("in another", Errno::BUSY, answer)?;
        let joining = Device::open()?;
        enter(&joining, strategy, Some(&device), 2)?;
        let answer = joining.enter(strategy, Some(&other));
        expect_refused("in another", Errno::BUSY, answer)?;
        // Its own again, by the other's name, is one more level.
        let again = joining.enter(strategy, Some(&device))?;
        ensure!(again.depth == 2 && again.nr_levels == 3, "{again:?}");
        leave(&joining, 0, 1, 2)?;
        leave(&joining, 0, 0, 1)?;
        expect_end(&device, &mapping)?;
        expect_end(&other, &other_mapping)?;
    }
    Ok(())
}

/// Neither is entered, and closing leaves all levels at once.
pub fn a_scope_has_so_many_levels(_: &Options) -> Result<()> {
    let most = abi::SCOPE_MAX_DEPTH;
    for strategy in STRATEGIES {
        let (outer, mapping) = in_scope(strategy)?;
        for depth in 2..=most {
            let entered = outer.enter(strategy, None)?;
            ensure!(
                (entered.depth, entered.nr_levels) == (depth, depth),
                "{entered:?}"
            );
        }
        expect_refused(
            "a level too many",
            Errno::OVERFLOW,
            outer.enter(strategy, None),
        )?;
        // Another file has as many of its own.
        let other = Device::open()?;
        for depth in 1..=most {
            let entered = other.enter(strategy, (depth == 1).then_some(&outer))?;
            let levels = (entered.depth, entered.nr_levels);
            ensure!(levels == (depth, most + depth), "{entered:?}");
        }
        expect_refused("of another", Errno::OVERFLOW, other.enter(strategy, None))?;
        drop(other);
        let left = outer.leave()?;
        ensure!(left.nr_levels == most - 1, "{left:?}");
        while outer.leave()?.nr_levels > 1 {}
        expect_end(&outer, &mapping)?;
    }
    Ok(())
}
