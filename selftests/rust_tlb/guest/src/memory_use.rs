// SPDX-License-Identifier: GPL-2.0

//! Memory in use, as the kernel accounts it.

use std::fs;

use anyhow::{ensure, Context, Result};

use crate::tlb_events::counter;

/// Accounting of this process and of the system, in pages.
#[derive(Clone, Copy, Debug)]
pub struct MemoryUse {
    /// Resident pages of files and devices of this process.
    pub file_rss: i64,
    /// Resident pages of any kind of this process.
    pub rss: i64,
    /// Pages of files and devices that any process maps.
    pub mapped: i64,
    /// Free pages of the system, with those that its CPUs keep in stock.
    pub free: i64,
}

impl MemoryUse {
    /// Reads the accounts, after the kernel was told to sum up what its CPUs keep for themselves.
    pub fn read() -> Result<Self> {
        // Not there without CONFIG_SYSCTL; then the counts are off by a few pages per CPU.
        let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
        let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
        let vmstat = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
        let zones = fs::read_to_string("/proc/zoneinfo").context("/proc/zoneinfo")?;
        Self::parse(&status, &vmstat, &zones).context("an account is missing in /proc")
    }

    fn parse(status: &str, vmstat: &str, zones: &str) -> Option<Self> {
        Some(Self {
            file_rss: pages(status, "RssFile")? + pages(status, "RssShmem")?,
            rss: pages(status, "VmRSS")?,
            mapped: counter(vmstat, "nr_mapped")? as i64,
            free: counter(vmstat, "nr_free_pages")? as i64 + in_stock(zones)?,
        })
    }
}

/// Free pages that go and come by themselves: every CPU keeps some in stock.
const NOISE_PAGES: i64 = 512;

/// Demands that memory does not shrink each time from one reading to the next: what leaks does, and
/// what happens once does not.
pub fn expect_no_leak(readings: &[MemoryUse]) -> Result<()> {
    let free: Vec<i64> = readings.iter().map(|reading| reading.free).collect();
    println!("# free pages: {free:?}");
    let shrinks = |pair: &[i64]| pair[0] - pair[1] > NOISE_PAGES;
    ensure!(!free.windows(2).all(shrinks), "memory is lost: {free:?}");
    Ok(())
}

/// Pages that the CPUs keep, of all zones; [`None`] if there is no CPU.
fn in_stock(zones: &str) -> Option<i64> {
    let counts = zones
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("count:"));
    let counts: Vec<i64> = counts
        .map(|count| count.trim().parse().ok())
        .collect::<Option<_>>()?;
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Pages in a line `name: value kB`.
fn pages(text: &str, name: &str) -> Option<i64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: i64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kib / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONES: &str = "Node 0, zone DMA\n  pagesets\n    cpu: 0\n              count:    7\n\
        \x20             high: 9\nNode 0, zone Normal\n    cpu: 0\n              count:    11\n";

    #[test]
    fn parses_the_accounts() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t 4 kB\nRssFile:\t    1024 kB\n\
            RssShmem:\t       8 kB\n";
        let used = MemoryUse::parse(status, "nr_free_pages 100\nnr_mapped 12\n", ZONES).unwrap();
        assert_eq!((used.rss, used.file_rss), (512, 258));
        assert_eq!((used.mapped, used.free), (12, 118));
    }

    #[test]
    fn a_leak_goes_on() {
        let readings = |free: [i64; 3]| {
            free.map(|free| MemoryUse {
                file_rss: 0,
                rss: 0,
                mapped: 0,
                free,
            })
        };
        assert!(expect_no_leak(&readings([9000, 8000, 7000])).is_err());
        assert!(expect_no_leak(&readings([9000, 8000, 7900])).is_ok());
        assert!(expect_no_leak(&readings([9000, 9100, 8000])).is_ok());
    }

    #[test]
    fn a_missing_account_is_not_zero() {
        let vmstat = "nr_mapped 1\nnr_free_pages 1\n";
        assert!(MemoryUse::parse("VmRSS:\t 4 kB\n", vmstat, ZONES).is_none());
        let status = "VmRSS:\t 4 kB\nRssFile:\t 4 kB\nRssShmem:\t 4 kB\n";
        assert!(MemoryUse::parse(status, vmstat, ZONES).is_some());
        assert!(MemoryUse::parse(status, vmstat, "Node 0, zone DMA\n").is_none());
    }
}
