#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Purpose: counts (stat) or records (record) with perf what TLB flushes are made of while a command runs: the events of
# rust_tlb, and the kernel's own of flushes, inter-processor interrupts and the functions that they call. stat prints
# perf's table, and record what `perf script` says, for rust-tlb-trace.
#
# Requirements: root, perf, tracefs, and a kernel with CONFIG_PERF_EVENTS and CONFIG_RUST_TLB_EVENTS (6.5 or later).
#
# USAGE: perf.sh stat|record [--switched] COMMAND [ARGUMENT]...  >perf.txt
#        (output beside: perf-stat.sample.txt, perf-record.sample.txt)
#
#   --switched  the command says when to count or record: it writes enable and disable to the first of the FIFOs that
#               RUST_TLB_RECORDER names (perf:CONTROL,ACK) and reads perf's answer from the second, as rust-tlb-demo
#
# What the command prints goes to standard error. perf switches its events off however it ends, and the FIFOs and the
# data are in a folder that is removed. If this is killed, so is the command; not by SIGKILL.

set -euo pipefail

TRACEFS=/sys/kernel/tracing
EVENTS='rust_tlb:*,tlb:tlb_flush,ipi:ipi_send_cpu,ipi:ipi_send_cpumask,csd:*'
EVENTS+=,irq_vectors:call_function_entry,irq_vectors:call_function_exit
EVENTS+=,irq_vectors:call_function_single_entry,irq_vectors:call_function_single_exit
# Counted only. A virtual machine may have none of them.
COUNTED=context-switches,instructions,dTLB-load-misses,iTLB-load-misses

die() {
    printf 'perf.sh: %s\n' "$*" >&2
    exit 1
}

# perf has its events off when it ends, but perf stat does not end its command: all of the group goes. Again and again,
# since a shell that is about to become the command misses a signal. Ours are the folder and, if it was not there, the
# mount.
restore() {
    trap '' INT TERM HUP
    if [[ -n $RUNNING ]]; then
        while kill -0 "${!:-}" && kill -- "-$!"; do sleep 0.1; done 2>/dev/null
        kill -KILL -- "-${!:-}" 2>/dev/null || true
    fi
    rm -rf "$FOLDER"
    [[ -z $MOUNTED ]] || umount "$TRACEFS"
}

# In the background, so that a signal to this script is not put off until perf ends, and in a group of its own.
run_perf() {
    RUNNING=1
    set -m
    perf "$@" </dev/null >&2 &
    set +m
    wait $! || STATUS=$?
    RUNNING=
}

perf_stat() {
    run_perf stat -a -o "$FOLDER/stat" -e "$EVENTS,$COUNTED" "${CONTROL[@]}" -- "$@"
    cat "$FOLDER/stat"
}

perf_record() {
    # No build-ids: nothing here has a symbol.
    run_perf record -q -a -B -N -k CLOCK_MONOTONIC -o "$FOLDER/data" -e "$EVENTS" "${CONTROL[@]}" -- "$@"
    # Nanoseconds: flushes are short.
    perf script -i "$FOLDER/data" --ns -F comm,tid,cpu,time,event,trace 2>"$FOLDER/errors"
    grep -qi lost "$FOLDER/errors" && printf 'perf.sh: events were lost\n' >&2
    return 0
}

MODE=${1:-}
[[ $MODE == stat || $MODE == record ]] || die "stat or record? (see the head of this file)"
shift
SWITCHED=
[[ ${1:-} != --switched ]] || { SWITCHED=1 && shift; }
(($#)) || die "which command?"
[[ $(id -u) == 0 ]] || die "only root may trace"
command -v perf >/dev/null || die "there is no perf (on Debian: apt-get install linux-perf)"
MOUNTED=
RUNNING=
FOLDER=$(mktemp -d)
trap restore EXIT
trap 'exit 130' INT TERM HUP
[[ -d $TRACEFS/events ]] || { mount -t tracefs nodev "$TRACEFS" && MOUNTED=1; }
[[ -d $TRACEFS/events/rust_tlb ]] || die "the kernel has no events of rust_tlb"

CONTROL=()
if [[ -n $SWITCHED ]]; then
    mkfifo "$FOLDER/control" "$FOLDER/ack"
    CONTROL=(-D -1 "--control=fifo:$FOLDER/control,$FOLDER/ack")
    export RUST_TLB_RECORDER=perf:$FOLDER/control,$FOLDER/ack
fi
STATUS=0
"perf_$MODE" "$@"
[[ $STATUS == 0 ]] || exit "$STATUS"
