#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: kernel-build.sh CONFIG
#
# From whatever is there to a built, patched kernel with our module: source, overlay, configuration, make. The build is
# kept in the cache, one for each configuration; build/kernel-CONFIG links to it, build/boot-CONFIG has what boots,
# build/kernel-CONFIG.log is its log.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"
# shellcheck source=scripts/kernel-version.sh
source "$TOP/scripts/kernel-version.sh"

CONFIG_NAME=${1:?which configuration: run, bench, test, kcsan, bench-noevents or bench-noring?}
LOG=$OUT/kernel-$CONFIG_NAME.log
# About how many lines a first build says: what progress is measured by until a first build has been seen.
EXPECTED=1900

# Follows the build's log until PID ends: how much is done, what is being done.
show_progress() {
    local pid=$1 expected=$2 ticks=0 every=25 line='      %s\n'
    [[ ! -t 1 ]] || { every=2 && line='\r\033[K      %s'; }
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        ticks=$((ticks + 1))
        # shellcheck disable=SC2059
        ((ticks % every)) || printf "$line" "$(progress "$expected" $((ticks / 5)))"
    done
    [[ ! -t 1 ]] || printf '\r\033[K'
}

progress() {
    printf '%s%s, %s s: %s' "$(count_done)" "${1:+ of about $1}" "$2" \
        "$(grep '^  [A-Z]' "$LOG" | tail -n 1 | tr -s ' ' | cut -c1-70)"
}

count_done() {
    grep -c '^  [A-Z]' "$LOG" || true
}

fail() {
    first_error "$LOG" >&2
    die "the kernel ($CONFIG_NAME) does not build; its first error is above, the whole log is $LOG"
}

build() {
    local expected='' started=$SECONDS
    [[ -f $BUILD/vmlinux ]] || expected=$(cat "$BUILD.expected" 2>/dev/null || echo "$EXPECTED")
    local arguments=(-C "$TREE" O="$BUILD" -j"$(nproc)" bzImage modules)
    if verbose; then
        kernel_make "${arguments[@]}" V=1 2>&1 | tee "$LOG" || fail
    else
        kernel_make "${arguments[@]}" >"$LOG" 2>&1 9>&- &
        show_progress $! "$expected"
        wait $! || fail
        [[ -z $expected ]] || count_done >"$BUILD.expected"
    fi
    note "built in $((SECONDS - started)) s, $(count_done) targets"
}

# A kernel of a later series than the project is written for has to prove that Rust's idea of its structures is C's.
check_layout() {
    "$TOP/scripts/runner.sh" layout --config "$CONFIG_NAME" || die "Linux $(kernel_version "$TREE") has structures that" \
        "Rust would get wrong (see above): give a Linux $KERNEL_SERIES tree with KSRC=/path"
}

lock_cache
load_tools
"$TOP/scripts/kernel-source.sh"
"$TOP/scripts/overlay.sh"
step 4 "kernel build ($CONFIG_NAME)"
TREE=$(<"$OUT/kernel-tree")
BUILD=$RUST_TLB_CACHE/build/$(basename "$TREE")/$CONFIG_NAME
"$TOP/scripts/kernel-config.sh" "$CONFIG_NAME" "$BUILD" "$LOG"
build
ln -sfn "$BUILD" "$OUT/kernel-$CONFIG_NAME"
# What boots is this checkout's, whoever else builds there from now on.
install -D -m 644 -t "$OUT/boot-$CONFIG_NAME" "$BUILD/arch/x86/boot/bzImage" \
    "$BUILD/samples/rust/rust_tlb/rust_tlb.ko" "$BUILD/samples/rust/rust_tlb_minimal.ko" \
    "$BUILD/include/config/kernel.release"
[[ -n ${KSRC:-} ]] || is_our_series "$TREE" || check_layout
