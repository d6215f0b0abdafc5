// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Decides between KVM and TCG. That `/dev/kvm` exists says little: on some hosts it opens and then
//! no guest ever runs. So KVM is taken only if a trial boot comes through in time.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::guest;
use crate::output;
use crate::places::{read_trimmed, Kernel, Places};
use crate::vm::{self, Ending, Machine, Session};

/// How long a trial boot may take. KVM boots this kernel in two or three seconds.
const TRIAL: Duration = Duration::from_secs(20);

/// How the machine's instructions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Tcg,
}

/// How the emulator runs the guest's CPUs. Stale translations are kept either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// A thread of the host for each: what runs at the same time really does. Where the host has
    /// fewer CPUs, one that waits for another one's answer to an IPI spins while that one is not
    /// even running, and a flush takes ten times as long and more.
    Parallel,
    /// One after the other, a slice of time each.
    Sliced,
    /// One after the other, by a clock that counts instructions: a nanosecond of the guest's time is
    /// an instruction of one of its CPUs. Only of use with the emulator.
    Counted,
}

impl Threads {
    /// What is fast for so many CPUs on this host.
    pub fn that_are_fast(accel: Accel, cpus: u32) -> Self {
        if accel == Accel::Kvm || host_cpus() >= cpus as usize {
            Threads::Parallel
        } else {
            Threads::Sliced
        }
    }
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Fixed(Accel),
    FindOut,
}

impl Accel {
    pub fn name(self) -> &'static str {
        match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// Arguments for QEMU.
    pub fn qemu_arguments(self, threads: Threads) -> &'static [&'static str] {
        match (self, threads) {
            (Accel::Kvm, _) => &["-cpu", "host", "-accel", "kvm"],
            (Accel::Tcg, Threads::Parallel) => &["-cpu", "max", "-accel", "tcg,thread=multi"],
            (Accel::Tcg, Threads::Sliced) => &["-cpu", "max", "-accel", "tcg,thread=single"],
            (Accel::Tcg, Threads::Counted) => &[
                "-cpu",
                "max",
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ],
        }
    }
}

/// CPUs that this process may use.
pub fn host_cpus() -> usize {
    thread::available_parallelism().map_or(1, |cpus| cpus.get())
}

impl Choice {
    /// Reads `ACCEL=`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Choice::FindOut),
            "kvm" => Ok(Choice::Fixed(Accel::Kvm)),
            "tcg" => Ok(Choice::Fixed(Accel::Tcg)),
            _ => Err("ACCEL is kvm or tcg".into()),
        }
    }
}

/// What to run `kernel` with. A trial's result holds until the host is booted again.
pub fn decide(choice: Choice, kernel: &Kernel, places: &Places) -> Result<Accel> {
    let (accel, why) = match choice {
        Choice::Fixed(accel) => (accel, "as asked"),
        Choice::FindOut if !Path::new("/dev/kvm").exists() => (Accel::Tcg, "there is no /dev/kvm"),
        Choice::FindOut if kvm_works(kernel, places)? => (Accel::Kvm, "a trial boot worked"),
        Choice::FindOut => (Accel::Tcg, "/dev/kvm is there, but does not run a guest"),
    };
    let name = accel.name().to_uppercase();
    let qemu = vm::qemu_version();
    output::step(&format!(
        "boot ({}) with {name} of QEMU {qemu}: {why}",
        kernel.config
    ));
    Ok(accel)
}

fn kvm_works(kernel: &Kernel, places: &Places) -> Result<bool> {
    let memory = places.cache.join("kvm-trial");
    let host_boot = read_trimmed(Path::new("/proc/sys/kernel/random/boot_id"))?;
    if let Ok(known) = fs::read_to_string(&memory) {
        if let Some(result) = known.trim().strip_prefix(&format!("{host_boot} ")) {
            return Ok(result == "works");
        }
    }
    let works = trial_boot(kernel, places)?;
    let result = if works { "works" } else { "fails" };
    fs::write(&memory, format!("{host_boot} {result}\n"))?;
    Ok(works)
}

fn trial_boot(kernel: &Kernel, places: &Places) -> Result<bool> {
    output::note(&format!(
        "trying KVM, for at most {} seconds",
        TRIAL.as_secs()
    ));
    let session = Session {
        name: "boot-kvm-trial".into(),
        script: guest::command_script(None, &["true".into()]),
        limit: TRIAL,
    };
    let ended = Machine::new(kernel.clone(), Accel::Kvm, 2).run(&session, places, &mut |_| {})?;
    Ok(ended.ending == Ending::Exited(0))
}
