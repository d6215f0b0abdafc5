// SPDX-License-Identifier: GPL-2.0

//! Stress: see the module of that name. Ends with 0 if nothing was found.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use rust_tlb_guest::cpu;
use rust_tlb_guest::stress::{self, supervisor, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => {
            println!("# nothing was found");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("# FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let limit = options.duration + supervisor::GRACE_S;
    // SAFETY: Sets a timer, whose signal ends this process, and with it all others: whatever hangs.
    unsafe { libc::alarm(limit.try_into()?) };
    cpu::pin_driver()?;
    stress::run(options)?.expect_silence()
}
