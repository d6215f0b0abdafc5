// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What runs the machine's instructions, and how.

use std::thread;

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
