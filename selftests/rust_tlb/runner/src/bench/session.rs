// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The parts of the bench, each in a boot of its own.

use std::time::Duration;

use anyhow::{bail, Result};

use crate::accel::Threads;
use crate::guest;
use crate::listener::Said as Line;
use crate::output::{self, Progress};
use crate::places::Places;
use crate::vm::{Ending, Machine, Session};

use super::said::{Heard, Said};

const BINARY: &str = "rust-tlb-bench";
/// How long a part may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// Somewhere to swap to: reclaim does not even look at shared memory without it.
const SWAP: &str = "mkswap /dev/ram0 >/dev/null && swapon /dev/ram0";
/// A file system, since a file on one can have holes and be reclaimed.
const FILE_SYSTEM: &str = "mkfs.ext2 -q -b 4096 /dev/ram1 && mount -t ext2 /dev/ram1 /mnt";
const FILE: &str = "/mnt/file";
const EVENTS_ON: &str = "echo 1 >/sys/kernel/tracing/events/rust_tlb/enable";

/// One boot.
pub struct Part {
    pub name: &'static str,
    /// What it does, for the one who waits.
    pub what: &'static str,
    pub machine: Machine,
    quick: bool,
    pages_per_device: u32,
    prepare: &'static str,
    commands: Vec<Vec<&'static str>>,
}

/// Rounds of each measurement, in the quick bench and in the full one. Those that are counted are nearly all the same, and slow.
const TIMED_ROUNDS: [&str; 2] = ["5", "15"];
const COUNTED_ROUNDS: [&str; 2] = ["3", "5"];
/// In which transactions are counted: by the clock that counts instructions, where they nearly repeat.
const TURNS: [&str; 2] = ["1", "3"];

/// What is done, in this order.
pub fn parts(machine: &Machine, quick: bool) -> [Part; 3] {
    let of = |part: &'static str, rounds: [&'static str; 2]| {
        vec![part, "--rounds", rounds[usize::from(!quick)]]
    };
    [
        Part {
            name: "bench-timed",
            what: "each strategy over pages, processes and CPUs: rounds, IPIs, time",
            machine: machine.clone(),
            quick,
            pages_per_device: guest::PAGES_PER_LARGE_DEVICE,
            prepare: SWAP,
            commands: vec![
                of("sweeps", TIMED_ROUNDS),
                of("exact", TIMED_ROUNDS),
                of("moves", COUNTED_ROUNDS),
                of("binder", COUNTED_ROUNDS),
                vec!["stale"],
            ],
        },
        Part {
            name: "bench-counted",
            what: "the same, by a clock that counts instructions",
            machine: machine.counting(),
            quick,
            pages_per_device: guest::PAGES_PER_LARGE_DEVICE,
            prepare: SWAP,
            commands: vec![
                of("sweeps", COUNTED_ROUNDS),
                of("exact", COUNTED_ROUNDS),
                of("moves", COUNTED_ROUNDS),
                vec!["page-tables"],
                [
                    of("binder", COUNTED_ROUNDS),
                    vec!["--turns", TURNS[usize::from(!quick)]],
                ]
                .concat(),
            ],
        },
        Part {
            name: "bench-parallel",
            what: "what interrupted threads lose, and more mapped pages than memory",
            machine: machine.as_the_host().with_little_memory(),
            quick,
            pages_per_device: guest::PAGES_PER_DEVICE,
            prepare: FILE_SYSTEM,
            commands: vec![vec!["victims"], vec!["headline", "--path", FILE]],
        },
    ]
}

/// The quick bench along one axis, for `make events`; with the events on, if that is asked.
pub fn events(what: &'static str, machine: &Machine, on: bool) -> Part {
    Part {
        name: "bench-events",
        what,
        machine: machine.counting(),
        quick: true,
        pages_per_device: guest::PAGES_PER_DEVICE,
        prepare: if on { EVENTS_ON } else { "true" },
        commands: vec![vec![
            "sweeps",
            "--axis",
            "pages",
            "--rounds",
            COUNTED_ROUNDS[0],
        ]],
    }
}

/// Who may have a ring of flushes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rings {
    /// Nobody: the hooks are branches that are patched out.
    Unused,
    /// As long as the module is loaded.
    Others,
    All,
}

/// The kernel's own paths, for `make hooks`.
pub fn hooks(what: &'static str, machine: &Machine, rings: Rings) -> Part {
    let mut command = vec!["hooks"];
    command.extend((rings == Rings::All).then_some("--ringed"));
    Part {
        name: "bench-hooks",
        what,
        machine: machine.counting(),
        quick: false,
        pages_per_device: guest::PAGES_PER_DEVICE,
        prepare: match rings {
            Rings::Unused => "rmmod rust_tlb",
            _ => "true",
        },
        commands: vec![command],
    }
}

/// How long everything takes on two cores, emulated.
pub fn expected(quick: bool) -> Duration {
    Duration::from_secs(if quick { 120 } else { 8 * 60 })
}

impl Part {
    /// Boots, and takes in what the guest says.
    pub fn run(&self, places: &Places, said: &mut Said) -> Result<()> {
        output::step(self.what);
        said.part = self.name;
        let counted = self.machine.threads == Threads::Counted;
        let session = Session {
            name: self.name.into(),
            script: self.script(places),
            limit: LIMIT,
        };
        let progress = Progress::new();
        let mut bad = None;
        let ended = self.machine.run(&session, places, &mut |line| {
            let Line::Guest(line) = line else { return };
            match said.hear(line, counted) {
                Ok(Heard::Progress(done, all, what)) => progress.show(done, all, what),
                Ok(Heard::Text(text)) => output::note(text),
                Ok(Heard::Result) => {}
                Err(error) => bad = Some(error),
            }
        })?;
        progress.done();
        let clean = ended.show_problems();
        if let Some(error) = bad {
            return Err(error);
        }
        if ended.ending != Ending::Exited(0) || !clean {
            bail!("{BINARY} did not end well ({:?})", ended.ending);
        }
        Ok(())
    }

    fn script(&self, places: &Places) -> String {
        let binary = places.bin.join(BINARY).display().to_string();
        let mut command = vec![binary];
        command.extend(self.quick.then(|| "--quick".to_string()));
        guest::bench_script(
            &self.machine.kernel.module(),
            self.pages_per_device,
            self.prepare,
            &command,
            &self.commands,
        )
    }
}
