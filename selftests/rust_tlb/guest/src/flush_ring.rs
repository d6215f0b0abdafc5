// SPDX-License-Identifier: GPL-2.0

//! The ring of flushes in debugfs: what was counted, and, in a kernel for it, rules to break and
//! CPUs to stop.

use core::hint;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tlb_events::counter;

const FOLDER: &str = "/sys/kernel/debug/tlb_flush_ring";

/// Whether the kernel has rings at all.
pub fn exists() -> bool {
    Path::new(FOLDER).join("counts").exists()
}

/// Whether rules can be broken.
pub fn breaks() -> bool {
    Path::new(FOLDER).join("broken").exists()
}

/// What the rings of all address spaces were good for, since boot or between two readings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(String);

impl Counts {
    /// Reads the counters.
    pub fn read() -> Result<Self> {
        let path = Path::new(FOLDER).join("counts");
        Ok(Self(fs::read_to_string(path).context("counts")?))
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Result<u64> {
        counter(&self.0, name).with_context(|| format!("{name} is not counted"))
    }

    /// What one has grown by since `earlier`.
    pub fn since(&self, earlier: &Self, name: &str) -> Result<u64> {
        Ok(self.get(name)? - earlier.get(name)?)
    }

    /// The names of all that have grown since `earlier`, and by how much.
    pub fn grown(&self, earlier: &Self) -> Result<Vec<(String, u64)>> {
        let names = self.0.lines().filter_map(|line| line.split_once(' '));
        let mut grown = Vec::new();
        for (name, _) in names {
            let by = self.since(earlier, name)?;
            if by > 0 {
                grown.push((name.to_owned(), by));
            }
        }
        Ok(grown)
    }
}

fn write(file: &str, text: String) -> Result<()> {
    let path = Path::new(FOLDER).join(file);
    fs::write(&path, text).with_context(|| path.display().to_string())
}

fn read_number(file: &str) -> Result<u64> {
    let path = Path::new(FOLDER).join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().parse()?)
}

/// A rule that is broken as long as this exists, numbered as in `flush_ring.h` and `ring.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Claim = 0,
    UnpublishedIsFull = 3,
    OddIsFull = 5,
    Ahead = 16,
    Order = 17,
    Final = 18,
    Bump = 19,
    Clear = 20,
    Own = 21,
}

/// Keeps a rule broken.
#[must_use]
pub struct Broken(());

impl Broken {
    pub fn new(rule: Rule) -> Result<Self> {
        write("broken", format!("{:#x}", 1u64 << rule as u32))?;
        Ok(Self(()))
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let mended = write("broken", String::from("0"));
        debug_assert!(mended.is_ok());
    }
}

/// Where a CPU can be stopped, as in `flush_ring.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Publish = 1,
    Run = 2,
    Release = 3,
    Caught = 5,
    Clear = 6,
    Next = 7,
}

/// A CPU that stops at a place, until this is gone.
#[must_use]
pub struct Stop {
    cpu: usize,
}

impl Stop {
    /// Lets `cpu` stop the next time that it comes to `place`, after it passed there `passes` times.
    pub fn at(cpu: usize, place: Place, passes: u32) -> Result<Self> {
        write("nr_expired", String::from("0"))?;
        let stop = Self { cpu };
        stop.set(place as u32, passes)?;
        Ok(stop)
    }

    fn set(&self, place: u32, passes: u32) -> Result<()> {
        write("pause", format!("{} {place} {passes}", self.cpu))
    }

    /// Whether it has stopped.
    pub fn is_reached(&self) -> Result<bool> {
        Ok(read_number("nr_paused")? != 0)
    }

    /// Lets it go on to `place`, and waits until it stops there, unless it had waited so long that it
    /// went on by itself. It does not sleep: whoever else is on this CPU may be needed.
    pub fn move_to(&self, place: Place) -> Result<()> {
        let before = read_number("nr_pauses")?;
        self.set(place as u32, 0)?;
        while read_number("nr_pauses")? == before && read_number("nr_expired")? == 0 {
            hint::spin_loop();
        }
        Ok(())
    }

    /// Lets it go on. Returns false if it had waited so long that it did so by itself.
    pub fn has_held(self) -> Result<bool> {
        drop(self);
        Ok(read_number("nr_expired")? == 0)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        let moved = self.set(0, 0);
        debug_assert!(moved.is_ok());
    }
}

/// Address spaces that are made as long as this exists begin with a generation.
#[must_use]
pub struct FirstGeneration(());

impl FirstGeneration {
    pub fn new(generation: u64) -> Result<Self> {
        write("first_generation", format!("{generation}"))?;
        Ok(Self(()))
    }
}

impl Drop for FirstGeneration {
    fn drop(&mut self) {
        let mended = write("first_generation", String::from("0"));
        debug_assert!(mended.is_ok());
    }
}

/// Every new address space has a ring as long as this exists.
#[must_use]
pub struct ForAll(());

impl ForAll {
    pub fn new() -> Result<Self> {
        write("for_all", String::from("1"))?;
        Ok(Self(()))
    }
}

impl Drop for ForAll {
    fn drop(&mut self) {
        let mended = write("for_all", String::from("0"));
        debug_assert!(mended.is_ok());
    }
}
