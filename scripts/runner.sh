#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: runner.sh run|test|stress|shell|boot ...        (runner.sh --help lists them)
#
# Builds the user-space side, and starts the runner with all it has to know.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/cargo-target.sh
source "$TOP/scripts/cargo-target.sh"

load_tools
export RUSTC=$RUST_BIN/rustc RUSTDOC=$RUST_BIN/rustdoc CARGO=$RUST_BIN/cargo
export CARGO_TARGET_DIR=$OUT/cargo

build() {
    "$CARGO" build --release --locked --bins --manifest-path "$TOP/selftests/rust_tlb/Cargo.toml"
}

step 5 "user space"
quietly "$OUT/user-space.log" take_dependencies
quietly "$OUT/user-space.log" build
leave_dependencies
exec "$CARGO_TARGET_DIR/release/rust-tlb-runner" "$@"
