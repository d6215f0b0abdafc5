// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a measurement was made on: without it, its numbers mean nothing.

use std::fs;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::accel::Threads;
use crate::places::Places;
use crate::vm::Machine;

#[derive(Serialize)]
pub struct Environment {
    pub kernel: String,
    pub config: String,
    pub accel: &'static str,
    /// `parallel`; `sliced`: the emulator runs one of the guest's CPUs at a time; or `counted`: as
    /// `sliced`, by a clock that counts instructions.
    pub cpu_threads: &'static str,
    pub cpus: u32,
    pub host_cpus: usize,
    pub host_cpu_model: String,
    pub qemu: String,
    pub commit: String,
    pub date: String,
}

impl Environment {
    pub fn of(machine: &Machine, places: &Places) -> Result<Self> {
        Ok(Self {
            kernel: machine.kernel.release()?,
            config: machine.kernel.config.clone(),
            accel: machine.accel.name(),
            cpu_threads: match machine.threads {
                Threads::Parallel => "parallel",
                Threads::Sliced => "sliced",
                Threads::Counted => "counted",
            },
            cpus: machine.cpus,
            host_cpus: std::thread::available_parallelism()?.get(),
            host_cpu_model: cpu_model(),
            qemu: first_line(Command::new("qemu-system-x86_64").arg("--version")),
            commit: first_line(Command::new("git").current_dir(&places.top).args([
                "describe",
                "--always",
                "--dirty",
                "--abbrev=12",
            ])),
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
        })
    }
}

fn cpu_model() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    model
        .map(|text| text.trim_start_matches(['\t', ' ', ':']).into())
        .unwrap_or_else(|| "unknown".into())
}

/// What is not known is said to be unknown: a result without a commit is still a result.
fn first_line(command: &mut Command) -> String {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.as_deref()
        .and_then(|text| text.lines().next())
        .unwrap_or("unknown")
        .into()
}
