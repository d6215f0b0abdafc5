// SPDX-License-Identifier: GPL-2.0

//! How the driver's shrinker unmaps pages: files in debugfs, for comparison and for tests.

use core::time::Duration;
use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};

use crate::reclaim::Shrinkers;

const FOLDER: &str = "/sys/kernel/debug/rust_binder";
/// What is set back when the switch goes out of scope.
const FILES: [&str; 3] = ["by_page", "fault", "hold"];

/// How long it may take until a scan owes something.
const LIMIT: Duration = Duration::from_secs(10);

/// How pages are taken out of the mappings of their processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// One batch for each scan.
    Batched = 0,
    /// A gather and a flush for each page, as before.
    ByPage = 1,
}

/// A rule that is broken: the negative controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Pages are freed before their flush.
    Unflushed = 1,
    /// A page is inserted without a look at what is owed.
    OwedIsIgnored = 2,
}

/// The switch. All is as usual again when it goes out of scope.
pub struct Switch(());

impl Switch {
    /// All as usual; `None` if this kernel's driver has no such switch.
    pub fn open() -> Result<Option<Self>> {
        if !is_there("by_page") {
            return Ok(None);
        }
        let switch = Self(());
        switch.reset()?;
        Ok(Some(switch))
    }

    /// Chooses how.
    pub fn set(&self, how: How) -> Result<()> {
        write("by_page", how as u32)
    }

    /// Whether rules can be broken, and scans be held open (`CONFIG_RUST_TLB_FAULTS`).
    pub fn has_faults(&self) -> bool {
        is_there("fault")
    }

    /// Breaks a rule.
    pub fn break_rule(&self, fault: Fault) -> Result<()> {
        write("fault", fault as u32)
    }

    /// Does `meanwhile` while a scan has taken pages out and owes their flush; it is told how many
    /// pages. Returns when that scan has flushed, too.
    pub fn while_owed<T>(
        &self,
        shrinkers: &Shrinkers,
        meanwhile: impl FnOnce(u64) -> Result<T>,
    ) -> Result<T> {
        write("hold", 1)?;
        thread::scope(|scope| {
            let scan = scope.spawn(|| shrinkers.run());
            let done = await_owed(|| scan.is_finished()).and_then(meanwhile);
            write("hold", 0)?;
            let scanned: io::Result<()> = scan.join().expect("who scans does not panic");
            scanned?;
            done
        })
    }

    fn reset(&self) -> Result<()> {
        let files = FILES.into_iter().filter(|file| is_there(file));
        files.into_iter().try_for_each(|file| write(file, 0))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Err(error) = self.reset() {
            println!("# the switch: {error:#}");
        }
    }
}

/// Waits until a scan is held open; returns how many pages it owes a flush.
fn await_owed(is_over: impl Fn() -> bool) -> Result<u64> {
    let end = Instant::now() + LIMIT;
    loop {
        let nr_pages = read("nr_held")?;
        if nr_pages > 0 {
            return Ok(nr_pages);
        }
        if is_over() {
            bail!("nothing was taken out");
        }
        ensure!(Instant::now() < end, "no scan is held open");
        thread::yield_now();
    }
}

fn is_there(file: &str) -> bool {
    Path::new(FOLDER).join(file).exists()
}

fn read(file: &str) -> Result<u64> {
    let text = fs::read_to_string(Path::new(FOLDER).join(file)).context(file.to_owned())?;
    Ok(text.trim().parse()?)
}

fn write(file: &str, value: u32) -> Result<()> {
    fs::write(Path::new(FOLDER).join(file), value.to_string()).context(file.to_owned())
}
