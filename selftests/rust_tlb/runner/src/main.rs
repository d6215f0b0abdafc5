// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Boots the patched kernel in a virtual machine, runs what is to be run in it, and judges the
//! outcome. `make` calls it when the kernel and the user-space binaries are built.
//!
//! - [`vm`] boots and brings back output, exit status and kernel log; [`accel`] decides how fast.
//! - [`kernel_log`] and [`ktap`] read what the guest said.
//! - [`test_list`] is `tests.list`; [`suites`] runs what it names, [`reading`] makes results of what
//!   the machine says, [`tally`] counts.
//! - [`stress`] is one long session.
//! - [`demo`] draws the table of strategies and writes `run.json`.

mod accel;
mod bindings_layout;
mod cargo_test;
mod demo;
mod environment;
mod guest;
mod kernel_log;
mod ktap;
mod output;
mod places;
mod reading;
mod stress;
mod suites;
mod table;
mod tally;
mod test_list;
mod vm;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::accel::Choice;
use crate::places::Places;
use crate::test_list::Selection;
use crate::vm::{Ending, Machine, Said, Session};

/// Boots the patched kernel and runs the demo, the tests, or a command of yours in it.
#[derive(Parser)]
#[command(name = "rust-tlb-runner")]
struct Arguments {
    /// How to run the virtual machine [default: KVM if a trial boot works, else TCG].
    #[arg(long, env = "ACCEL", hide_env_values = true, value_parser = Choice::parse, default_value = "")]
    accel: Choice,
    /// CPUs of the virtual machine.
    #[arg(long, env = "SMP", hide_env_values = true, value_parser = parse_cpus, default_value = "4")]
    smp: u32,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the demo on the `bench` kernel, prints its table, writes build/run.json.
    Run,
    /// Runs all tests of tests.list, here and on the `test` kernel.
    Test {
        /// Only those whose line in the list contains this.
        #[arg(long, env = "TEST", hide_env_values = true, default_value = "")]
        only: String,
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
    /// Opens a shell in the virtual machine, as root, with the module loaded.
    Shell {
        /// Which kernel: `bench` or `test`.
        #[arg(long, default_value = "bench")]
        config: String,
    },
    /// Runs a command in the virtual machine, as root, with the module loaded.
    Boot {
        /// Which kernel: `bench` or `test`.
        #[arg(long, default_value = "test")]
        config: String,
        /// Seconds after which the machine is taken down.
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// Do not load the module.
        #[arg(long)]
        no_module: bool,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
}

/// `make` hands on `SMP=` when it is not set.
fn parse_cpus(text: &str) -> Result<u32, String> {
    match text {
        "" => Ok(4),
        _ => match text.parse() {
            Ok(cpus @ 1..=8) => Ok(cpus),
            _ => Err("SMP is a number of CPUs from 1 to 8".into()),
        },
    }
}

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

fn dispatch(arguments: &Arguments) -> Result<ExitCode> {
    vm::handle_signals()?;
    let places = Places::find()?;
    let machine = |config: &str| -> Result<Machine> {
        let kernel = places.kernel(config)?;
        let accel = accel::decide(arguments.accel, &kernel, &places)?;
        Ok(Machine::new(kernel, accel, arguments.smp))
    };
    match &arguments.command {
        Command::Run => demo::run(&machine("bench")?, &places),
        Command::Test { only } => {
            suites::run_all(&places, Selection::new(only), || machine("test"))
        }
        Command::Stress { duration, seed } => {
            let machine = machine("test")?.in_parallel();
            let session = stress::session(&machine, &places, *duration, *seed);
            boot(&machine, &places, &session)
        }
        Command::Shell { config } => shell(&machine(config)?, &places),
        Command::Boot {
            config,
            timeout,
            no_module,
            command,
        } => {
            let machine = machine(config)?;
            let session = command_session(&machine, !no_module, *timeout, command);
            boot(&machine, &places, &session)
        }
    }
}

fn command_session(machine: &Machine, module: bool, timeout: u64, command: &[String]) -> Session {
    let module = module.then(|| machine.kernel.module());
    Session {
        name: format!("boot-{}", machine.kernel.config),
        script: guest::command_script(module.as_deref(), command),
        limit: Duration::from_secs(timeout),
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
    let clean = output::show_kernel_problems(&ended);
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
