// SPDX-License-Identifier: GPL-2.0

//! Memory of page tables, as the kernel accounts it.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::fs;

use anyhow::{Context, Result};
use rustix::mm::{madvise, Advice};

/// Bytes that one page table takes, in the unit of [`vm_pte_kb`].
pub const TABLE_KB: u64 = 4;

/// `VmPTE` of this process, in kB: all levels of its page tables. Those that the program itself
/// takes are among them from the first time on, whatever of it runs next.
pub fn vm_pte_kb() -> Result<u64> {
    static POPULATED_BY: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    if POPULATED_BY.swap(pid, Relaxed) != pid {
        populate_program()?;
    }
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    parse(&status).context("no VmPTE in /proc/self/status")
}

/// Has all of the program and its libraries mapped. A child starts without.
fn populate_program() -> Result<()> {
    let maps = fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
    for (start, end) in maps.lines().filter_map(file_range) {
        let address = ptr::with_exposed_provenance_mut(start);
        // SAFETY: It changes nothing in the pages.
        unsafe { madvise(address, end - start, Advice::LinuxPopulateRead) }?;
    }
    Ok(())
}

/// The addresses in a line of `/proc/self/maps`, if it is of a file that can be read, and no device.
fn file_range(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_readable = words.next()?.starts_with('r');
    let path = words.nth(3)?;
    let is_file = path.starts_with('/') && !path.starts_with("/dev/");
    let number = |text| usize::from_str_radix(text, 16).ok();
    (is_readable && is_file)
        .then_some(())
        .and_then(|()| Some((number(start)?, number(end)?)))
}

fn parse(status: &str) -> Option<u64> {
    let row = status.lines().find_map(|line| line.strip_prefix("VmPTE:"));
    row?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_of_the_program_are_found() {
        let range = |line| super::file_range(line);
        let text = "555555554000-555555580000 r-xp 00000000 00:15 42    /usr/bin/x";
        assert_eq!(range(text), Some((0x5555_5555_4000, 0x5555_5558_0000)));
        for other in [
            "555555554000-555555580000 ---p 00000000 00:15 42    /usr/bin/x",
            "555555554000-555555580000 rw-s 00000000 00:15 42    /dev/rust-tlb",
            "555555554000-555555580000 rw-p 00000000 00:00 0",
            "7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0     [stack]",
        ] {
            assert_eq!(range(other), None, "{other}");
        }
    }

    #[test]
    fn vm_pte_is_read() {
        assert_eq!(super::parse("VmRSS:\t  9 kB\nVmPTE:\t   52 kB\n"), Some(52));
        assert_eq!(super::parse("VmRSS:\t  9 kB\n"), None);
    }
}
