// SPDX-License-Identifier: GPL-2.0

//! The selftests: one suite of them in each run, so that one that hangs does not keep the others.

use std::process::ExitCode;

use rust_tlb_guest::{ktap, suite};

fn main() -> ExitCode {
    ktap::main(suite::ALL)
}
