// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Boots a kernel with virtme-ng on the host's own root file system, and brings back what the guest
//! said, what its kernel logged and how it ended. Bounded in time, and leaves nothing running.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use crate::accel::{self, Accel, Threads};
use crate::guest;
use crate::output::{self, Waiting};
use crate::places::{Kernel, Places};

/// Counts are only what they seem without page-table isolation and other mitigations. An oops ends
/// the machine at once: what runs after it proves nothing. The emulator may be slow, which is no
/// lockup.
const KERNEL_ARGUMENTS: &[&str] = &[
    "nopti",
    "mitigations=off",
    "loglevel=7",
    "oops=panic",
    "watchdog_thresh=30",
    "rcupdate.rcu_cpu_stall_timeout=60",
];
const TEST_KERNEL_ARGUMENTS: &[&str] = &["page_poison=1"];
/// The guest may keep what it has read of the host's files, which halves the time to boot. Not for a
/// shell: while it is open, files change.
const CACHED_ROOT: &str =
    "rootflags=version=9p2000.L,trans=virtio,access=any,msize=512000,cache=loose";
/// Longer than this the machine says nothing only if it hangs.
const SILENCE: Duration = Duration::from_secs(60);
const MEMORY: &str = "2G";
/// What the kernel needs, and the tests' own processes, and not much more.
const LITTLE_MEMORY: &str = "256M";

/// A virtual machine to be booted, any number of times.
#[derive(Clone)]
pub struct Machine {
    pub kernel: Kernel,
    pub accel: Accel,
    pub cpus: u32,
    pub threads: Threads,
    memory: &'static str,
    /// Whether KUnit's tests run while it boots, if the kernel has them.
    kunit: bool,
}

/// What one boot is to do.
pub struct Session {
    /// Names the logs: `build/<name>.log`.
    pub name: String,
    /// Shell script, run as root.
    pub script: String,
    /// When to give up.
    pub limit: Duration,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The script did, with this status.
    Exited(u8),
    /// The machine went down before it.
    Crashed,
    /// It was taken down after this time.
    Hung(Duration),
}

/// What came back from one boot.
pub struct Ended {
    pub ending: Ending,
    /// The kernel's log, as far as it came over the console.
    pub console: Vec<String>,
    /// Where that was written to.
    pub console_path: PathBuf,
}

/// A line that came out of the machine.
pub enum Said {
    /// From the session's script.
    Guest(String),
    /// From the kernel, over the console.
    Kernel(String),
}

impl Machine {
    pub fn new(kernel: Kernel, accel: Accel, cpus: u32) -> Self {
        Self {
            threads: Threads::that_are_fast(accel, cpus),
            kernel,
            accel,
            cpus,
            memory: MEMORY,
            kunit: true,
        }
    }

    /// The same machine with CPUs that really run at the same time, for another boot: what KUnit
    /// had to say it has said.
    pub fn in_parallel(&self) -> Self {
        Self {
            threads: Threads::Parallel,
            kunit: false,
            ..self.clone()
        }
    }

    /// The same machine in an emulator whose clock counts instructions.
    pub fn counting(&self) -> Self {
        Self {
            accel: Accel::Tcg,
            threads: Threads::Counted,
            ..self.clone()
        }
    }

    /// The same machine with no more CPUs than the host has, which really run at the same time.
    pub fn as_the_host(&self) -> Self {
        let host_cpus = accel::host_cpus() as u32;
        Self {
            threads: Threads::Parallel,
            cpus: self.cpus.min(host_cpus).max(2),
            ..self.clone()
        }
    }

    /// The same machine with little memory, for another boot.
    pub fn with_little_memory(&self) -> Self {
        Self {
            memory: LITTLE_MEMORY,
            kunit: false,
            ..self.clone()
        }
    }

    /// Boots, runs the session's script, and hands on each line as it comes. Now and then the emulator
    /// hangs while the kernel starts, before there is a word of ours: then it boots once more.
    pub fn run(
        &self,
        session: &Session,
        places: &Places,
        on_said: &mut dyn FnMut(&Said),
    ) -> Result<Ended> {
        if let Some(ended) = self.attempt(session, places, on_said, Some(SILENCE))? {
            return Ok(ended);
        }
        let silence = SILENCE.as_secs();
        output::note(&format!("nothing for {silence} s: booting once more"));
        let ended = self.attempt(session, places, on_said, None)?;
        Ok(ended.expect("without a limit of silence there is an end"))
    }

    /// Boots; `None` if the machine says nothing at all for `silence` before the script has begun.
    fn attempt(
        &self,
        session: &Session,
        places: &Places,
        on_said: &mut dyn FnMut(&Said),
        silence: Option<Duration>,
    ) -> Result<Option<Ended>> {
        let console_path = places.out.join(format!("{}.log", session.name));
        let mut log = File::create(&console_path)?;
        // In a file: virtme-ng hands a script over on the kernel's command line, which is short.
        let script_path = places.out.join(format!("{}.sh", session.name));
        fs::write(&script_path, &session.script)?;
        let mut child = self
            .command(places)
            .arg("--show-boot-console")
            .args(["--kopt", CACHED_ROOT])
            .args(["--script-sh", &guest::script_command(&script_path)])
            .args(self.accel.virtme_arguments(self.threads))
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", places.virtme_run.display()))?;
        let group = Group::of(&child);
        let said = read_both(&mut child);

        let waiting = Waiting::new(&format!("booting {}", self.kernel.config));
        let mut console = Vec::new();
        let deadline = Instant::now() + session.limit;
        // What the kernel says before the script has begun is handed on with the script's first line.
        let mut early = Some(Vec::new());
        let hung = loop {
            let limit = silence.filter(|_| early.is_some());
            let patience = limit.map_or(left(deadline), |limit| limit.min(left(deadline)));
            let said = match said.recv_timeout(patience) {
                Ok(said) => said,
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            };
            match &said {
                Said::Guest(_) => {
                    waiting.done();
                    early.take().iter().flatten().for_each(&mut *on_said);
                }
                Said::Kernel(line) => {
                    writeln!(log, "{line}")?;
                    console.push(line.clone());
                }
            }
            match &mut early {
                Some(early) => early.push(said),
                None => on_said(&said),
            }
        };
        waiting.done();
        drop(group);
        let status = child.wait()?;
        if hung && early.is_some() && silence.is_some() {
            return Ok(None);
        }
        early.iter().flatten().for_each(&mut *on_said);
        let ending = match status {
            _ if hung => Ending::Hung(session.limit),
            status => ending_of(status),
        };
        Ok(Some(Ended {
            ending,
            console,
            console_path,
        }))
    }

    /// Boots into `shell` on this terminal.
    pub fn interactive(&self, shell: &str, places: &Places) -> Result<ExitCode> {
        let path = places.out.join("shell.sh");
        fs::write(&path, shell)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        let status = self
            .command(places)
            .arg("--shell")
            .arg(&path)
            .args(self.accel.virtme_arguments(self.threads))
            .status()?;
        Ok(ExitCode::from(status.code().map_or(1, |code| code as u8)))
    }

    fn command(&self, places: &Places) -> Command {
        let mut command = Command::new(&places.virtme_run);
        command
            .arg("--kimg")
            .arg(self.kernel.image())
            .args(["--mods", "none", "--force-9p", "--disable-microvm"])
            .args(["--memory", self.memory, "--cpus", &self.cpus.to_string()])
            .args(["--name", "rust-tlb", "--overlay-rwdir", "/tmp", "--pwd"]);
        for argument in KERNEL_ARGUMENTS {
            command.args(["--kopt", argument]);
        }
        if self.kernel.config == "test" {
            for argument in TEST_KERNEL_ARGUMENTS {
                command.args(["--kopt", argument]);
            }
        }
        if !self.kunit {
            command.args(["--kopt", "kunit.enable=0"]);
        }
        command
    }
}

/// The process group of the machine that runs, or 0. virtme-run's children are in it, QEMU among
/// them. It is not the terminal's, so that Ctrl-C has to be handed on.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Takes the machine down with us when we are told to stop.
pub fn handle_signals() -> Result<()> {
    Ok(ctrlc::set_handler(|| {
        kill_running();
        process::exit(130);
    })?)
}

fn kill_running() {
    match RUNNING.swap(0, Ordering::SeqCst) {
        0 => {}
        // It has gone by itself, unless it hangs: an error is what to expect.
        group => drop(killpg(Pid::from_raw(group), Signal::SIGKILL)),
    }
}

/// Kills what is left of the machine at the end of a session, however that comes.
struct Group;

impl Group {
    fn of(child: &Child) -> Self {
        RUNNING.store(child.id() as i32, Ordering::SeqCst);
        Self
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        kill_running();
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// virtme-run ends as the script did, or with 255 if the script did not.
fn ending_of(status: ExitStatus) -> Ending {
    match status.code() {
        Some(255) | None => Ending::Crashed,
        Some(code) => Ending::Exited(code as u8),
    }
}

fn read_both(child: &mut Child) -> Receiver<Said> {
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
