// SPDX-License-Identifier: GPL-2.0

//! Flush rounds and IPIs, as the kernel counts them.

use std::fs;

use anyhow::{Context, Result};

/// Counts over all CPUs, since boot or between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbEvents {
    /// Rounds that asked other CPUs to flush: attempts, counted also if all of them were lazy.
    pub remote_flush: u64,
    /// IPIs that were received, one per CPU and round.
    pub remote_flush_received: u64,
    /// Full flushes by initiators on their own CPU.
    pub local_flush_all: u64,
    /// Pages flushed one at a time by initiators on their own CPU.
    pub local_flush_one: u64,
    /// The row `TLB` of `/proc/interrupts`: a second, independent count of the IPIs.
    pub interrupts: u64,
}

impl TlbEvents {
    /// Reads the counters; `None` if the kernel does not have them (`CONFIG_DEBUG_TLBFLUSH`).
    pub fn read() -> Result<Option<Self>> {
        let vmstat = fs::read_to_string("/proc/vmstat").context("/proc/vmstat")?;
        let interrupts = fs::read_to_string("/proc/interrupts").context("/proc/interrupts")?;
        Ok(Self::parse(&vmstat, &interrupts))
    }

    /// What was counted since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            remote_flush: self.remote_flush - earlier.remote_flush,
            remote_flush_received: self.remote_flush_received - earlier.remote_flush_received,
            local_flush_all: self.local_flush_all - earlier.local_flush_all,
            local_flush_one: self.local_flush_one - earlier.local_flush_one,
            interrupts: self.interrupts - earlier.interrupts,
        }
    }

    fn parse(vmstat: &str, interrupts: &str) -> Option<Self> {
        Some(Self {
            remote_flush: counter(vmstat, "nr_tlb_remote_flush")?,
            remote_flush_received: counter(vmstat, "nr_tlb_remote_flush_received")?,
            local_flush_all: counter(vmstat, "nr_tlb_local_flush_all")?,
            local_flush_one: counter(vmstat, "nr_tlb_local_flush_one")?,
            interrupts: tlb_interrupts(interrupts)?,
        })
    }
}

/// The value of `name` in a file of `name value` lines.
pub fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
}

/// The sum over the CPUs in the row `TLB:`, which ends in words.
fn tlb_interrupts(text: &str) -> Option<u64> {
    let row = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("TLB:"))?;
    Some(
        row.split_whitespace()
            .map_while(|word| word.parse::<u64>().ok())
            .sum(),
    )
}

/// The value that occurs most often, the greatest of several such; zero if there is none.
///
/// A CPU that is lazy for a moment takes no IPI, and other processes flush too: single rounds are
/// off by a few, the most common of several is not.
pub fn most_common<T: Copy + Default + Ord>(values: impl IntoIterator<Item = T>) -> T {
    let mut sorted: Vec<T> = values.into_iter().collect();
    sorted.sort_unstable();
    let runs = sorted.chunk_by(|a, b| a == b);
    runs.max_by_key(|run| run.len())
        .map_or(T::default(), |run| run[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const VMSTAT: &str = "nr_free_pages 7\nnr_tlb_remote_flush 5\n\
        nr_tlb_remote_flush_received 15\nnr_tlb_local_flush_all 3\nnr_tlb_local_flush_one 40\n";
    const INTERRUPTS: &str = "           CPU0       CPU1       \n  0:  9  9 IO-APIC 2-edge timer\n\
        TLB:          4         11   TLB shootdowns\nTRM: 0 0 Thermal event interrupts\n";

    #[test]
    fn parses_both_files() {
        let events = TlbEvents::parse(VMSTAT, INTERRUPTS).unwrap();
        let expected = TlbEvents {
            remote_flush: 5,
            remote_flush_received: 15,
            local_flush_all: 3,
            local_flush_one: 40,
            interrupts: 15,
        };
        assert_eq!(events, expected);
        assert_eq!(events.since(events), TlbEvents::default());
    }

    #[test]
    fn a_kernel_without_the_counters_has_no_events() {
        assert_eq!(TlbEvents::parse("nr_free_pages 7\n", INTERRUPTS), None);
        assert_eq!(TlbEvents::parse(VMSTAT, "NMI: 0 0\n"), None);
    }

    #[test]
    fn most_common_of_few() {
        assert_eq!(most_common::<u64>([]), 0);
        assert_eq!(most_common([3, 1, 3, 2]), 3);
        assert_eq!(most_common([1, 2]), 2);
    }
}
