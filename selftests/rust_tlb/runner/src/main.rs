// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Boots the patched kernel in a virtual machine, runs what is to be run in it, and judges the
//! outcome. `make` calls it when the kernel and the user-space binaries are built.
//!
//! - [`vm`] boots and brings back output, exit status and kernel log; [`listener`] hears it out, [`accel`]
//!   is how fast, and [`kvm_trial`] decides that.
//! - [`kernel_log`] and [`ktap`] read what the guest said.
//! - [`test_list`] is `tests.list`; [`suites`] runs what it names, [`reading`] makes results of what
//!   the machine says, [`tally`] counts.
//! - [`stress`] is one long session. [`recording`] brings events out, [`tracing`] sums them up.
//! - [`mod@bench`] measures, and writes `bench/`.
//! - [`demo`] draws the table of strategies and writes `run.json`.

mod accel;
#[cfg(feature = "bench")]
mod bench;
mod bindings_layout;
mod cargo_test;
mod demo;
mod environment;
mod guest;
mod kernel_log;
mod ktap;
mod kvm_trial;
mod listener;
mod output;
mod places;
mod reading;
mod recording;
mod setup;
mod stress;
mod suites;
mod table;
mod tally;
mod test_list;
mod tracing;
mod vm;
mod without_faults;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::accel::Choice;
use crate::listener::Said;
use crate::places::Places;
use crate::tally::Tally;
use crate::test_list::Selection;
use crate::vm::{Ending, Machine, Session};

/// Boots the patched kernel and runs the demo, the tests, or a command of yours in it.
#[derive(Parser)]
#[command(name = "rust-tlb-runner")]
struct Arguments {
    /// How to run the virtual machine [default: KVM if a trial boot works, else TCG].
    #[arg(long, env = "ACCEL", hide_env_values = true, value_parser = Choice::parse, default_value = "")]
    accel: Choice,
    /// CPUs of the virtual machine [default: 4; 8 to measure].
    #[arg(long, env = "SMP", hide_env_values = true, value_parser = Cpus::parse, default_value = "")]
    smp: Cpus,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the demo on the `run` kernel, prints its table, writes build/run.json.
    Run,
    #[cfg(feature = "bench")]
    /// Measures all strategies side by side on the `bench` kernel, writes build/bench/.
    Bench {
        /// A part of the measurements, with fewer rounds, in 3 minutes.
        #[arg(long, env = "QUICK", hide_env_values = true, value_parser = bench::parse_quick, default_value = "", action = clap::ArgAction::Set)]
        quick: bool,
    },
    #[cfg(feature = "bench")]
    /// Measures what the trace events cost, on the kernels `bench` and `bench-noevents`.
    Events,
    #[cfg(feature = "bench")]
    /// Measures what the ring's hooks cost the kernel's own paths, on `bench` and `bench-noring`.
    Hooks,
    /// Runs all tests of tests.list, here and on the `test` kernel.
    Test {
        /// Only those whose line in the list contains this.
        #[arg(long, env = "TEST", hide_env_values = true, default_value = "")]
        only: String,
        /// On which kernel: `test`, or another one, which has only what runs in the booted kernel.
        #[arg(long, default_value = "test")]
        config: String,
    },
    /// Uses the device at random on the `test` kernel, and looks for stale pages.
    Stress {
        /// Seconds.
        #[arg(long, env = "DURATION", hide_env_values = true, value_parser = stress::parse_duration, default_value = "")]
        duration: u64,
        /// Replays the choices of a run that had it [default: any].
        #[arg(long, env = "SEED", hide_env_values = true, value_parser = stress::Seed::parse, default_value = "")]
        seed: stress::Seed,
    },
    /// Records by ftrace, on the `bench` kernel, what the flushes of each strategy are made of.
    Trace,
    /// Counts and records it by perf.
    Perf,
    /// Asks bpftrace's programs about it.
    Bpftrace,
    /// Checks that Rust's idea of the kernel's structures is C's.
    Layout {
        /// Of which kernel.
        #[arg(long)]
        config: String,
    },
    /// Opens a shell in the virtual machine, as root, with the module loaded.
    Shell {
        /// Which kernel: `run`, `bench`, `test`, or another that is built.
        #[arg(long, default_value = "bench")]
        config: String,
    },
    /// Runs a command in the virtual machine, as root, with the module loaded.
    Boot(Boot),
}

#[derive(Args)]
struct Boot {
    /// Which kernel: `bench`, `test`, or another that is built.
    #[arg(long, default_value = "test")]
    config: String,
    /// Seconds after which the machine is taken down.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Do not load the module.
    #[arg(long)]
    no_module: bool,
    /// Run its CPUs at the same time, even if the host has fewer: slow, and no KUnit.
    #[arg(long)]
    parallel: bool,
    /// One more word on the kernel's command line; may be given more than once.
    #[arg(long)]
    kernel_argument: Vec<String>,
    /// Run the emulator by a clock that counts instructions: repeatable, and slow.
    #[arg(long)]
    icount: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl Boot {
    /// `machine`, as it was asked for.
    fn machine(&self, machine: &Machine) -> Machine {
        let mut machine = machine.with_arguments(&self.kernel_argument);
        if self.parallel {
            machine = machine.in_parallel();
        }
        if self.icount {
            machine = machine.counting();
        }
        machine
    }

    fn session(&self, machine: &Machine) -> Session {
        let module = (!self.no_module).then(|| machine.kernel.module());
        Session {
            name: format!("boot-{}", machine.kernel.config),
            script: guest::command_script(module.as_deref(), &self.command),
            limit: Duration::from_secs(self.timeout),
        }
    }
}

/// What the user asked for.
#[derive(Clone, Copy)]
struct Cpus(Option<u32>);

impl Cpus {
    /// `make` hands on `SMP=` when it is not set.
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(cpus @ 1..=8) => Ok(Self(Some(cpus))),
                _ => Err("SMP is a number of CPUs from 1 to 8".into()),
            },
        }
    }
}

const CPUS: u32 = 4;
/// One of the axes of the bench.
#[cfg(feature = "bench")]
const CPUS_TO_MEASURE: u32 = 8;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The machine that runs a kernel, as the user wants it.
fn machine(arguments: &Arguments, places: &Places, config: &str) -> Result<Machine> {
    let kernel = places.kernel(config)?;
    let accel = kvm_trial::decide(arguments.accel, &kernel, places)?;
    let cpus = match arguments.command {
        #[cfg(feature = "bench")]
        Command::Bench { .. } | Command::Events => CPUS_TO_MEASURE,
        _ => CPUS,
    };
    Ok(Machine::new(kernel, accel, arguments.smp.0.unwrap_or(cpus)))
}

fn dispatch(arguments: &Arguments) -> Result<ExitCode> {
    vm::handle_signals()?;
    let places = Places::find()?;
    let machine = |config: &str| machine(arguments, &places, config);
    match &arguments.command {
        Command::Run => demo::run(&machine("run")?, &places),
        #[cfg(feature = "bench")]
        Command::Bench { quick } => bench::run(&machine("bench")?, &places, *quick),
        #[cfg(feature = "bench")]
        Command::Events => {
            bench::events::run(&machine("bench-noevents")?, &machine("bench")?, &places)
        }
        #[cfg(feature = "bench")]
        Command::Hooks => bench::hooks::run(&machine("bench-noring")?, &machine("bench")?, &places),
        Command::Test { only, config } => {
            let selection = match config.as_str() {
                "test" => Selection::new(only),
                _ => Selection::new(only).in_booted_kernel(),
            };
            suites::run_all(&places, selection, || machine(config))
        }
        Command::Stress { duration, seed } => {
            let machine = machine("test")?.in_parallel();
            let session = stress::session(&machine, &places, *duration, *seed);
            boot(&machine, &places, &session)
        }
        Command::Trace => tracing::trace(&machine("bench")?, &places),
        Command::Perf => tracing::perf(&machine("bench")?, &places),
        Command::Bpftrace => tracing::bpftrace(&machine("bench")?, &places),
        Command::Layout { config } => {
            let mut tally = Tally::of(Selection::default());
            bindings_layout::run(&places.kernel(config)?, &places, &mut tally)?;
            Ok(tally.conclude())
        }
        Command::Shell { config } => shell(&machine(config)?, &places),
        Command::Boot(asked) => {
            let machine = asked.machine(&machine(&asked.config)?);
            boot(&machine, &places, &asked.session(&machine))
        }
    }
}

/// Runs one session, hands its output through, and ends as its command did, or worse if the kernel
/// had something to complain about.
fn boot(machine: &Machine, places: &Places, session: &Session) -> Result<ExitCode> {
    let ended = machine.run(session, places, &mut |said| {
        if let Said::Guest(line) = said {
            println!("{line}");
        }
    })?;
    let clean = ended.show_problems();
    Ok(match ended.ending {
        Ending::Exited(0) if !clean => ExitCode::FAILURE,
        Ending::Exited(status) => ExitCode::from(status),
        _ => ExitCode::FAILURE,
    })
}

fn shell(machine: &Machine, places: &Places) -> Result<ExitCode> {
    let module = machine.kernel.module();
    if io::stdin().is_terminal() {
        machine.interactive(&guest::shell_script(&module), places)
    } else {
        let session = Session {
            name: "shell".into(),
            script: guest::command_script(Some(&module), &["bash".into()]),
            limit: Duration::from_secs(24 * 3600),
        };
        boot(machine, places, &session)
    }
}
