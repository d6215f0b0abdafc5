#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Visits all states of the machine in selftests/rust_tlb/kernel/src/explorer/, in larger scenarios than the tests do, and
# shows what each control's search found. What it said stays in build/model.log.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/cargo-target.sh
source "$TOP/scripts/cargo-target.sh"

load_tools
export RUSTC=$RUST_BIN/rustc CARGO=$RUST_BIN/cargo
export CARGO_TARGET_DIR=$OUT/cargo

# How much larger: 1 takes minutes, and a gigabyte or two.
export MODEL_MORE=${MODEL_MORE:-1}

# What the machine says, without what libtest puts around it.
said() {
    sed -E 's/^test .* \.\.\. //; /^ok$/d; /^running /d; /^ +(Compiling|Finished|Running) /d'
}

take_dependencies
step 2 "all states of the machine: minutes"
(cd "$TOP/selftests/rust_tlb" && "$CARGO" test --release --locked --package kernel --lib explorer:: -- \
    --no-capture --test-threads 1) 2>&1 | tee "$OUT/model.log" | said
