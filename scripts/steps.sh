# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced by every script here: where things are kept, how steps are told, one user at a time.
#
# Everything that is fetched or built for longer than a minute is in $RUST_TLB_CACHE, outside the checkout; what a
# user reads (logs, results) is in $OUT.

set -euo pipefail

# The values in a user's MAKEFLAGS are ours (CONFIG=, KSRC=), and mean something else to the kernel's make.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES ARCH CROSS_COMPILE O M

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${RUST_TLB_OUT:-$TOP/build}
RUST_TLB_CACHE=${RUST_TLB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rust-tlb}
TOOLS=$RUST_TLB_CACHE/tools
TOOLS_ENV=$TOOLS/env.sh
# When each step began: the runner's are in it as well.
TIMES=$OUT/steps.times
export TOP OUT RUST_TLB_CACHE

mkdir -p "$OUT" "$TOOLS"

# step NUMBER TEXT: tells which step begins. The number of steps comes from the Makefile.
step() {
    printf '[%s/%s] %s\n' "$1" "${STEPS:-$1}" "$2"
    printf '%s\t%s\n' "$EPOCHSECONDS" "$2" >>"$TIMES"
}

begin_times() {
    : >"$TIMES"
}

# Shows how long each step took, the last one until now.
show_times() {
    printf '%s\n' "$EPOCHSECONDS" | cat "$TIMES" - | awk -F'\t' '
        function took(seconds) { return sprintf("%4d:%02d", seconds / 60, seconds % 60) }
        NR == 1 { printf "\nHow long it took (minutes:seconds):\n"; first = $1 }
        NR > 1 { print "  " took($1 - began) "  " what }
        { began = $1; what = $2 }
        END { print "  " took(began - first) "  in all" }'
}

note() {
    printf '      %s\n' "$*"
}

verbose() {
    [[ ${V:-0} != 0 ]]
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Waits until no other make of ours uses the cache, and keeps others out until this script ends. Scripts that a
# holder starts are let in.
lock_cache() {
    [[ ${RUST_TLB_LOCKED:-} != "$RUST_TLB_CACHE" ]] || return 0
    exec 9>"$RUST_TLB_CACHE/lock"
    if ! flock -n 9; then
        note "waiting: another make uses $RUST_TLB_CACHE"
        flock 9
    fi
    export RUST_TLB_LOCKED=$RUST_TLB_CACHE
}

# install_if_changed FROM TO: TO keeps its time stamp if its contents are the same, so that nothing is rebuilt. Fails if
# they are; if it cannot be done, that is the end, for in a condition `set -e` is ignored.
install_if_changed() {
    if [[ -L $1 ]]; then
        [[ -L $2 && $(readlink "$1") == "$(readlink "$2")" ]] && return 1
    else
        [[ ! -L $2 && -f $2 ]] && cmp -s "$1" "$2" && return 1
    fi
    { mkdir -p "$(dirname "$2")" && rm -f "$2" && cp -P "$1" "$2" && { [[ -L $2 ]] || touch "$2"; }; } ||
        die "cannot write $2"
}

# quietly LOG COMMAND...: the command's output goes to LOG (and to the terminal with V=1); its end is shown on failure.
quietly() {
    local log=$1
    shift
    mkdir -p "$(dirname "$log")"
    if verbose; then
        "$@" 2>&1 | tee "$log"
        return
    fi
    "$@" >"$log" 2>&1 9>&- &
    local pid=$! seconds=0
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        seconds=$((seconds + 1))
        ((seconds % 40)) || note "… $((seconds / 5)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
    done
    if ! wait "$pid"; then
        tail -n 15 "$log" >&2
        die "$1 failed; the whole log is $log"
    fi
}

# load_tools: the toolchain that tools.sh found.
load_tools() {
    [[ -f $TOOLS_ENV ]] || "$TOP/scripts/tools.sh"
    # shellcheck source=/dev/null
    source "$TOOLS_ENV"
}
