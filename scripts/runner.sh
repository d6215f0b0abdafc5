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

# The main job is to be there soon: without what measures, and what tests.
is_small_build() {
    case ${1:-} in run | boot | shell | layout) ;; *) return 1 ;; esac
}

# shellcheck disable=SC2317 # quietly calls it
build() {
    local what=(--bins)
    ! is_small_build "$@" || what=(-p rust-tlb-runner -p rust-tlb-guest --no-default-features
        --bin rust-tlb-runner --bin rust-tlb-init --bin rust-tlb-demo)
    "$CARGO" build --release --locked "${what[@]}" --manifest-path "$TOP/selftests/rust_tlb/Cargo.toml"
}

step 5 "user space"
quietly "$OUT/user-space.log" take_dependencies
quietly "$OUT/user-space.log" build "$@"
is_small_build "$@" || leave_dependencies
# What is said, on the terminal too where it is a run of tests: its last line, how many passed, has to be the last.
run() {
    if [[ ${1:-} == test ]]; then
        "$CARGO_TARGET_DIR/release/rust-tlb-runner" "$@" | tee "$OUT/said.log"
    else
        "$CARGO_TARGET_DIR/release/rust-tlb-runner" "$@"
    fi
}

status=0
run "$@" || status=$?
show_times
[[ ${1:-} != test ]] || { echo && tail -n 1 "$OUT/said.log"; }
exit $status
