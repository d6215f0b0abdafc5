// SPDX-License-Identifier: GPL-2.0

//! The scripts that record: what they print can be read, and they put tracing back as it was, also
//! if they are killed.

use core::time::Duration;
use std::env;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::history::{History, Round};
use rust_tlb_trace::Recording;
use rustix::process::{kill_process, Pid, Signal};

use crate::cpu;
use crate::ktap::{skip, Options};

const TRACE: &str = include_str!("../../../../trace/scripts/trace.sh");
const PERF: &str = include_str!("../../../../trace/scripts/perf.sh");

const TRACEFS: &str = "/sys/kernel/tracing";
/// The demo unmaps once more than it is told to, to warm up.
const ROUNDS: usize = 2;
const NR_MMS: u64 = 4;

/// A script with its arguments.
fn script(text: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", text, "script"]).args(arguments);
    command
}

/// What belongs to everybody who traces.
fn state() -> Result<[String; 4]> {
    let read = |file| fs::read_to_string(format!("{TRACEFS}/{file}"));
    let mut instances: Vec<String> = fs::read_dir(format!("{TRACEFS}/instances"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    instances.sort();
    let clock = read("trace_clock")?;
    Ok([
        instances.join(" "),
        read("tracing_on")?,
        read("set_event")?,
        clock,
    ])
}

/// Records the demo's broadcasts, and demands that nothing is left of it.
fn record_demo(text: &str, arguments: &[&str]) -> Result<History> {
    let demo = env::current_exe()?.with_file_name("rust-tlb-demo");
    let before = state()?;
    cpu::unpin()?;
    let mut command = script(text, arguments);
    command.arg("--switched").arg(demo).args([
        "--count-only",
        "--strategy=broadcast",
        "--cast=processes",
        "--pages=8",
        "--rounds=1",
    ]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let after = state()?;
    ensure!(before == after, "{before:?} is {after:?} now");
    let recording = String::from_utf8_lossy(&output.stdout);
    Ok(Recording::read("", &recording).history)
}

fn expect_broadcasts(history: &History) -> Result<()> {
    let History {
        flushes, rounds, ..
    } = history;
    ensure!(flushes.len() == ROUNDS, "{flushes:?}");
    let all = flushes.iter().all(|flush| flush.nr_mms == NR_MMS);
    ensure!(all, "{flushes:?}");
    let ours = || rounds.iter().filter(|round| round.call.is_some());
    ensure!(ours().count() == ROUNDS, "{rounds:?}");
    ensure!(
        ours().all(|round| Round::done(round).is_some()),
        "{rounds:?}"
    );
    Ok(())
}

pub fn ftrace_is_read_and_put_back(_: &Options) -> Result<()> {
    expect_broadcasts(&record_demo(TRACE, &[])?)
}

pub fn perf_is_read_and_put_back(_: &Options) -> Result<()> {
    if !Command::new("perf")
        .arg("--version")
        .output()
        .is_ok_and(|it| it.status.success())
    {
        return skip("there is no perf");
    }
    expect_broadcasts(&record_demo(PERF, &["record"])?)
}

pub fn a_killed_recording_is_put_back(_: &Options) -> Result<()> {
    let before = state()?;
    for signal in [Signal::TERM, Signal::HUP] {
        let mut command = script(TRACE, &["sleep", "1000"]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let killed = await_sleep(&before).and_then(|()| kill(&child, signal));
        if killed.is_err() {
            let _ = child.kill();
        }
        let status = child.wait()?;
        killed?;
        ensure!(!status.success(), "{status}");
        let after = state()?;
        ensure!(before == after, "{before:?} is {after:?} now");
    }
    Ok(())
}

/// Waits until there is an instance more, which records.
fn await_sleep(before: &[String; 4]) -> Result<()> {
    for _ in 0..1000 {
        let now = state()?;
        let added = now[0].split(' ').find(|name| !before[0].contains(name));
        if let Some(name) = added.filter(|name| !name.is_empty()) {
            let path = format!("{TRACEFS}/instances/{name}/tracing_on");
            let events = format!("{TRACEFS}/instances/{name}/set_event");
            let is_on = fs::read_to_string(path)?.trim() == "1";
            if is_on && fs::read_to_string(events)?.contains("rust_tlb_batch_open") {
                return Ok(());
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("nothing is recorded")
}

fn kill(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().try_into()?).context("a child has a pid")?;
    Ok(kill_process(pid, signal)?)
}
