// SPDX-License-Identifier: GPL-2.0

//! A disk in memory (`CONFIG_BLK_DEV_RAM`), to swap to or as a file: one of them at a time.

use std::process::Command;

use anyhow::{ensure, Context, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

const DISK: &str = "/dev/ram0";

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}", said.trim());
    Ok(())
}

/// Swap space, switched off when it goes out of scope.
pub struct Swap(());

impl Swap {
    pub fn on() -> Result<Self> {
        run("mkswap", &[DISK])?;
        run("swapon", &[DISK])?;
        Ok(Self(()))
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        if let Err(error) = run("swapoff", &[DISK]) {
            println!("# {error:#}");
        }
    }
}

/// The disk itself as a file: its page cache is written back, as that of a file system is.
pub fn open() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(DISK, flags, Mode::empty()).context(DISK)
}
