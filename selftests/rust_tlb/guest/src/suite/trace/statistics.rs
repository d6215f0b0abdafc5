// SPDX-License-Identifier: GPL-2.0

//! `rust_tlb/` in debugfs: sums over all open files.

use core::time::Duration;
use std::fs;
use std::thread;

use anyhow::{ensure, Context, Result};

use super::written;
use crate::abi::{self, strategy};
use crate::ktap::Options;
use crate::selection::Selection;

const FOLDER: &str = "/sys/kernel/debug/rust_tlb";

/// The lines of a file: words, of which the last is a count.
pub struct Lines(Vec<(String, u64)>);

impl Lines {
    fn read(file: &str) -> Result<Self> {
        let path = format!("{FOLDER}/{file}");
        let text = fs::read_to_string(&path).context(path)?;
        let line = |line: &str| {
            let (name, count) = line.rsplit_once(' ')?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        let lines = text.lines().map(|text| line(text).context(text.to_owned()));
        Ok(Self(lines.collect::<Result<_>>()?))
    }

    /// The count in the line that begins like this.
    pub fn of(&self, name: &str) -> Result<u64> {
        let line = self.0.iter().find(|(known, _)| known == name);
        Ok(line.with_context(|| format!("no line {name}"))?.1)
    }

    /// The buckets of a histogram: lower end, and count.
    fn histogram(&self, name: &str) -> Vec<(u64, u64)> {
        let bucket = |(line, count): &(String, u64)| {
            let from = line.strip_prefix(name)?.strip_prefix(' ')?;
            Some((from.parse().ok()?, *count))
        };
        self.0.iter().filter_map(bucket).collect()
    }
}

/// Of each reason, how many flushes it had.
pub fn counters() -> Result<Lines> {
    Lines::read("counters")
}

fn histograms() -> Result<Lines> {
    Lines::read("histograms")
}

/// Begins to count anew.
pub fn reset() -> Result<()> {
    Ok(fs::write(format!("{FOLDER}/reset"), "1")?)
}

pub fn batches_are_counted(_: &Options) -> Result<()> {
    let (device, mapping) = written()?;
    reset()?;
    for (first, nr) in [(0, 1), (1, 4), (5, 7), (12, 8)] {
        device.unmap(&Selection::run(first, nr), strategy::BROADCAST, 0)?;
    }
    let lines = histograms()?;
    // A bucket is from a power of two to the next: 1; 4 and 7; 8.
    let pages = lines.histogram("batch_pages");
    ensure!(pages == [(1, 1), (4, 2), (8, 1)], "{pages:?}");
    let mms = lines.histogram("batch_mms");
    ensure!(mms == [(1, 4)], "{mms:?}");
    let ended = counters()?.of("flushes_end")?;
    ensure!(ended == 4, "{ended} flushes");
    drop((device, mapping));
    Ok(())
}

pub fn deferrals_are_timed(_: &Options) -> Result<()> {
    const AGE: Duration = Duration::from_millis(20);
    let (device, mapping) = written()?;
    reset()?;
    device.unmap(&Selection::run(0, 4), strategy::BROADCAST, abi::UNMAP_DEFER)?;
    thread::sleep(AGE);
    device.flush()?;
    let deferrals = histograms()?.histogram("deferral_us");
    let [(from, 1)] = deferrals[..] else {
        anyhow::bail!("{deferrals:?}");
    };
    // The lower end of the bucket that 20 ms are in, or a later one.
    ensure!(u128::from(from) >= AGE.as_micros() / 2, "{deferrals:?}");
    drop((device, mapping));
    Ok(())
}

pub fn reset_starts_anew(_: &Options) -> Result<()> {
    let (device, _mapping) = written()?;
    device.unmap(&Selection::run(0, 4), strategy::BROADCAST, 0)?;
    ensure!(counters()?.of("flushes_end")? > 0, "nothing was counted");
    reset()?;
    let left: Vec<_> = counters()?
        .0
        .into_iter()
        .filter(|line| line.1 > 0)
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    let left = histograms()?.0;
    ensure!(left.is_empty(), "{left:?}");
    // And goes on.
    device.unmap(&Selection::run(8, 4), strategy::BROADCAST, 0)?;
    let ended = counters()?.of("flushes_end")?;
    ensure!(ended == 1, "{ended} flushes");
    Ok(())
}
