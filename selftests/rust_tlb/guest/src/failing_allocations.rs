// SPDX-License-Identifier: GPL-2.0

//! Allocations of the kernel that fail on purpose, for the calling thread only: that of a process'
//! first thread, for as long as one call lasts.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

const DEBUGFS: &str = "/sys/kernel/debug";
/// What can fail.
const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// For who reads the kernel's log: the runner's `kernel_log.rs`.
const FAIL_ON_PURPOSE: &str = "rust-tlb: allocations fail on purpose";
const WORK_AGAIN: &str = "rust-tlb: allocations work again";

/// What is set for each kind, if it has it: allocations that may wait fail too, and so does a single
/// page, but not those of user memory, which are not the device's.
const SETTINGS: [(&str, &str); 6] = [
    ("probability", "0"),
    ("times", "-1"),
    ("verbose", "0"),
    ("task-filter", "Y"),
    ("ignore-gfp-wait", "N"),
    ("min-order", "0"),
];

/// Switched off, whatever happens, when it goes out of scope.
pub struct FailingAllocations {
    /// Which one fails.
    nth: File,
    /// Whether some fail at random.
    at_random: File,
}

impl FailingAllocations {
    /// Prepares it; [`None`] if the kernel cannot do it.
    pub fn new() -> Result<Option<Self>> {
        if !KINDS
            .iter()
            .all(|kind| fs::exists(file(kind, "times")).unwrap_or(false))
        {
            return Ok(None);
        }
        for kind in KINDS {
            for (name, value) in SETTINGS {
                set(kind, name, value)?;
            }
        }
        fs::write("/dev/kmsg", FAIL_ON_PURPOSE)?;
        Ok(Some(Self {
            nth: open("/proc/self/fail-nth")?,
            at_random: open("/proc/self/make-it-fail")?,
        }))
    }

    /// Does `what` with allocation number `nr` of it failing, from 1, and returns whether there was
    /// one.
    pub fn nth<T>(&self, nr: u32, what: impl FnOnce() -> T) -> Result<(T, bool)> {
        self.nth.write_all_at(nr.to_string().as_bytes(), 0)?;
        let switched_on = Switch(&self.nth);
        let done = what();
        let mut left = [0; 16];
        let len = self.nth.read_at(&mut left, 0)?;
        drop(switched_on);
        let left = String::from_utf8_lossy(&left[..len]);
        Ok((done, left.trim() == "0"))
    }

    /// From now on, that many of a hundred fail in [`Self::at_random`].
    pub fn set_percent(&self, percent: u32) -> Result<()> {
        KINDS
            .iter()
            .try_for_each(|kind| set(kind, "probability", &percent.to_string()))
    }

    /// Does `what` with some of its allocations failing.
    pub fn at_random<T>(&self, what: impl FnOnce() -> T) -> Result<T> {
        self.at_random.write_all_at(b"1", 0)?;
        let _switched_on = Switch(&self.at_random);
        Ok(what())
    }
}

impl Drop for FailingAllocations {
    fn drop(&mut self) {
        if let Err(error) = self.set_percent(0) {
            println!("# allocations go on failing: {error:#}");
        }
        // A fault that found no memory is a fault of the kernel's again.
        let _ = fs::write("/dev/kmsg", WORK_AGAIN);
    }
}

/// Switches it off again, which needs no allocation.
struct Switch<'a>(&'a File);

impl Drop for Switch<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.write_all_at(b"0", 0) {
            println!("# allocations go on failing: {error:#}");
        }
    }
}

fn file(kind: &str, name: &str) -> String {
    format!("{DEBUGFS}/{kind}/{name}")
}

fn set(kind: &str, name: &str, value: &str) -> Result<()> {
    let path = file(kind, name);
    if fs::exists(&path)? {
        fs::write(&path, value).context(path)?;
    }
    Ok(())
}

fn open(path: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .open(path)
        .context(path.to_owned())
}
