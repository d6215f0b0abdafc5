// SPDX-License-Identifier: GPL-2.0

//! Memory that goes bad (`CONFIG_HWPOISON_INJECT`): a page that is known to be is never handed out
//! again, whether the device has it in its pool or somebody has it mapped.

use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Result};

use crate::abi::{self, strategy};
use crate::child::Child;
use crate::device::Device;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::selection::Selection;

crate::tests! {
    bad_pages_of_the_pool_are_not_used_again,
    bad_pages_are_given_up,
    bad_pages_are_not_saved,
    bad_pages_are_not_mapped_again,
    a_bad_page_spoils_its_folio,
}

const NR_PAGES: u64 = 8;
const CORRUPT: &str = "/sys/kernel/debug/hwpoison/corrupt-pfn";
const UNPOISON: &str = "/sys/kernel/debug/hwpoison/unpoison-pfn";

/// Frames that have gone bad; good again when it goes out of scope.
#[derive(Default)]
struct Bad(BTreeSet<u64>);

impl Bad {
    /// The kernel may say that it can do nothing about it, and knows all the same.
    fn corrupt(&mut self, pfn: u64) -> Result<()> {
        self.0.insert(pfn);
        let _ = fs::write(CORRUPT, pfn.to_string());
        let flags = File::open("/proc/kpageflags")?;
        let mut word = [0; 8];
        flags.read_exact_at(&mut word, pfn * 8)?;
        const HWPOISON: u64 = 1 << 19;
        ensure!(
            u64::from_ne_bytes(word) & HWPOISON != 0,
            "frame {pfn} is good"
        );
        Ok(())
    }
}

impl Drop for Bad {
    fn drop(&mut self) {
        for pfn in &self.0 {
            let _ = fs::write(UNPOISON, pfn.to_string());
        }
    }
}

/// The frame of a page that is mapped.
fn frame(mapping: &Mapping, page: u64) -> Result<u64> {
    const PRESENT: u64 = 1 << 63;
    const PFN: u64 = (1 << 55) - 1;
    let pagemap = File::open("/proc/self/pagemap")?;
    let nr = mapping.address().addr() as u64 / PAGE_SIZE as u64 + page;
    let mut word = [0; 8];
    pagemap.read_exact_at(&mut word, nr * 8)?;
    let word = u64::from_ne_bytes(word);
    ensure!(word & PRESENT != 0, "page {page} is not mapped");
    Ok(word & PFN)
}

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

/// A device with all pages mapped and written to, and their frames.
fn written() -> Result<(Device, Mapping, Vec<u64>)> {
    written_to(Device::open()?)
}

fn written_to(device: Device) -> Result<(Device, Mapping, Vec<u64>)> {
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    let frames = (0..NR_PAGES)
        .map(|page| frame(&mapping, page))
        .collect::<Result<_>>()?;
    Ok((device, mapping, frames))
}

fn expect_none_of(bad: &Bad, mapping: &Mapping) -> Result<()> {
    for page in 0..NR_PAGES {
        mapping.word(page, 0).load(Relaxed);
        let frame = frame(mapping, page)?;
        ensure!(!bad.0.contains(&frame), "page {page} is frame {frame}");
    }
    Ok(())
}

/// Runs `test` where frames can be made bad. Of pages that are mapped by number `pagemap` does not
/// say which they are.
fn where_possible(test: impl FnOnce() -> Result<()>) -> Result<()> {
    if !Path::new(CORRUPT).exists() {
        return skip("the kernel has no CONFIG_HWPOISON_INJECT, or it is not loaded");
    }
    test()
}

fn bad_pages_of_the_pool_are_not_used_again(_: &Options) -> Result<()> {
    where_possible(|| {
        let (device, mapping, frames) = written()?;
        device.unmap(&all(), strategy::BROADCAST, 0)?;
        ensure!(device.counters()?.nr_recycled == NR_PAGES, "no pool");
        let mut bad = Bad::default();
        bad.corrupt(frames[2])?;
        bad.corrupt(frames[5])?;
        expect_none_of(&bad, &mapping)?;
        let counters = device.counters()?;
        ensure!(counters.nr_stale_writes == 0, "{counters:?}");
        ensure!(counters.nr_pages_held == NR_PAGES, "{counters:?}");
        Ok(())
    })
}

fn bad_pages_are_given_up(_: &Options) -> Result<()> {
    where_possible(|| {
        let (device, mapping, frames) = written()?;
        let mut bad = Bad::default();
        bad.corrupt(frames[3])?;
        let reply = device.unmap(&all(), strategy::PRECISE, 0)?;
        ensure!(reply.nr_pages == NR_PAGES, "{reply:?}");
        let counters = device.counters()?;
        ensure!(counters.nr_shared == 1, "{counters:?}");
        expect_none_of(&bad, &mapping)
    })
}

/// Neither its contents nor the page itself come back; those of the others do.
fn bad_pages_are_not_saved(_: &Options) -> Result<()> {
    where_possible(|| {
        let (device, mapping, frames) = written()?;
        let mut bad = Bad::default();
        bad.corrupt(frames[3])?;
        let reply = device.unmap(&all(), strategy::PRECISE, abi::UNMAP_WRITE_BACK)?;
        ensure!(reply.nr_written_back == NR_PAGES - 1, "{reply:?}");
        expect_none_of(&bad, &mapping)?;
        for page in 0..NR_PAGES {
            let value = mapping.word(page, 0).load(Relaxed);
            let expected = if page == 3 { 0 } else { page + 1 };
            ensure!(value == expected, "page {page} holds {value:#x}");
        }
        Ok(())
    })
}

/// Whoever touches it, and has it not mapped, is told by a signal.
fn bad_pages_are_not_mapped_again(_: &Options) -> Result<()> {
    where_possible(|| {
        let (device, _mapping, frames) = written()?;
        let mut bad = Bad::default();
        bad.corrupt(frames[3])?;
        let another = device.map(NR_PAGES)?;
        ensure!(another.word(2, 0).load(Relaxed) == 3, "a good page");
        let child = Child::fork_with_code(|| another.word(3, 0).load(Relaxed) as i32)?;
        let status = child.wait()?;
        ensure!(
            status.terminating_signal() == Some(libc::SIGBUS),
            "{status:?}"
        );
        Ok(())
    })
}

/// Also if it is not the first: none of the folio comes back, nor its contents.
fn a_bad_page_spoils_its_folio(_: &Options) -> Result<()> {
    where_possible(|| {
        let device = Device::open()?;
        device.setup_folios(0, 2)?;
        let (device, mapping, frames) = written_to(device)?;
        let mut bad = Bad::default();
        bad.corrupt(frames[6])?;
        let reply = device.unmap(&all(), strategy::PRECISE, abi::UNMAP_WRITE_BACK)?;
        ensure!(reply.nr_written_back == NR_PAGES / 2, "{reply:?}");
        let counters = device.counters()?;
        ensure!(counters.nr_shared == NR_PAGES / 2, "{counters:?}");
        expect_none_of(&bad, &mapping)?;
        for page in 0..NR_PAGES {
            let value = mapping.word(page, 0).load(Relaxed);
            let expected = if page < NR_PAGES / 2 { page + 1 } else { 0 };
            ensure!(value == expected, "page {page} holds {value:#x}");
        }
        Ok(())
    })
}
