// SPDX-License-Identifier: GPL-2.0

//! Complaints of the kernel that a test brings about on purpose. Whoever judges the kernel's log is
//! told which, from where to where; any other complaint is none of the test's.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

const LOG: &str = "/dev/kmsg";

/// Runs `what` and returns how often the kernel said `text` meanwhile, in lines of its log.
pub fn expect(text: &str, what: impl FnOnce() -> Result<()>) -> Result<usize> {
    let mut log = Log::from_now_on()?;
    say(&format!("rust-tlb: a complaint is expected: {text}"))?;
    let done = what();
    say("rust-tlb: no complaint is expected")?;
    done?;
    Ok(log.lines()?.iter().filter(|line| says(line, text)).count())
}

/// What the kernel says, and not what it was given to say.
fn says(line: &str, text: &str) -> bool {
    line.contains(text) && !line.contains("rust-tlb: ")
}

fn say(line: &str) -> Result<()> {
    fs::write(LOG, format!("{line}\n")).context(LOG)
}

/// The kernel's log, from a point of time on.
struct Log(File);

impl Log {
    fn from_now_on() -> Result<Self> {
        let mut options = fs::OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(LOG)
            .context(LOG)?;
        let mut log = Self(file);
        log.lines()?;
        Ok(log)
    }

    /// What was not read yet: a record a read.
    fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(len) => lines.push(String::from_utf8_lossy(&record[..len]).into_owned()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
                // Overwritten before it was read: the next one is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context(LOG),
            }
        }
    }
}
