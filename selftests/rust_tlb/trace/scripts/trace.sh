#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Purpose: records what TLB flushes are made of while a command runs: the events of rust_tlb, and the kernel's own of
# flushes, inter-processor interrupts and the functions that they call. Prints them as text, for rust-tlb-trace.
#
# Requirements: root, tracefs, and a kernel with CONFIG_FTRACE and CONFIG_RUST_TLB_EVENTS. (6.5 or later: the csd events tell
# which interrupt was for whom.) Nothing else, trace-cmd neither.
#
# USAGE: trace.sh [--switched] COMMAND [ARGUMENT]...  >trace.txt       (output beside: trace.sample.txt)
#
#   --switched  the command says when to record: it writes 1 and 0 to tracing_on in the folder that RUST_TLB_RECORDER
#               names (ftrace:FOLDER), as rust-tlb-demo does
#
# What the command prints goes to standard error. All of it happens in a tracing instance of its own, which is removed
# however this ends: nobody else's tracing is touched. Only SIGKILL leaves it behind; then rmdir does the same.

set -euo pipefail

TRACEFS=/sys/kernel/tracing
EVENTS=(rust_tlb tlb/tlb_flush ipi/ipi_send_cpu ipi/ipi_send_cpumask csd
    irq_vectors/call_function_entry irq_vectors/call_function_exit
    irq_vectors/call_function_single_entry irq_vectors/call_function_single_exit)
BUFFER_KB=8192

die() {
    printf 'trace.sh: %s\n' "$*" >&2
    exit 1
}

# Removing an instance switches its events off. The command may still write to its files, so it goes first, with all of
# its group: again and again, since a shell that is about to become the command misses a signal.
restore() {
    trap '' INT TERM HUP
    if [[ -n $RUNNING ]]; then
        while kill -0 "${!:-}" && kill -- "-$!"; do sleep 0.1; done 2>/dev/null
        kill -KILL -- "-${!:-}" 2>/dev/null || true
    fi
    if [[ -d $INSTANCE ]]; then
        echo 0 >"$INSTANCE/tracing_on" || true
        rmdir "$INSTANCE"
    fi
    [[ -z $MOUNTED ]] || umount "$TRACEFS"
}

prepare() {
    local event
    echo 0 >"$INSTANCE/tracing_on"
    echo "$BUFFER_KB" >"$INSTANCE/buffer_size_kb"
    # One clock for all CPUs.
    echo mono >"$INSTANCE/trace_clock"
    for event in "${EVENTS[@]}"; do
        echo 1 >"$INSTANCE/events/$event/enable" || die "the kernel has no event $event"
    done
}

SWITCHED=
[[ ${1:-} != --switched ]] || { SWITCHED=1 && shift; }
(($#)) || die "which command? (see the head of this file)"
[[ $(id -u) == 0 ]] || die "only root may trace"
MOUNTED=
RUNNING=
INSTANCE=$TRACEFS/instances/rust-tlb-$$
trap restore EXIT
trap 'exit 130' INT TERM HUP
[[ -d $TRACEFS/events ]] || { mount -t tracefs nodev "$TRACEFS" && MOUNTED=1; }
[[ -d $TRACEFS/events/rust_tlb ]] || die "the kernel has no events of rust_tlb"

mkdir "$INSTANCE"
prepare
[[ -n $SWITCHED ]] || echo 1 >"$INSTANCE/tracing_on"
STATUS=0
# In the background, so that a signal to this script is not put off until the command ends, and in a group of its own.
RUNNING=1
set -m
RUST_TLB_RECORDER=ftrace:$INSTANCE "$@" </dev/null >&2 &
set +m
wait $! || STATUS=$?
RUNNING=
echo 0 >"$INSTANCE/tracing_on"
cat "$INSTANCE/trace"
grep -H '^overrun: *[1-9]' "$INSTANCE"/per_cpu/cpu*/stats >&2 && printf 'trace.sh: events were lost\n' >&2
[[ $STATUS == 0 ]] || exit "$STATUS"
