// SPDX-License-Identifier: GPL-2.0

//! The first process of the machine. Its root file system is the host's, read-only, so that every path of the host is
//! good in it; this mounts what a program expects beside that, runs one script, tells the host how it ended, and
//! switches the machine off. Nothing of the host's (udev, an init system) is started.
//!
//! The kernel hands on what stands on its command line: `RUST_TLB_SCRIPT` is the script's path. Its input and output
//! are virtio ports that the host has named, or with `RUST_TLB_CONSOLE`, the terminal of that name.

use std::env;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};
use rustix::mount::{mount, MountFlags};
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::process::{wait, WaitOptions, WaitStatus};
use rustix::system::{reboot, sethostname, RebootCommand};

/// Type, where, flags, options. What a kernel does not have is left out.
const MOUNTS: &[(&str, &str, MountFlags, &str)] = &[
    ("proc", "/proc", NOTHING_SPECIAL, ""),
    ("sysfs", "/sys", NOTHING_SPECIAL, ""),
    ("tmpfs", "/run", MountFlags::empty(), "mode=0755"),
    ("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755"),
    ("debugfs", "/sys/kernel/debug", NOTHING_SPECIAL, ""),
    ("tracefs", "/sys/kernel/tracing", NOTHING_SPECIAL, ""),
    ("cgroup2", "/sys/fs/cgroup", NOTHING_SPECIAL, ""),
    ("devpts", "/dev/pts", MountFlags::NOSUID, "mode=620"),
    ("tmpfs", "/dev/shm", MountFlags::NOSUID, "mode=1777"),
    ("tmpfs", "/var/tmp", MountFlags::NOSUID, "mode=1777"),
    // What the host has in it can be read, and what is written stays here.
    (
        "overlay",
        "/tmp",
        MountFlags::NOSUID,
        "lowerdir=/tmp,upperdir=/run/upper,workdir=/run/work",
    ),
];
const NOTHING_SPECIAL: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
/// Folders for mounts and programs, some of them below what is mounted before.
const FOLDERS: &[&str] = &[
    "/dev/pts",
    "/dev/shm",
    "/run/upper",
    "/run/work",
    "/run/home",
];
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
];

fn main() {
    if let Err(error) = prepare().and_then(|()| run_and_report()) {
        eprintln!("rust-tlb-init: {error:#}");
    }
    rustix::fs::sync();
    let error = reboot(RebootCommand::PowerOff);
    eprintln!("rust-tlb-init: the machine does not go off: {error:?}");
}

fn prepare() -> Result<()> {
    for (kind, at, flags, options) in MOUNTS {
        for folder in FOLDERS {
            // Until what it is in is mounted it cannot be made, and afterwards it is there.
            let _ = fs::create_dir_all(folder);
        }
        let options = CString::new(*options).context("an option with a zero byte")?;
        if let Err(error) = mount(*kind, *at, *kind, *flags, options.as_c_str()) {
            if matches!(*kind, "proc" | "sysfs" | "tmpfs" | "devtmpfs") {
                eprintln!("rust-tlb-init: {kind} on {at}: {error}");
            }
        }
    }
    for (to, link) in LINKS {
        let _ = symlink(to, link);
    }
    sethostname(b"rust-tlb").context("setting the host's name")
}

/// Runs the script. The host hears of it by the port `status`: no word, no end.
fn run_and_report() -> Result<()> {
    let script = env::var_os("RUST_TLB_SCRIPT")
        .context("no RUST_TLB_SCRIPT on the kernel's command line")?;
    let child = match env::var_os("RUST_TLB_CONSOLE") {
        Some(console) => on_terminal(Path::new(&script), &Path::new("/dev").join(console))?,
        None => on_ports(Path::new(&script))?,
    };
    let status = wait_for(child)?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    fs::write(port("status")?, format!("{}\n", code.unwrap_or(255))).context("telling the status")
}

fn on_ports(script: &Path) -> Result<Child> {
    let again = port("again")?;
    for link in ["/dev/stdout", "/dev/stderr"] {
        // A port is open once at a time, so that whoever opens its output a second time gets another one.
        symlink(&again, link).with_context(|| format!("linking {link}"))?;
    }
    let input = File::open(port("in")?)?;
    let mut output = OpenOptions::new().write(true).open(port("out")?)?;
    writeln!(output, "# rust-tlb-init: the script starts")?;
    start(script, input.into(), output.into(), false)
}

fn on_terminal(script: &Path, terminal: &Path) -> Result<Child> {
    for (number, link) in ["/dev/stdout", "/dev/stderr"].iter().enumerate() {
        symlink(format!("/proc/self/fd/{}", number + 1), link)?;
    }
    let both = || OpenOptions::new().read(true).write(true).open(terminal);
    start(script, both()?.into(), both()?.into(), true)
}

fn start(script: &Path, input: OwnedFd, output: OwnedFd, controls: bool) -> Result<Child> {
    let mut command = Command::new("/bin/bash");
    command
        .arg(script)
        .env("HOME", "/run/home")
        .env_remove("RUST_TLB_SCRIPT")
        .env_remove("RUST_TLB_CONSOLE")
        .stderr(output.try_clone()?)
        .stdout(output)
        .stdin(input);
    // SAFETY: Between fork and exec this makes two system calls, and takes no lock and no memory; 0 is the child's input,
    // which stays open.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            if controls {
                ioctl_tiocsctty(BorrowedFd::borrow_raw(0))?;
            }
            Ok(())
        })
    };
    command.spawn().context("starting bash")
}

/// Waits for `child`, and for whatever has lost its parent meanwhile.
fn wait_for(child: Child) -> io::Result<ExitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() as u32 == child.id() => {
                return Ok(exit_status(status))
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    ExitStatus::from_raw(status.as_raw())
}

/// The device of the virtio port that the host has named so.
fn port(name: &str) -> Result<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").context("looking for virtio ports")?;
    ports
        .flatten()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|is| is.trim() == name))
        .map(|port| Path::new("/dev").join(port.file_name()))
        .with_context(|| format!("the host has given no port {name}"))
}
