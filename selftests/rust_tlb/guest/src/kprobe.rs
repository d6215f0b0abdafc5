// SPDX-License-Identifier: GPL-2.0

//! How often the kernel goes through one of its functions, by a probe of its own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

const TRACEFS: &str = "/sys/kernel/tracing";
const GROUP: &str = "rust_tlb_test";

/// A probe at the start of a function; it goes when it goes out of scope.
pub struct Kprobe {
    name: String,
}

impl Kprobe {
    /// Sets one; [`None`] if the kernel cannot.
    pub fn new(function: &str) -> Result<Option<Self>> {
        crate::ftrace::mount()?;
        if !Path::new(TRACEFS).join("kprobe_events").exists() {
            return Ok(None);
        }
        let name = format!("{function}_{}", std::process::id());
        order(&format!("p:{GROUP}/{name} {function}"))?;
        let probe = Self { name };
        probe.switch("1")?;
        Ok(Some(probe))
    }

    fn switch(&self, on: &str) -> Result<()> {
        let path = format!("{TRACEFS}/events/{GROUP}/{}/enable", self.name);
        fs::write(&path, on).context(path)
    }

    /// Hits so far.
    fn nr_hits(&self) -> Result<u64> {
        let profile = fs::read_to_string(format!("{TRACEFS}/kprobe_profile"))?;
        let mut lines = profile.lines().map(|line| line.split_whitespace());
        let hits = lines.find_map(|mut columns| {
            (columns.next() == Some(&*self.name)).then(|| columns.next()?.parse().ok())?
        });
        hits.with_context(|| format!("no {} in the profile", self.name))
    }

    /// Hits while `what` runs, of the whole machine.
    pub fn hits_of(&self, what: impl FnOnce() -> Result<()>) -> Result<u64> {
        let before = self.nr_hits()?;
        what()?;
        Ok(self.nr_hits()? - before)
    }
}

impl Drop for Kprobe {
    fn drop(&mut self) {
        let gone = self
            .switch("0")
            .and_then(|()| order(&format!("-:{GROUP}/{}", self.name)));
        if let Err(error) = gone {
            println!("# a probe stays: {error:#}");
        }
    }
}

fn order(what: &str) -> Result<()> {
    let path = format!("{TRACEFS}/kprobe_events");
    let mut file = OpenOptions::new().append(true).open(&path)?;
    file.write_all(what.as_bytes()).context(path)
}
