// SPDX-License-Identifier: GPL-2.0

//! A device in use, and the demand that a refused call leaves it as it was.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;

use crate::abi::{self, strategy};
use crate::device::{Argument, Device};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::selection::Selection;

/// Bytes in a page.
pub const PAGE: u64 = PAGE_SIZE as u64;

/// Nothing is mapped there, and nothing can be.
pub const BAD_ADDRESS: u64 = 1 << 63;

/// What is wrong, and a function that makes it so.
type Spoiled<A> = (&'static str, fn(&mut A));

/// A device in use, with its counters: what a refused call must not change.
pub struct Refusal {
    pub device: Device,
    mapping: Mapping,
    pub describe: abi::Describe,
    counters: abi::Counters,
}

const NR_PAGES: u64 = 8;

impl Refusal {
    /// Opens a device and writes to some pages.
    pub fn new() -> Result<Self> {
        let device = Device::open()?;
        let mapping = device.map(NR_PAGES)?;
        stamp(&mapping);
        Ok(Self {
            describe: device.describe()?,
            counters: device.counters()?,
            device,
            mapping,
        })
    }

    /// Demands that `what` is refused with `errno` and nothing else happens.
    pub fn expect<A: Argument>(&self, what: &str, errno: Errno, mut argument: A) -> Result<()> {
        let answer = self.device.call(&mut argument);
        self.expect_answer(what, errno, answer)
    }

    /// As [`Refusal::expect`], for a call that the caller has made.
    pub fn expect_answer(&self, what: &str, errno: Errno, answer: Result<(), Errno>) -> Result<()> {
        ensure!(answer == Err(errno), "{what}: {answer:?}, not {errno:?}");
        let counters = self.device.counters()?;
        ensure!(
            counters == self.counters,
            "{what}: {counters:?} after {:?}",
            self.counters
        );
        check_stamps(&self.mapping).with_context(|| format!("after {what}"))
    }

    /// Demands that `good` is refused with `errno` after each one of `changes`.
    pub fn expect_each<A: Argument + Copy>(
        &self,
        good: A,
        errno: Errno,
        changes: &[Spoiled<A>],
    ) -> Result<()> {
        for (what, change) in changes {
            let mut bad = good;
            change(&mut bad);
            self.expect(what, errno, bad)?;
        }
        Ok(())
    }

    /// Demands that `good` is refused with any range that no call takes; `set` sets offset and
    /// length.
    pub fn expect_bad_ranges<A: Argument + Copy>(
        &self,
        good: A,
        set: impl Fn(&mut A, u64, u64),
    ) -> Result<()> {
        for (what, errno, offset, len) in bad_ranges(self.describe.nr_pages * PAGE) {
            let mut bad = good;
            set(&mut bad, offset, len);
            self.expect(what, errno, bad)?;
        }
        Ok(())
    }

    /// Demands that the device still works.
    pub fn finish(self) -> Result<()> {
        let reply = self
            .device
            .unmap(&Selection::run(0, NR_PAGES), strategy::PRECISE, 0)?;
        ensure!(reply.nr_pages == NR_PAGES, "{reply:?}");
        ensure!(
            self.mapping.word(0, 0).load(Relaxed) == 0,
            "the old page is still there"
        );
        Ok(())
    }
}

fn stamp(mapping: &Mapping) {
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
}

fn check_stamps(mapping: &Mapping) -> Result<()> {
    let kept = (0..NR_PAGES).all(|page| mapping.word(page, 0).load(Relaxed) == page + 1);
    ensure!(kept, "the pages have changed");
    Ok(())
}

/// Ranges that no call takes: what is wrong, the errno, offset and length in bytes.
fn bad_ranges(device_len: u64) -> [(&'static str, Errno, u64, u64); 9] {
    const LAST_PAGE: u64 = 0_u64.wrapping_sub(PAGE);
    [
        ("misaligned offset", Errno::INVAL, 1, PAGE),
        ("misaligned length", Errno::INVAL, 0, PAGE + 8),
        ("length below a page", Errno::INVAL, 0, 1),
        ("zero length", Errno::INVAL, 0, 0),
        ("one page too long", Errno::NXIO, PAGE, device_len),
        ("behind the device", Errno::NXIO, device_len, PAGE),
        ("overflow of the end", Errno::NXIO, LAST_PAGE, PAGE),
        ("overflow beyond zero", Errno::NXIO, LAST_PAGE, 2 * PAGE),
        ("greatest length", Errno::NXIO, PAGE, LAST_PAGE),
    ]
}
