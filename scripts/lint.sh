#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Formatting, lints and style, of what is ours: the kernel's own tools and settings for what goes into the kernel, cargo's
# for user space, shellcheck for these scripts. Goes through all of them before it fails.
#
# The kernel side is looked at in the patched tree, and built in a folder of its own: clippy stands in for rustc there,
# which would have everything rebuilt if it were the test kernel's folder.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"

LOG=$OUT/lint.log
FAILED=()

failed() {
    FAILED+=("$1")
}

# The overlay's files that match, as paths in the kernel tree.
ours() {
    grep -E "$1" "$TREE/.rust-tlb/manifest"
}

format() {
    local rust_files
    mapfile -t rust_files < <(ours '^(drivers|rust|samples)/.*\.rs$')
    (cd "$TREE" && "$RUST_BIN/rustfmt" --check "${rust_files[@]}") || failed "rustfmt, kernel side"
    cargo_command fmt --check || failed "rustfmt, user space"
}

# cargo looks for its subcommands in the user's home first, where those of another toolchain may be.
cargo_command() {
    (cd "$TOP/selftests/rust_tlb" && PATH=$RUST_BIN:$PATH RUSTFMT=$RUST_BIN/rustfmt RUSTC=$RUST_BIN/rustc \
        CARGO_TARGET_DIR=$OUT/cargo "$RUST_BIN/cargo-$1" "$@")
}

clippy_user_space() {
    cargo_command clippy --workspace --all-targets --locked --quiet -- -D warnings || failed "clippy, user space"
}

# Warnings in files of the overlay. What the rest of the kernel says is not ours to mend.
our_warnings() {
    awk -v manifest="$TREE/.rust-tlb/manifest" '
        BEGIN { while ((getline path <manifest) > 0) own[path] = 1 }
        /^(warning|error)/ { message = $0; next }
        message != "" && / --> / { path = $2; sub(/:.*/, "", path); sub("^" tree "/", "", path)
            if (path in own) { print message; print; lines = 12; any = 1 }
            message = ""; next }
        /^$/ { lines = 0 }
        lines-- > 0 { print }
        END { exit any }' tree="$TREE" "$1"
}

# kernel_lint NAME TARGET...
kernel_lint() {
    local name=$1
    shift
    quietly "$LOG" kernel_make -C "$TREE" O="$BUILD" -j"$(nproc)" CLIPPY=1 "$@"
    our_warnings "$LOG" || failed "$name, kernel side"
}

# Our files as such, and our patches. They have no sender yet, and MAINTAINERS is for the series.
check_patch() {
    local files
    mapfile -t files < <(ours '^(arch|drivers|mm|include|rust|samples)/' | grep -vxF -f <(patched_files))
    local checkpatch=("$TREE/scripts/checkpatch.pl" --root="$TREE" --quiet --no-summary --terse --show-types
        --ignore MISSING_SIGN_OFF --ignore FILE_PATH_CHANGES)
    (cd "$TREE" && "${checkpatch[@]}" --file "${files[@]}") || failed "checkpatch, new files"
    "${checkpatch[@]}" "$TOP"/patches/*.patch || failed "checkpatch, patches"
}

patched_files() {
    sed -n 's|^+++ [^/]*/\([^\t]*\).*|\1|p' "$TOP"/patches/*.patch
}

load_tools
lock_cache
"$TOP/scripts/kernel-source.sh"
"$TOP/scripts/overlay.sh"
TREE=$(<"$OUT/kernel-tree")
BUILD=$RUST_TLB_CACHE/build/$(basename "$TREE")/lint
"$TOP/scripts/kernel-config.sh" test "$BUILD" "$LOG"

step 4 "rustfmt"
format
step 5 "shellcheck"
(cd "$TOP" && shellcheck -x scripts/*.sh selftests/rust_tlb/trace/scripts/*.sh .ci/run) || failed "shellcheck"
step 6 "checkpatch"
check_patch
step 7 "clippy"
clippy_user_space
# A lint that was reported once is not reported again by a build that has nothing to do.
rm -f "$BUILD/rust/kernel.o" "$BUILD"/samples/rust/rust_tlb/*.o "$BUILD"/drivers/android/binder/*.o
kernel_lint clippy samples/rust/rust_tlb/ drivers/android/binder/
step 8 "rustdoc"
kernel_lint rustdoc rustdoc

((${#FAILED[@]} == 0)) || die "not clean: $(printf '%s; ' "${FAILED[@]}")"
note "clean"
