// SPDX-License-Identifier: GPL-2.0

//! Arguments that are refused, of all calls but unmap.

use anyhow::Result;
use rustix::io::Errno;

use super::refusal::{Refusal, PAGE};
use crate::abi::{self, strategy};
use crate::ktap::Options;

pub fn populate_refuses_bad_arguments(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let good = abi::Populate {
        len: PAGE,
        ..Default::default()
    };
    refusal.expect_bad_ranges(good, |populate, offset, len| {
        (populate.offset, populate.len) = (offset, len);
    })?;
    refusal.expect_each(
        good,
        Errno::INVAL,
        &[
            ("unknown flag", |populate| populate.flags = 1),
            ("reserved field", |populate| populate.reserved = 1),
        ],
    )?;
    refusal.finish()
}

pub fn flush_refuses_bad_arguments(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    refusal.expect_each(
        abi::Flush::default(),
        Errno::INVAL,
        &[
            ("unknown flag", |flush| flush.flags = 1),
            ("reserved field", |flush| flush.reserved = 1),
        ],
    )?;
    refusal.finish()
}

pub fn accessed_refuses_bad_arguments(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let good = abi::Accessed {
        len: PAGE,
        op: abi::ACCESSED_CLEAR,
        ..Default::default()
    };
    refusal.expect_bad_ranges(good, |accessed, offset, len| {
        (accessed.offset, accessed.len) = (offset, len);
    })?;
    refusal.expect_each(
        good,
        Errno::INVAL,
        &[
            ("unknown op", |accessed| accessed.op = 2),
            ("reserved field", |accessed| accessed.reserved = 1),
        ],
    )?;
    let long: fn(&mut abi::Accessed) = |accessed| {
        accessed.len = (abi::ACCESSED_MAX_PAGES + 1) * PAGE;
    };
    refusal.expect_each(good, Errno::TOOBIG, &[("a page too many", long)])?;
    refusal.finish()
}

pub fn invalidate_refuses_bad_arguments(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let good = abi::Invalidate {
        len: PAGE,
        strategy: strategy::PRECISE,
        ..Default::default()
    };
    refusal.expect_bad_ranges(good, |invalidate, offset, len| {
        (invalidate.offset, invalidate.len) = (offset, len);
    })?;
    refusal.expect_each(
        good,
        Errno::INVAL,
        &[
            ("page", |invalidate| invalidate.strategy = strategy::PAGE),
            ("zap", |invalidate| invalidate.strategy = strategy::ZAP),
            ("unmap_mapping", |invalidate| {
                invalidate.strategy = strategy::UNMAP_MAPPING;
            }),
            ("unknown strategy", |invalidate| {
                invalidate.strategy = strategy::NR;
            }),
            ("unknown flag", |invalidate| invalidate.flags = 1 << 1),
        ],
    )?;
    refusal.finish()
}
