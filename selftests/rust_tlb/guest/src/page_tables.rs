// SPDX-License-Identifier: GPL-2.0

//! Memory of page tables, as the kernel accounts it.

use std::fs;

use anyhow::{Context, Result};

/// Bytes that one page table takes, in the unit of [`vm_pte_kb`].
pub const TABLE_KB: u64 = 4;

/// `VmPTE` of this process, in kB: all levels of its page tables.
pub fn vm_pte_kb() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    parse(&status).context("no VmPTE in /proc/self/status")
}

fn parse(status: &str) -> Option<u64> {
    let row = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    row?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn vm_pte_is_read() {
        assert_eq!(super::parse("VmRSS:\t  9 kB\nVmPTE:\t   52 kB\n"), Some(52));
        assert_eq!(super::parse("VmRSS:\t  9 kB\n"), None);
    }
}
