#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: peers.sh
#
# The kernel's own tests of mm (tools/testing/selftests/mm), each program in the folder EXTRA (LTP's tests of mremap,
# will-it-scale's: whatever ends by itself), and stress-ng's, if that is installed: on a kernel without CONFIG_RUST_TLB;
# on ours with everything off that changes what others do; and with all of that on: every process has a ring of flushes,
# and mremap has runs. All three have to say the same. Prints them in columns; what was said is in build/peers/.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"
# shellcheck source=scripts/cargo-target.sh
source "$TOP/scripts/cargo-target.sh"

SAID=$OUT/peers
EXTRA=${EXTRA:+$(realpath "$EXTRA")}
# Each with its arguments. What needs a library that is not here is not built, and is named.
TESTS=(mremap_test mremap_dontunmap madv_populate guard-regions process_madv cow migration rmap merge
    "gup_test -ct" "gup_test -u" "gup_test -a" uffd-unit-tests "transhuge-stress -d 10 64")
# On our device, mapped by number: in two columns only.
ON_DEVICE="pfnmap -- /dev/rust-tlb"
STRESSORS=(tlb-shootdown mremap mmapfork)
COLUMNS=(without off on)
# Seconds for each test.
LIMIT=240
# Two nodes, so that there is somewhere to migrate to.
CONFIG=bench-peers
ARGUMENTS=(--kernel-argument numa=fake=2)

build_tests() {
    local programs
    mapfile -t programs < <(printf '%s\n' "${TESTS[@]%% *}" "${ON_DEVICE%% *}" | sort -u)
    quietly "$OUT/peers.log" kernel_make -C "$TREE" O="$BUILD" headers
    make -k -C "$TREE/tools/testing/selftests/mm" OUTPUT="$SAID/bin" KHDR_INCLUDES="-isystem $BUILD/usr/include" \
        "${programs[@]/#/$SAID/bin/}" >>"$OUT/peers.log" 2>&1 || true
}

# one_test NAME COMMAND: what is said between the two lines is what the test says.
one_test() {
    printf 'echo %q; timeout %s %s 2>&1; echo "<<< $?"\n' ">>> $1" "$LIMIT" "$2"
}

# What a machine does.
write_script() {
    local test
    {
        # LTP has limits of its own, for real machines.
        echo 'cd /tmp; export LTP_TIMEOUT_MUL=20 TMPDIR=/tmp LTPROOT=/tmp'
        echo 'mkswap /dev/ram0 >/dev/null && swapon /dev/ram0; echo 16 >/proc/sys/vm/nr_hugepages'
        for test in "${TESTS[@]}"; do
            [[ ! -x $SAID/bin/${test%% *} ]] || one_test "$test" "$SAID/bin/$test"
        done
        [[ -z $EXTRA ]] || for test in "$EXTRA"/*; do
            [[ ! -f $test || ! -x $test ]] || one_test "${test##*/}" "$test"
        done
        ! type -P stress-ng >/dev/null || for test in "${STRESSORS[@]}"; do
            one_test "stress-ng $test" "stress-ng --$test 2 --timeout 10 --temp-path /tmp"
        done
        printf '[ ! -e %s ] || {\nrmmod rust_tlb; insmod %q setup=1\n' "${ON_DEVICE##* }" "$OUT/boot-$CONFIG/rust_tlb.ko"
        one_test "$ON_DEVICE" "$SAID/bin/$ON_DEVICE"
        printf '}\necho "=== counts"; cat /sys/kernel/debug/tlb_flush_ring/counts 2>/dev/null; true\n'
    } >"$SAID/run"
}

without_option() {
    "$TREE/scripts/config" --file "$BUILD/.config" --disable RUST_TLB
    quietly "$OUT/kernel-config.log" kernel_make -C "$TREE" O="$BUILD" olddefconfig
    rm -f "$BUILD/.rust-tlb-config"
}

build_without() {
    local log=$OUT/kernel-without.log
    "$TOP/scripts/kernel-config.sh" "$CONFIG" "$BUILD" "$log"
    without_option
    quietly "$log" kernel_make -C "$TREE" O="$BUILD" -j"$(nproc)" bzImage ||
        { first_error "$log" >&2 && die "the kernel without the option does not build"; }
    ln -sfn "$BUILD" "$OUT/kernel-without"
    install -D -m 644 -t "$OUT/boot-without" "$BUILD/arch/x86/boot/bzImage" "$BUILD/include/config/kernel.release"
}

# boot COLUMN CONFIG COMMAND: the switches are those of COMMAND.
boot() {
    local module=()
    [[ $2 != without ]] || module=(--no-module)
    "$RUNNER" boot --config "$2" "${module[@]}" "${ARGUMENTS[@]}" --timeout 2400 -- sh -c "$3; sh $SAID/run" >"$SAID/$1.log" 2>&1 ||
        note "$1: ended with $?"
}

# What each test said, a line each, without numbers that differ from run to run.
results() {
    awk 'function say(what, line) { gsub(/0x[0-9a-f]+|[0-9]+/, "N", line); print name ": " what " " line }
        /^>>> / { name = substr($0, 5); next }
        /^<<< / { print name ": exit " $2; next }
        name == "" { next }
        match($0, /T(PASS|FAIL|BROK|CONF) *: /) {
            say(/T(FAIL|BROK) *: / ? "not" : /TCONF *: / ? "skipped" : "ok", substr($0, RSTART)); next
        }
        /^ *(not )?ok [0-9]+/ {
            line = $0; sub(/^ */, "", line); not = sub(/^not /, "", line); sub(/^ok [0-9]+ *-? */, "", line)
            say(not ? "not" : /# SKIP/ ? "skipped" : "ok", line)
        }' "$1" | sort
}

table() {
    local test column
    printf '\n%-28s' test
    printf '%40s' "${COLUMNS[@]}"
    printf '\n'
    while read -r test; do
        printf '%-28s' "$test"
        for column in "${COLUMNS[@]}"; do
            awk -v test="$test: " 'index($0, test) == 1 { n[$(split(test, words, " ") + 1)]++ }
                index($0, test "exit ") == 1 { code = $NF }
                END { printf "%40s", code == "" ? "-" : n["ok"] + 0 " ok, " n["not"] + 0 " not, " n["skipped"] + 0 \
                    " skipped, exit " code }' "$SAID/$column"
        done
        printf '\n'
    done < <(sed 's/: .*//' "$SAID/off" | sort -u)
    for test in "${TESTS[@]}" "$ON_DEVICE"; do
        [[ -x $SAID/bin/${test%% *} ]] || echo "${test%% *}: not built here (build/peers.log)"
    done
}

lock_cache
load_tools
"$TOP/scripts/kernel-build.sh" "$CONFIG"
TREE=$(<"$OUT/kernel-tree")
BUILD=$RUST_TLB_CACHE/build/$(basename "$TREE")/without
export RUSTC=$RUST_BIN/rustc RUSTDOC=$RUST_BIN/rustdoc CARGO=$RUST_BIN/cargo
export CARGO_TARGET_DIR=$OUT/cargo
RUNNER=$CARGO_TARGET_DIR/release/rust-tlb-runner
mkdir -p "$SAID/bin"
quietly "$OUT/user-space.log" take_dependencies
quietly "$OUT/user-space.log" "$CARGO" build --release --locked --bins \
    --manifest-path "$TOP/selftests/rust_tlb/Cargo.toml"
step 5 "the kernel without the option"
build_without
build_tests
write_script
step 6 "the tests, three times"
boot without without true
boot off "$CONFIG" 'echo 1 >/sys/kernel/debug/mremap/run_max'
boot on "$CONFIG" 'echo 1 >/sys/kernel/debug/tlb_flush_ring/for_all'
for column in "${COLUMNS[@]}"; do
    results "$SAID/$column.log" >"$SAID/$column"
done
table
for column in off on; do
    diff <(grep -vF "$ON_DEVICE" "$SAID/without") <(grep -vF "$ON_DEVICE" "$SAID/$column") ||
        die "with everything $column, the kernel's tests say something else"
done
grep -q '^asked_exact [1-9]' "$SAID/on.log" || die "no ring answered exactly: a run that is all doubt proves nothing"
note "the same in all of them; with everything on, the rings answered so:"
sed -n '/^=== counts/,$p' "$SAID/on.log" | grep '^[a-z_]* [0-9]'
