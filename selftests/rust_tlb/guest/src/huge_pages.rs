// SPDX-License-Identifier: GPL-2.0

//! When the kernel maps by 2 MiB: its settings, and what of a mapping is mapped so.

use std::fs;

use anyhow::{Context, Result};

use crate::mapping::{Mapping, PAGE_SIZE};

/// A setting of transparent huge pages, put back when it goes out of scope.
pub struct Setting {
    path: String,
    before: String,
}

impl Setting {
    /// Where a `MADV_HUGEPAGE` is needed for huge pages, and suffices, in anonymous and shared memory.
    pub fn huge_pages_by_advice() -> Result<[Self; 2]> {
        Ok([
            Self::set("enabled", "madvise")?,
            Self::set("shmem_enabled", "advise")?,
        ])
    }

    /// Sets one, by its name in sysfs.
    pub fn set(name: &str, value: &str) -> Result<Self> {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let before = text.split(['[', ']']).nth(1).context("no choice")?.into();
        fs::write(&path, value)?;
        Ok(Self { path, before })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            println!("# {}: {error}", self.path);
        }
    }
}

/// What of a mapping is mapped, as the kernel accounts it. Of frame numbers that is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Its pages.
    pub nr_pages: u64,
    /// ... and those that are mapped by a leaf of a folio.
    pub nr_by_leaves: u64,
}

impl Resident {
    /// Reads the accounts of all VMAs that lie in `mapping`.
    pub fn of(mapping: &Mapping) -> Result<Self> {
        let smaps = fs::read_to_string("/proc/self/smaps").context("/proc/self/smaps")?;
        let start = mapping.address().addr();
        let end = start + mapping.nr_pages() as usize * PAGE_SIZE;
        Ok(Self::parse(&smaps, start, end))
    }

    fn parse(smaps: &str, start: usize, end: usize) -> Self {
        let (mut found, mut is_inside) = (Self::default(), false);
        for line in smaps.lines() {
            if let Some((from, to)) = range(line) {
                is_inside = start <= from && to <= end;
            } else if is_inside {
                found.nr_pages += pages(line, "Rss:").unwrap_or(0);
                found.nr_by_leaves += pages(line, "FilePmdMapped:").unwrap_or(0);
            }
        }
        found
    }
}

/// The addresses in a line that begins a VMA.
fn range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

/// Pages in a line `name value kB`.
fn pages(line: &str, name: &str) -> Option<u64> {
    let kib = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_lies_inside() {
        let vma = |range: &str, rss: u64, leaves: u64| {
            format!(
                "{range} rw-s 00000000 00:06 120   /dev/rust-tlb\n\
                 Size:               4096 kB\n\
                 Rss:            {rss:8} kB\n\
                 FilePmdMapped:  {leaves:8} kB\n\
                 VmFlags: rd wr sh mr mw me ms mm\n"
            )
        };
        let smaps = [
            vma("7f0000000000-7f0000200000", 2048, 2048),
            vma("7f0000200000-7f0000209000", 12, 0),
            vma("7f0000209000-7f0000400000", 2048, 2048),
            vma("7f0000400000-7f0000600000", 8, 0),
        ]
        .concat();
        let resident = |nr_pages, nr_by_leaves| Resident {
            nr_pages,
            nr_by_leaves,
        };
        for (start, end, found) in [
            (0x7f0000000000, 0x7f0000600000, resident(1029, 1024)),
            (0x7f0000200000, 0x7f0000400000, resident(515, 512)),
            (0x7f0000600000, 0x7f0000800000, resident(0, 0)),
        ] {
            assert_eq!(Resident::parse(&smaps, start, end), found);
        }
    }
}
