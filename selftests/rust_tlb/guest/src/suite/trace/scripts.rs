// SPDX-License-Identifier: GPL-2.0

//! The scripts that record: what they print can be read, and they put tracing back as it was, also
//! if they are killed.

use core::time::Duration;
use std::env;
use std::fs::{self, File};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::history::{History, Round};
use rust_tlb_trace::Recording;
use rustix::process::{kill_process, Pid, Signal};

use crate::cpu;
use crate::ktap::{skip, Options};

const TRACE: &str = include_str!("../../../../trace/scripts/trace.sh");
const PERF: &str = include_str!("../../../../trace/scripts/perf.sh");
const BPFTRACE: &str = include_str!("../../../../trace/scripts/bpftrace.sh");

const TRACEFS: &str = "/sys/kernel/tracing";
/// The demo unmaps once more than it is told to, to warm up.
const ROUNDS: usize = 2;
const NR_MMS: u64 = 4;
/// Where scripts complain that are killed: a pipe could be held open by what they leave behind.
const SAID: &str = "/tmp/rust-tlb-script-said";
/// It takes a second or so, unless the host has much else to do.
const PATIENCE: Duration = Duration::from_secs(100);
/// Seconds that no other test sleeps for.
const SLEEP: &str = "987";

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

/// Runs a script on the demo's broadcasts, demands that nothing is left of it, and returns what it
/// printed.
fn watch_demo(text: &str, arguments: &[&str]) -> Result<String> {
    let demo = env::current_exe()?.with_file_name("rust-tlb-demo");
    let before = state()?;
    cpu::unpin()?;
    let mut command = script(text, arguments);
    command.arg(demo).args([
        "--count-only",
        "--strategy=broadcast",
        "--mapped-by=processes",
        "--pages=8",
        "--rounds=1",
    ]);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let after = state()?;
    ensure!(before == after, "{before:?} is {after:?} now");
    Ok(String::from_utf8(output.stdout)?)
}

fn record_demo(text: &str, arguments: &[&str]) -> Result<History> {
    let recording = watch_demo(text, arguments)?;
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
    expect_broadcasts(&record_demo(TRACE, &["--switched"])?)
}

pub fn perf_is_read_and_put_back(_: &Options) -> Result<()> {
    if !is_there("perf") {
        return skip("there is no perf");
    }
    expect_broadcasts(&record_demo(PERF, &["record", "--switched"])?)
}

pub fn bpftrace_is_answered_and_put_back(_: &Options) -> Result<()> {
    if !is_there("bpftrace") {
        return skip("there is no bpftrace");
    }
    let said = watch_demo(BPFTRACE, &["run", "all"])?;
    // By broadcast (0), at the end (0), all of them of four mms.
    let expected = [
        format!("@why[rust-tlb-demo, 0, 0]: {ROUNDS}"),
        format!("[{NR_MMS}, {})                 {ROUNDS} |", NR_MMS + 1),
    ];
    for line in expected {
        ensure!(said.contains(&line), "{line} is not in {said}");
    }
    // A round begins (4) once per flush at least.
    let rounds = said.lines().find_map(|l| l.strip_prefix("@reason[4]: "));
    let rounds: usize = rounds.context("nobody was asked")?.parse()?;
    ensure!(rounds >= ROUNDS, "{said}");
    Ok(())
}

/// Each program is one of its own, as it is listed.
pub fn each_program_of_bpftrace_is_one(_: &Options) -> Result<()> {
    if !is_there("bpftrace") {
        return skip("there is no bpftrace");
    }
    let listed = script(BPFTRACE, &["list"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    ensure!(listed.lines().count() == 5, "{listed}");
    for line in listed.lines() {
        let line = line.replacen("bpftrace", "bpftrace -c /bin/true", 1);
        let output = Command::new("bash").args(["-c", &line]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{line}: {said}");
    }
    Ok(())
}

/// To ask it for its version would take seconds, where everything is emulated.
fn is_there(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

pub fn a_killed_recording_is_put_back(_: &Options) -> Result<()> {
    let before = state()?;
    for signal in [Signal::TERM, Signal::HUP] {
        let mut command = script(TRACE, &["sleep", "1000"]);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(File::create(SAID)?)
            .spawn()?;
        let killed = await_sleep(&before, &mut child).and_then(|()| kill(&child, signal));
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
fn await_sleep(before: &[String; 4], child: &mut Child) -> Result<()> {
    wait_for("a recording", || {
        expect_running(child)?;
        let now = state()?;
        let added = now[0].split(' ').find(|name| !before[0].contains(name));
        let Some(name) = added.filter(|name| !name.is_empty()) else {
            return Ok(false);
        };
        let read = |file| fs::read_to_string(format!("{TRACEFS}/instances/{name}/{file}"));
        Ok(read("tracing_on")?.trim() == "1" && read("set_event")?.contains("rust_tlb_batch_open"))
    })
}

/// Those whose events nobody else can see: what they leave behind would be a folder, or the command.
fn leaves_nothing(tool: &str, text: &str, modes: &[&[&str]]) -> Result<()> {
    if !is_there(tool) {
        return skip(format!("there is no {tool}"));
    }
    for arguments in modes {
        kill_recording(text, arguments).with_context(|| format!("{tool} {arguments:?}"))?;
    }
    Ok(())
}

pub fn a_killed_perf_leaves_nothing(_: &Options) -> Result<()> {
    leaves_nothing("perf", PERF, &[&["stat"], &["record"]])
}

pub fn a_killed_bpftrace_leaves_nothing(_: &Options) -> Result<()> {
    leaves_nothing("bpftrace", BPFTRACE, &[&["run", "all"]])
}

fn kill_recording(text: &str, arguments: &[&str]) -> Result<()> {
    let folder = env::temp_dir().join(format!("rust-tlb-{}", process::id()));
    fs::create_dir_all(&folder)?;
    let mut child = script(text, arguments)
        .args(["sleep", SLEEP])
        .env("TMPDIR", &folder)
        .stdout(Stdio::null())
        .stderr(File::create(SAID)?)
        .spawn()?;
    let begun = wait_for("the command to begin", || {
        expect_running(&mut child)?;
        Ok(nr_sleeping()? > 0)
    });
    let killed = begun.and_then(|()| kill(&child, Signal::TERM));
    if killed.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    killed?;
    ensure!(!status.success(), "{status}");
    wait_for("the command to end", || Ok(nr_sleeping()? == 0))?;
    // It fails if the folder is not empty.
    fs::remove_dir(&folder).context("something is left in the folder")
}

/// Processes that sleep as long as nobody else does.
fn nr_sleeping() -> Result<usize> {
    let mut nr = 0;
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        nr += usize::from(line == format!("sleep\0{SLEEP}\0").as_bytes());
    }
    Ok(nr)
}

fn expect_running(child: &mut Child) -> Result<()> {
    let ended = child.try_wait()?;
    let said = || fs::read_to_string(SAID).unwrap_or_default();
    ensure!(ended.is_none(), "it ended by itself: {ended:?} {}", said());
    Ok(())
}

fn wait_for(what: &str, mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if is_done()? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let said = fs::read_to_string(SAID).unwrap_or_default();
    anyhow::bail!("waited in vain for {what}: {said}")
}

fn kill(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().try_into()?).context("a child has a pid")?;
    Ok(kill_process(pid, signal)?)
}
