#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Purpose: asks questions about TLB flushes while a command runs, by bpftrace: who flushes and why, how much at a time,
# how long it takes, who waits for whom, and what the kernel says of all flushes. Each is a program of one line.
#
# Requirements: root, bpftrace (0.16 or later), tracefs, and a kernel with CONFIG_RUST_TLB_EVENTS and CONFIG_BPF_EVENTS.
#
# USAGE: bpftrace.sh list                                   prints the programs, to be copied
#        bpftrace.sh run all|NAME[,NAME]... COMMAND [ARGUMENT]...     (output beside: bpftrace.sample.txt)
#
# What the command prints goes to standard error. The events are on as long as bpftrace holds its programs: however it
# ends, SIGKILL included, they are off. If this is killed, so is the command;
# not by SIGKILL.

set -euo pipefail

# Numbers of why, owner and reason are as in include/trace/events/rust_tlb.h and tlb.h.
NAMES=(why size waited owner reason)
declare -A PROGRAMS=(
    [why]='tracepoint:rust_tlb:rust_tlb_flush_begin { @why[comm, args->policy, args->why] = count(); }'
    [size]='tracepoint:rust_tlb:rust_tlb_flush_begin { @ptes = hist(args->nr_ptes); @mms = lhist(args->nr_mms, 0, 17, 1); }'
    [waited]='tracepoint:rust_tlb:rust_tlb_flush_begin { @t[tid] = nsecs; } tracepoint:rust_tlb:rust_tlb_flush_end /@t[tid]/ { @us = hist((nsecs - @t[tid]) / 1000); delete(@t[tid]); }'
    [owner]='tracepoint:rust_tlb:rust_tlb_pending_hit { @owner[args->owner, comm] = count(); }'
    [reason]='tracepoint:tlb:tlb_flush { @reason[args->reason] = count(); }'
)

die() {
    printf 'bpftrace.sh: %s\n' "$*" >&2
    exit 1
}

list() {
    local name
    for name in "${NAMES[@]}"; do
        printf "bpftrace -e '%s'\n" "${PROGRAMS[$name]}"
    done
}

# The programs of all|NAME[,NAME]..., one after the other: together they are a program, too.
chosen() {
    local name names
    IFS=, read -ra names <<<"${1/#all/$(IFS=, && printf '%s' "${NAMES[*]}")}"
    for name in "${names[@]}"; do
        [[ -n ${PROGRAMS[$name]:-} ]] || die "there is no program '$name': all, or some of ${NAMES[*]}"
        printf '%s ' "${PROGRAMS[$name]}"
    done
}

# All of bpftrace's group goes, the command with it: again and again, since a shell that is about to become the command
# misses a signal. Ours are the folder and, if it was not there, the mount.
restore() {
    trap '' INT TERM HUP
    if [[ -n $RUNNING ]]; then
        while kill -0 "${!:-}" && kill -- "-$!"; do sleep 0.1; done 2>/dev/null
        kill -KILL -- "-${!:-}" 2>/dev/null || true
    fi
    rm -rf "$FOLDER"
    [[ -z $MOUNTED ]] || umount "$TRACEFS"
}

TRACEFS=/sys/kernel/tracing
case ${1:-} in
    list) list && exit ;;
    run) ;;
    *) die "list or run? (see the head of this file)" ;;
esac
(($# > 2)) || die "which programs, and which command? (see the head of this file)"
PROGRAM=$(chosen "$2")
shift 2
[[ $(id -u) == 0 ]] || die "only root may trace"
command -v bpftrace >/dev/null || die "there is no bpftrace (on Debian: apt-get install bpftrace)"
MOUNTED=
RUNNING=
FOLDER=$(mktemp -d)
trap restore EXIT
trap 'exit 130' INT TERM HUP
[[ -d $TRACEFS/events ]] || { mount -t tracefs nodev "$TRACEFS" && MOUNTED=1; }
[[ -d $TRACEFS/events/rust_tlb ]] || die "the kernel has no events of rust_tlb"

# bpftrace splits its command at every space, and does not say how it ended.
[[ $FOLDER != *' '* ]] || die "there is a space in $FOLDER: set TMPDIR"
{
    printf 'set --' && printf ' %q' "$@"
    # shellcheck disable=SC2016
    printf '\n"$@" >&2\necho $? >%q\n' "$FOLDER/status"
} >"$FOLDER/command"
STATUS=0
# In the background, so that a signal to this script is not put off until the command ends, and in a group of its own.
RUNNING=1
set -m
bpftrace -q -e "$PROGRAM" -c "/bin/bash $FOLDER/command" </dev/null &
set +m
wait $! || STATUS=$?
RUNNING=
[[ $STATUS != 0 ]] || STATUS=$(cat "$FOLDER/status" 2>/dev/null || echo 1)
[[ $STATUS == 0 ]] || exit "$STATUS"
