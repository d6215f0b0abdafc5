// SPDX-License-Identifier: GPL-2.0

//! Tells whoever records events when to do so: only what is measured is to be in the recording.
//!
//! The environment variable `RUST_TLB_RECORDER` names the recorder: `ftrace:INSTANCE`, a folder of
//! tracefs, or `perf:CONTROL,ACK`, the FIFOs of `perf --control=fifo:`. Without it nobody records.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

const VARIABLE: &str = "RUST_TLB_RECORDER";

/// Who records.
pub enum Recorder {
    Nobody,
    Ftrace(PathBuf),
    Perf(Perf),
}

/// perf, which answers when it has done as it was told.
pub struct Perf {
    control: File,
    ack: BufReader<File>,
}

impl Recorder {
    /// The one that the environment names.
    pub fn from_environment() -> Result<Self> {
        match env::var(VARIABLE) {
            Ok(text) => Self::parse(&text).with_context(|| format!("{VARIABLE}={text}")),
            Err(_) => Ok(Self::Nobody),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("ftrace", instance)) => Ok(Self::Ftrace(instance.into())),
            Some(("perf", fifos)) => {
                let (control, ack) = fifos.split_once(',').context("one FIFO only")?;
                Ok(Self::Perf(Perf::open(control.as_ref(), ack.as_ref())?))
            }
            _ => bail!("no recorder"),
        }
    }

    /// Has `what` recorded.
    pub fn around<T>(&mut self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        self.switch(true)?;
        let done = what();
        self.switch(false)?;
        done
    }

    fn switch(&mut self, on: bool) -> Result<()> {
        match self {
            Self::Nobody => Ok(()),
            Self::Ftrace(instance) => {
                let path = instance.join("tracing_on");
                let value = if on { "1" } else { "0" };
                fs::write(&path, value).with_context(|| path.display().to_string())
            }
            Self::Perf(perf) => perf.tell(if on { "enable" } else { "disable" }),
        }
    }
}

impl Perf {
    /// perf has both open for reading and writing, so that this waits for nobody.
    fn open(control: &Path, ack: &Path) -> Result<Self> {
        let control = OpenOptions::new().write(true).open(control)?;
        let ack = BufReader::new(File::open(ack)?);
        Ok(Self { control, ack })
    }

    fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.control, "{command}")?;
        let mut answer = String::new();
        self.ack.read_line(&mut answer)?;
        // perf ends its answers with a zero, too.
        match answer.trim_matches(['\0', '\n']) {
            "ack" => Ok(()),
            other => bail!("perf answers {other:?} to {command}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ftrace_is_switched_on_and_off() {
        let folder = env::temp_dir().join(format!("rust-tlb-recorder-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let state = || fs::read_to_string(folder.join("tracing_on")).unwrap();
        let mut recorder = Recorder::parse(&format!("ftrace:{}", folder.display())).unwrap();
        assert_eq!(recorder.around(|| Ok(state())).unwrap(), "1");
        assert_eq!(state(), "0");
        // Also if what is recorded fails.
        assert!(recorder.around::<()>(|| bail!("so it does")).is_err());
        assert_eq!(state(), "0");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn others_are_refused() {
        for text in ["", "ftrace", "perf:/one", "strace:/x"] {
            assert!(Recorder::parse(text).is_err(), "{text}");
        }
    }
}
