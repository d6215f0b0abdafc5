// SPDX-License-Identifier: GPL-2.0

//! An instance of ftrace: events and a buffer of its own, so that nobody else's tracing is touched.
//! It goes when it goes out of scope.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rust_tlb_trace::event::{self, Event};

const TRACEFS: &str = "/sys/kernel/tracing";
/// Enough for a test: kilobytes for each CPU.
const BUFFER_KB: &str = "4096";

/// One instance, with some events on, from [`Tracing::record`] on.
pub struct Tracing {
    instance: PathBuf,
    events: Vec<String>,
}

impl Tracing {
    /// Makes an instance with `events` on, each a system or one event of it (`rust_tlb`,
    /// `tlb/tlb_flush`); [`None`] if the kernel has no tracefs, or not all of them.
    pub fn new(events: &[&str]) -> Result<Option<Self>> {
        mount()?;
        let is_there = |event: &&str| Path::new(TRACEFS).join("events").join(event).exists();
        if !events.iter().all(is_there) {
            return Ok(None);
        }
        let name = format!("rust-tlb-test-{}", std::process::id());
        let instance = Path::new(TRACEFS).join("instances").join(name);
        fs::create_dir(&instance).with_context(|| instance.display().to_string())?;
        // From here on, it is removed.
        let tracing = Self {
            instance,
            events: events.iter().map(|&event| event.into()).collect(),
        };
        tracing.set("tracing_on", "0")?;
        tracing.set("buffer_size_kb", BUFFER_KB)?;
        // One clock for all CPUs, so that events of different ones can be put in order.
        tracing.set("trace_clock", "mono")?;
        tracing.switch(true)?;
        Ok(Some(tracing))
    }

    /// Puts all of its events on, or off.
    pub fn switch(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.events
            .iter()
            .try_for_each(|event| self.set(&format!("events/{event}/enable"), value))
    }

    /// Records while `what` runs, and returns what it returns, and the events in order.
    pub fn record<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Event>)> {
        self.set("trace", "")?;
        self.set("tracing_on", "1")?;
        let done = what();
        self.set("tracing_on", "0")?;
        let done = done?;
        let text = fs::read_to_string(self.instance.join("trace"))?;
        Ok((done, event::parse(&text)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.instance
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| path.display().to_string())
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.instance) {
            println!("# {}: {error}", self.instance.display());
        }
    }
}

/// Mounts tracefs, unless someone has.
pub fn mount() -> Result<()> {
    if Path::new(TRACEFS).join("events").exists() {
        return Ok(());
    }
    let flags = rustix::mount::MountFlags::empty();
    match rustix::mount::mount("nodev", TRACEFS, "tracefs", flags, None) {
        // A kernel without it: there is nothing to trace.
        Err(rustix::io::Errno::NODEV | rustix::io::Errno::NOENT) => Ok(()),
        done => done.context("mounting tracefs"),
    }
}
