// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Listens to a machine: to its kernel and to its script, until it says no more or hangs.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::output::Waiting;

/// What the guest's first process says before the script does.
const SCRIPT_STARTS: &str = "# rust-tlb-init: the script starts";
/// Longer than this the machine says nothing before its script only if it hangs.
pub const SILENCE: Duration = Duration::from_secs(60);

/// A line that came out of the machine.
#[derive(Clone)]
pub enum Said {
    /// From the session's script.
    Guest(String),
    /// From the kernel, over the console.
    Kernel(String),
}

/// What a machine has said so far.
pub struct Listener<'a> {
    /// Where the kernel's lines are kept.
    log: File,
    console: Vec<String>,
    waiting: Option<Waiting>,
    /// What the kernel says before the script has begun is handed on when it begins.
    early: Option<Vec<Said>>,
    on_said: &'a mut dyn FnMut(&Said),
}

impl<'a> Listener<'a> {
    /// `waiting` is shown until the script begins.
    pub fn new(log: File, waiting: Option<Waiting>, on_said: &'a mut dyn FnMut(&Said)) -> Self {
        Self {
            log,
            console: Vec::new(),
            waiting,
            early: Some(Vec::new()),
            on_said,
        }
    }

    /// Returns whether the machine hangs: until `end`, or in silence before its script.
    pub fn listen(&mut self, said: &Receiver<Said>, end: Instant) -> Result<bool> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let patience = match self.early {
                None => left,
                Some(_) => left.min(SILENCE),
            };
            match said.recv_timeout(patience) {
                Ok(said) => self.take(said)?,
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) => return Ok(true),
            }
        }
    }

    fn take(&mut self, said: Said) -> Result<()> {
        match &said {
            Said::Guest(line) if line == SCRIPT_STARTS => {
                self.waiting.iter().for_each(Waiting::done);
                let early = self.early.take();
                early.iter().flatten().for_each(&mut *self.on_said);
                return Ok(());
            }
            Said::Guest(_) => {}
            Said::Kernel(line) => {
                writeln!(self.log, "{line}")?;
                self.console.push(line.clone());
            }
        }
        match &mut self.early {
            Some(early) => early.push(said),
            None => (self.on_said)(&said),
        }
        Ok(())
    }

    /// Returns the kernel's lines, and what has not been handed on, if the script has not begun.
    pub fn end(self) -> (Vec<String>, Option<Vec<Said>>) {
        (self.console, self.early)
    }
}

/// Reads what the machine says on its two streams.
pub fn read_both(child: &mut Child) -> Receiver<Said> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let console = sender.clone();
    thread::spawn(move || read_lines(stdout, &sender, Said::Guest));
    thread::spawn(move || read_lines(stderr, &console, Said::Kernel));
    receiver
}

/// Serial lines end in more than a newline, and a crash can leave any byte in them.
fn read_lines(from: impl Read, to: &Sender<Said>, said: fn(String) -> Said) {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
        let text = String::from_utf8_lossy(&line);
        if to.send(said(text.trim_end().into())).is_err() {
            return;
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(line: &str) -> Said {
        Said::Guest(line.into())
    }

    /// Returns what was handed on, what was not, and whether the machine hung.
    fn hear(all: Vec<Said>, ends: bool) -> (usize, Option<usize>, bool) {
        let (sender, receiver) = mpsc::channel();
        all.into_iter().for_each(|said| sender.send(said).unwrap());
        // It goes down when nobody can say anything any more.
        let sender = (!ends).then_some(sender);
        let mut nr_handed_on = 0;
        let mut on_said = |_: &Said| nr_handed_on += 1;
        let log = File::create("/dev/null").unwrap();
        let mut listener = Listener::new(log, None, &mut on_said);
        let end = Instant::now() + Duration::from_millis(20);
        let hung = listener.listen(&receiver, end).unwrap();
        let (_, early) = listener.end();
        drop(sender);
        (nr_handed_on, early.map(|early| early.len()), hung)
    }

    #[test]
    fn what_is_said_early_is_handed_on_when_the_script_begins() {
        let early = [Said::Kernel("booting".into()), guest("x")];
        assert_eq!(hear(early.to_vec(), true), (0, Some(2), false));
        let all = [early.to_vec(), vec![guest(SCRIPT_STARTS), guest("y")]].concat();
        assert_eq!(hear(all, true), (3, None, false));
    }

    #[test]
    fn who_says_nothing_until_the_end_hangs() {
        assert_eq!(hear(Vec::new(), false), (0, Some(0), true));
        assert_eq!(hear(vec![guest(SCRIPT_STARTS)], false), (0, None, true));
    }
}
