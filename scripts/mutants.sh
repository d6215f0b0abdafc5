#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: mutants.sh [TEXT]
#
# Breaks one rule after the other in a copy of this checkout, and demands that the tests which are named for it notice:
# those mutants of selftests/rust_tlb/mutants/ whose file contains TEXT, or all. What a mutant looks like is in the README
# there. Ends in `N caught, N survived`; what cannot be tried (a hunk that does not apply any more, a mutant that does not
# build, a test that does not run) fails, too, and is told before.
#
# The tests in the VM build and boot kernels in the cache, as ever; the next build of this checkout undoes it there.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

MUTANTS=$TOP/selftests/rust_tlb/mutants
COPY=$OUT/mutants/tree
LOGS=$OUT/mutants
# Seconds: a mutant may hang.
HOST_LIMIT=600
VM_LIMIT=1800

load_tools
export RUSTC=$RUST_BIN/rustc RUSTDOC=$RUST_BIN/rustdoc CARGO=$RUST_BIN/cargo

# What comes back changes its time, too, or cargo and make would not notice that it did.
restore() {
    mkdir -p "$COPY"
    rsync -rlp --checksum --delete --exclude=/build --exclude=/.git "$TOP/" "$COPY/"
    [[ -d $COPY/.git ]] || git -C "$COPY" init -q
}

field() {
    sed -n "/^---/q; s/^$1: *//p" "$2"
}

# in_copy LOG COMMAND...
in_copy() {
    local log=$1
    shift
    (cd "$COPY" && env -u RUST_TLB_LOCKED -u STEPS "$@") >"$log" 2>&1
}

# host PACKAGE [FILTER] MUTANT: 0 noticed, 1 not, 2 could not be tried.
host() {
    local log=$LOGS/$3.host.log status=0
    local command=("$CARGO" test --locked --manifest-path "$COPY/selftests/rust_tlb/Cargo.toml" --package "$1")
    export CARGO_TARGET_DIR=$COPY/build/cargo
    in_copy "$log" "${command[@]}" --no-run || return 2
    in_copy "$log" timeout "$HOST_LIMIT" "${command[@]}" --no-fail-fast -- "$2" || status=$?
    ((status != 124)) || return 0
    grep -q '^test .* \.\.\. ' "$log" || return 2
    grep -q '^test .* \.\.\. FAILED' "$log"
}

# vm SUITE [TEST] MUTANT: likewise. What the kernel's log complains about is noticed, too.
vm() {
    booted "vm $1${2:+ $2}" "$3"
}

# kunit SUITE - MUTANT: likewise.
kunit() {
    booted "kunit $1" "$3"
}

# booted TEST MUTANT: a line of tests.list, on the kernel as it is broken.
booted() {
    local log=$LOGS/$2.vm.log test=$1
    in_copy "$log" timeout "$VM_LIMIT" scripts/kernel-build.sh test || return 2
    in_copy "$log" timeout "$VM_LIMIT" env TEST="$test" scripts/runner.sh test || true
    grep -qE '^[0-9]+ passed, [0-9]+ failed, ' "$log" || return 2
    grep -qE '^  (ok|FAILED)  ' "$log" || return 2
    grep -qE '^  FAILED  ' "$log"
}

# compiler PACKAGE - MUTANT: it does not build.
compiler() {
    local log=$LOGS/$3.host.log
    export CARGO_TARGET_DIR=$COPY/build/cargo
    ! in_copy "$log" "$CARGO" build --locked --manifest-path "$COPY/selftests/rust_tlb/Cargo.toml" \
        --package "$1"
}

# Tries one mutant; prints its outcome.
try() {
    local name=$1 patch=$MUTANTS/$1.patch kind suite test outcome=caught
    restore
    if ! patch -d "$COPY" -p1 -F0 --no-backup-if-mismatch -r - -i "$patch" >"$LOGS/$name.patch.log" 2>&1; then
        echo 'does not apply'
        return
    fi
    while read -r kind suite test; do
        local status=0
        "$kind" "$suite" "$test" "$name" || status=$?
        case $status in
            0) ;;
            1) outcome="survived $kind $suite $test" && break ;;
            *) outcome="cannot be tried by $kind $suite $test" && break ;;
        esac
    done < <(field Noticed-by "$patch")
    echo "$outcome"
}

chosen() {
    grep -lFe "${1:-Rule:}" "$MUTANTS"/*.patch | sed 's|.*/||; s|\.patch$||' | sort
}

mapfile -t NAMES < <(chosen "${1:-}")
((${#NAMES[@]} > 0)) || die "no mutant contains '$1'"
for name in "${NAMES[@]}"; do
    for wanted in Rule Breaks Noticed-by; do
        [[ -n $(field "$wanted" "$MUTANTS/$name.patch") ]] || die "$name.patch does not say '$wanted:'"
    done
done
mkdir -p "$LOGS"
step 2 "${#NAMES[@]} mutants"
ROWS=() CAUGHT=0 SURVIVED=0 FAILED=0
for name in "${NAMES[@]}"; do
    started=$SECONDS
    outcome=$(try "$name")
    case $outcome in
        caught) CAUGHT=$((CAUGHT + 1)) ;;
        survived*) SURVIVED=$((SURVIVED + 1)) ;;
        *) FAILED=$((FAILED + 1)) ;;
    esac
    row=$(printf '%-10s  %-40s  %5s s  %s' "$(field Rule "$MUTANTS/$name.patch")" "$name" \
        $((SECONDS - started)) "$outcome")
    ROWS+=("$row")
    note "$row"
done
restore
printf '\n  %-10s  %-40s  %7s  %s\n' rule mutant took outcome
printf '  %s\n' "${ROWS[@]}"
((FAILED == 0)) || printf '\n%s could not be tried; their logs are in %s\n' "$FAILED" "$LOGS"
printf '\n%s caught, %s survived\n' "$CAUGHT" "$SURVIVED"
((SURVIVED + FAILED == 0))
