// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Boots a kernel in QEMU on the host's own root file system, read-only, and brings back what the
//! guest said, what its kernel logged and how it ended. Bounded in time, and leaves nothing running.
//! The guest's first process is `rust-tlb-init`, of this workspace.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;

use crate::accel::{Accel, Threads};
use crate::guest;
use crate::kernel_log;
use crate::listener::{self, Listener, Said, SILENCE};
use crate::output::{self, Waiting};
use crate::places::{Kernel, Places};

/// Where instructions are counted, each turn of a repeated one counts, a byte: which processors have fast ones
/// depends on the emulator's version, and real ones do not take them byte by byte. So the kernel copies and fills by
/// its loops. `X86_FEATURE_FSRS`, 12 * 32 + 11, has no name.
const WORD_BY_WORD: &str = "clearcpuid=erms,fsrm,395";

/// Counts are only what they seem without page-table isolation and other mitigations. An oops ends
/// the machine at once: what runs after it proves nothing. The emulator may be slow, which is no
/// lockup.
const KERNEL_ARGUMENTS: &[&str] = &[
    "console=ttyS0",
    "earlyprintk=serial,ttyS0,115200",
    "panic=-1",
    "rootfstype=9p",
    "ro",
    "nopti",
    "mitigations=off",
    "loglevel=7",
    "oops=panic",
    "watchdog_thresh=30",
    "rcupdate.rcu_cpu_stall_timeout=60",
];
const TEST_KERNEL_ARGUMENTS: &[&str] = &["page_poison=1"];
const ROOT: &str = "rootflags=version=9p2000.L,trans=virtio,access=any,msize=512000";
/// The guest may keep what it has read of the host's files, which halves the time to boot. Not for a
/// shell: while it is open, files change.
const CACHED: &str = ",cache=loose";
pub const QEMU: &str = "qemu-system-x86_64";
const INIT: &str = "rust-tlb-init";
/// Of the port at which the host hears how the script ended.
const STATUS: &str = "status";
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
    /// Whether something else is shown while it boots.
    quiet: bool,
    /// Words on the kernel's command line, after all others.
    arguments: Vec<String>,
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

impl Ended {
    /// Shows how the session ended, if it did so badly, and the first thing that the kernel complained
    /// about. Returns whether there was nothing to show.
    pub fn show_problems(&self) -> bool {
        if let Some(excerpt) = kernel_log::first_complaint(&self.console) {
            println!("The kernel complained:");
            for line in excerpt {
                println!("    {line}");
            }
            println!("The whole log is {}", self.console_path.display());
            return false;
        }
        match self.ending {
            Ending::Exited(_) => return true,
            Ending::Crashed => println!("The machine went down before the command had ended:"),
            Ending::Hung(limit) => {
                println!("No end after {} s; the last log lines:", limit.as_secs())
            }
        }
        for line in &self.console[self.console.len().saturating_sub(15)..] {
            println!("    {line}");
        }
        println!("The whole log is {}", self.console_path.display());
        false
    }
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
            quiet: false,
            arguments: Vec::new(),
        }
    }

    /// The same machine, with these words on its kernel's command line.
    pub fn with_arguments(&self, arguments: &[String]) -> Self {
        Self {
            arguments: arguments.to_vec(),
            ..self.clone()
        }
    }

    /// The same machine, which does not show that it boots.
    pub fn quietly(&self) -> Self {
        Self {
            quiet: true,
            ..self.clone()
        }
    }

    /// The same machine, for another boot: what KUnit had to say it has said.
    pub fn without_kunit(&self) -> Self {
        Self {
            kunit: false,
            ..self.clone()
        }
    }

    /// The same machine with CPUs that really run at the same time, for another boot.
    pub fn in_parallel(&self) -> Self {
        Self {
            threads: Threads::Parallel,
            ..self.without_kunit()
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
    #[cfg(feature = "bench")]
    pub fn as_the_host(&self) -> Self {
        let host_cpus = crate::accel::host_cpus() as u32;
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
            ..self.without_kunit()
        }
    }

    /// Boots, runs the session's script, and hands on each line as it comes. Now and then the emulator
    /// hangs while the kernel starts: then it boots once more, and no more than that.
    pub fn run(
        &self,
        session: &Session,
        places: &Places,
        on_said: &mut dyn FnMut(&Said),
    ) -> Result<Ended> {
        let (mut ended, mut early) = self.attempt(session, places, on_said)?;
        if early.is_some() && matches!(ended.ending, Ending::Hung(_)) {
            let silence = SILENCE.as_secs();
            output::note(&format!("nothing for {silence} s: booting once more"));
            (ended, early) = self.attempt(session, places, on_said)?;
        }
        early.iter().flatten().for_each(on_said);
        Ok(ended)
    }

    /// Boots; returns as well what has not been handed on, if the script has not started.
    fn attempt(
        &self,
        session: &Session,
        places: &Places,
        on_said: &mut dyn FnMut(&Said),
    ) -> Result<(Ended, Option<Vec<Said>>)> {
        let console_path = places.out.join(format!("{}.log", session.name));
        let log = File::create(&console_path)?;
        let status_path = places.out.join(format!("{}.status", session.name));
        fs::write(&status_path, "")?;
        let script = self.write_script(&session.name, &session.script, places)?;
        let mut child = self
            .command(places, &script, &format!("{ROOT}{CACHED}"), None)?
            .args(script_devices(&status_path))
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {QEMU}"))?;
        let group = Group::of(&child);
        let said = listener::read_both(&mut child);

        let waiting =
            (!self.quiet).then(|| Waiting::new(&format!("booting {}", self.kernel.config)));
        let start = Instant::now();
        let mut listener = Listener::new(log, waiting, on_said);
        let hung = listener.listen(&said, start + session.limit)?;
        let (console, early) = listener.end();
        drop(group);
        child.wait()?;
        let ending = match hung {
            true => Ending::Hung(start.elapsed()),
            false => ending_of(&fs::read_to_string(&status_path)?),
        };
        let ended = Ended {
            ending,
            console,
            console_path,
        };
        Ok((ended, early))
    }

    /// Boots into `shell` on this terminal.
    pub fn interactive(&self, shell: &str, places: &Places) -> Result<ExitCode> {
        let status_path = places.out.join("shell.status");
        fs::write(&status_path, "")?;
        let script = self.write_script("shell", shell, places)?;
        self.command(places, &script, ROOT, Some("ttyS0"))?
            .args(terminal_devices(&status_path))
            .status()
            .with_context(|| format!("starting {QEMU}"))?;
        Ok(match ending_of(&fs::read_to_string(&status_path)?) {
            Ending::Exited(code) => ExitCode::from(code),
            _ => ExitCode::FAILURE,
        })
    }

    /// In a file: a kernel's command line is short.
    fn write_script(&self, name: &str, script: &str, places: &Places) -> Result<PathBuf> {
        let path = places.out.join(format!("{name}.sh"));
        let programs = env::var("PATH").context("PATH is not set")?;
        let prologue = guest::prologue(&places.top, &programs);
        fs::write(&path, prologue + script)?;
        Ok(path)
    }

    /// QEMU, with all but the guest's input and output.
    fn command(
        &self,
        places: &Places,
        script: &Path,
        root: &str,
        terminal: Option<&str>,
    ) -> Result<Command> {
        let mut command = Command::new(QEMU);
        command
            .args(["-name", "rust-tlb", "-machine", "q35", "-no-reboot"])
            .args(["-m", self.memory, "-smp", &self.cpus.to_string()])
            .args(["-net", "none", "-vga", "none", "-display", "none"])
            .args(["-parallel", "none"])
            .args([
                "-fsdev",
                "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            ])
            .args(["-device", "virtio-9p-pci,fsdev=root,mount_tag=/dev/root"])
            .args(self.accel.qemu_arguments(self.threads))
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-append")
            .arg(self.kernel_arguments(places, script, root, terminal)?);
        Ok(command)
    }

    fn kernel_arguments(
        &self,
        places: &Places,
        script: &Path,
        root: &str,
        terminal: Option<&str>,
    ) -> Result<String> {
        let mut arguments: Vec<String> = KERNEL_ARGUMENTS.iter().map(|&is| is.into()).collect();
        arguments.push(root.into());
        if self.kernel.config == "test" {
            arguments.extend(TEST_KERNEL_ARGUMENTS.iter().map(|&is| is.into()));
        }
        if self.threads == Threads::Counted {
            arguments.push(WORD_BY_WORD.into());
        }
        if !self.kunit {
            arguments.push("kunit.enable=0".into());
        }
        // What the kernel does not know it hands on to its first process.
        let init = places.bin.join(INIT);
        arguments.push(kernel_argument("init", &init.display().to_string())?);
        arguments.push(kernel_argument(
            "RUST_TLB_SCRIPT",
            &script.display().to_string(),
        )?);
        if let Some(terminal) = terminal {
            arguments.push(kernel_argument("RUST_TLB_CONSOLE", terminal)?);
            arguments.extend(["TERM=xterm".into(), "quiet".into()]);
        }
        arguments.extend_from_slice(&self.arguments);
        Ok(arguments.join(" "))
    }
}

/// A word of the kernel's command line, which knows one kind of quotes.
fn kernel_argument(name: &str, value: &str) -> Result<String> {
    ensure!(
        !value.contains('"'),
        "{value}: a kernel cannot be told of a path with a quotation mark"
    );
    Ok(format!("{name}=\"{value}\""))
}

/// The kernel's console is our standard error, a script's input and output are ours, by ports that
/// `rust-tlb-init` finds by their names.
fn script_devices(status: &Path) -> Vec<String> {
    let mut devices = vec![
        "-device".to_string(),
        "virtio-serial-pci".into(),
        "-serial".into(),
        "chardev:console".into(),
    ];
    let mut chardev = |id: &str, what: String, is_port: bool| {
        devices.extend(["-chardev".into(), format!("{what},id={id}")]);
        if is_port {
            let port = format!("virtserialport,name={id},chardev={id}");
            devices.extend(["-device".into(), port]);
        }
    };
    chardev("console", "file,path=/proc/self/fd/2".into(), false);
    chardev("in", "stdio,signal=on,mux=off".into(), true);
    chardev("out", "file,path=/proc/self/fd/1".into(), true);
    chardev("again", "file,path=/proc/self/fd/1".into(), true);
    chardev(STATUS, file_chardev(status), true);
    devices
}

/// All of the terminal is the guest's, as its console.
fn terminal_devices(status: &Path) -> Vec<String> {
    let status_file = format!("{},id={STATUS}", file_chardev(status));
    let status_port = format!("virtserialport,name={STATUS},chardev={STATUS}");
    let devices = [
        "-chardev",
        "stdio,id=console,signal=off,mux=on",
        "-serial",
        "chardev:console",
        "-mon",
        "chardev=console",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        &status_file,
        "-device",
        &status_port,
    ];
    devices.map(String::from).to_vec()
}

/// QEMU reads a comma in a path as the end of it, and two as one.
fn file_chardev(path: &Path) -> String {
    format!(
        "file,path={}",
        path.display().to_string().replace(',', ",,")
    )
}

/// What QEMU says that it is.
pub fn qemu_version() -> String {
    let output = Command::new(QEMU).arg("--version").output();
    let text = output.map_or_else(|_| Vec::new(), |output| output.stdout);
    let text = String::from_utf8_lossy(&text);
    let version = text.split_whitespace().nth(3);
    version.unwrap_or("unknown").into()
}

/// The process groups of the machines that run. They are not the terminal's, so that Ctrl-C has to be handed on.
static RUNNING: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Takes the machine down with us when we are told to stop.
pub fn handle_signals() -> Result<()> {
    Ok(ctrlc::set_handler(|| {
        running().drain(..).for_each(kill);
        process::exit(130);
    })?)
}

fn running() -> MutexGuard<'static, Vec<Pid>> {
    RUNNING.lock().expect("nobody panics with it")
}

fn kill(group: Pid) {
    // It has gone by itself, unless it hangs: an error is what to expect.
    let _ = killpg(group, Signal::SIGKILL);
}

/// Kills what is left of the machine at the end of a session, however that comes.
struct Group(Pid);

impl Group {
    fn of(child: &Child) -> Self {
        let group = Pid::from_raw(child.id() as i32);
        running().push(group);
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        running().retain(|group| *group != self.0);
        kill(self.0);
    }
}

/// `rust-tlb-init` told how the script ended, or did not come to it.
fn ending_of(status: &str) -> Ending {
    status
        .trim()
        .parse()
        .map_or(Ending::Crashed, Ending::Exited)
}
