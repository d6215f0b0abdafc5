// SPDX-License-Identifier: GPL-2.0

//! The suite `gather`: see the module of that name.

use std::process::ExitCode;

use rust_tlb_guest::{ktap, suite};

fn main() -> ExitCode {
    ktap::main(suite::gather::TESTS)
}
