// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a measurement was made on: without it, its numbers mean nothing.

use std::fs;
use std::process::Command;

use anyhow::Result;
use rust_tlb_results::names::{self, CpuThreads};
use rust_tlb_results::written::Environment;

use crate::accel::{Accel, Threads};
use crate::places::Places;
use crate::vm::Machine;

/// What `machine` is, and runs on.
///
/// # Errors
///
/// If it is not known which kernel that is, or how many CPUs there are.
pub fn of(machine: &Machine, places: &Places) -> Result<Environment> {
    Ok(Environment {
        kernel: machine.kernel.release()?,
        config: machine.kernel.config.clone(),
        accel: match machine.accel {
            Accel::Kvm => names::Accel::Kvm,
            Accel::Tcg => names::Accel::Tcg,
        },
        cpu_threads: match machine.threads {
            Threads::Parallel => CpuThreads::Parallel,
            Threads::Sliced => CpuThreads::Sliced,
            Threads::Counted => CpuThreads::Counted,
        },
        cpus: machine.cpus,
        host_cpus: std::thread::available_parallelism()?.get() as u64,
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
