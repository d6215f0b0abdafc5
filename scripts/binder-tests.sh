#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: binder-tests.sh
#
# The kernel's own tests of Binder, with our patch and without: they have to say the same. binderfs_test runs on the
# driver in Rust, with the patch also where CONFIG_RUST_TLB is off; KUnit's tests of the allocator are of the driver in
# C, which our patch leaves alone, and run with CONFIG_RUST_TLB and without. What they said is in build/binder-tests/.
#
# All kernels are built in one folder of the cache, one after the other. For the driver without our patch, its files in
# the tree are those of the kernel for a while.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"
# shellcheck source=scripts/cargo-target.sh
source "$TOP/scripts/cargo-target.sh"

SAID=$OUT/binder-tests
TEST=$SAID/binderfs_test
DRIVER=drivers/android/binder
# KUnit's tests of the allocator.
SUITE=binder_alloc

build_test() {
    local folder=$TREE/tools/testing/selftests
    cc -O2 -pthread -I"$folder" -I"$TREE/tools/include" \
        -o "$TEST" "$folder/filesystems/binderfs/binderfs_test.c"
}

# build NAME CONFIG: build/kernel-NAME and build/boot-NAME, as kernel-build.sh leaves them; with CONFIG_RUST_TLB off if
# the name ends so.
build() {
    local name=$1 log=$OUT/kernel-$1.log
    "$TOP/scripts/kernel-config.sh" "$2" "$BUILD" "$log"
    [[ $name != *-off ]] || without_option
    quietly "$log" kernel_make -C "$TREE" O="$BUILD" -j"$(nproc)" bzImage ||
        { first_error "$log" >&2 && die "the kernel ($name) does not build"; }
    ln -sfn "$BUILD" "$OUT/kernel-$name"
    install -D -m 644 -t "$OUT/boot-$name" "$BUILD/arch/x86/boot/bzImage" "$BUILD/include/config/kernel.release"
}

without_option() {
    "$TREE/scripts/config" --file "$BUILD/.config" --disable RUST_TLB
    quietly "$OUT/kernel-config.log" kernel_make -C "$TREE" O="$BUILD" olddefconfig
    ! grep -q '^CONFIG_RUST_TLB=' "$BUILD/.config" || die "CONFIG_RUST_TLB does not go off"
    # It is not what kernel-config.sh made any more.
    rm -f "$BUILD/.rust-tlb-config"
}

# The driver's files as they are in the kernel.
without_patch() {
    local path
    for path in "$TREE/.rust-tlb/original/$DRIVER"/{page_range,rust_binder_main}.rs; do
        install_if_changed "$path" "$TREE/$DRIVER/$(basename "$path")" || true
    done
}

# 7.3 names the folder of KUnit's tests among the driver's objects, where only objects can be: ar ends in an error.
mend_tests() {
    sed -i 's/^binder_linux-\(.*KUNIT_TEST)\)/obj-\1/' "$TREE/drivers/android/Makefile"
}

unmend_tests() {
    sed -i 's/^obj-\(.*ALLOC_KUNIT_TEST)\)/binder_linux-\1/' "$TREE/drivers/android/Makefile"
}

with_patch() {
    "$TOP/scripts/overlay.sh" >/dev/null
}

# boot NAME COMMAND...: what it says goes to build/binder-tests/NAME.log, the kernel's log to build/boot-NAME.log.
boot() {
    local name=$1
    shift
    "$RUNNER" boot --config "$name" --no-module "$@" >"$SAID/$name.log" 2>&1 || true
}

# The results in a log: lines of TAP, without their numbers, which others before them make.
results() {
    sed -n 's/.*\bnot ok [0-9]* /not ok /p; t; s/.*\bok [0-9]* /ok /p' "$1" | grep "$2"
}

# The tests' exit may come before their address space has gone, which stops the machine (BUG_ON(alloc->mapped) in
# binder_alloc_deferred_release()), with the option and without: another turn, then.
boot_kunit() {
    local _try
    for _try in 1 2 3; do
        boot "$1" true
        ! grep -q 'kernel BUG at drivers/android' "$OUT/boot-$1.log" || continue
        return
    done
    die "$1 stops in the exit of KUnit's tests, three times"
}

# compare WHAT PATTERN LOG-WITH LOG-WITHOUT
compare() {
    results "$3" "$2" >"$SAID/$1-with" || die "nothing was said of $1: $3"
    results "$4" "$2" >"$SAID/$1-without" || die "nothing was said of $1: $4"
    cat "$SAID/$1-with"
    diff "$SAID/$1-without" "$SAID/$1-with" || die "$1 says something else with the patch than without it"
    ! grep -q '^not ok' "$SAID/$1-with" || die "$1 fails, with the patch and without it"
    note "$1: the same with it and without"
}

lock_cache
load_tools
"$TOP/scripts/kernel-source.sh"
"$TOP/scripts/overlay.sh"
TREE=$(<"$OUT/kernel-tree")
BUILD=$RUST_TLB_CACHE/build/$(basename "$TREE")/bench-binder
export RUSTC=$RUST_BIN/rustc RUSTDOC=$RUST_BIN/rustdoc CARGO=$RUST_BIN/cargo
export CARGO_TARGET_DIR=$OUT/cargo
RUNNER=$CARGO_TARGET_DIR/release/rust-tlb-runner
mkdir -p "$SAID"
build_test
quietly "$OUT/user-space.log" take_dependencies
quietly "$OUT/user-space.log" "$CARGO" build --release --locked --bins \
    --manifest-path "$TOP/selftests/rust_tlb/Cargo.toml"

step 4 "binderfs_test, on the driver in Rust"
trap 'with_patch; unmend_tests' EXIT
build binder-with bench-binder
boot binder-with "$TEST"
without_patch
build binder-without bench-binder
boot binder-without "$TEST"
with_patch
compare binderfs_test 'binderfs' "$SAID/binder-with.log" "$SAID/binder-without.log"

step 5 "KUnit, on the driver in C"
mend_tests
build binder-c-with bench-binder-c
boot_kunit binder-c-with
build binder-c-off bench-binder-c
boot_kunit binder-c-off
compare "$SUITE" "$SUITE" "$OUT/boot-binder-c-with.log" "$OUT/boot-binder-c-off.log"

# Here, since the option is off already: most of the kernel is as it was.
step 6 "binderfs_test, on the driver in Rust with the patch, without CONFIG_RUST_TLB"
build binder-off bench-binder
boot binder-off "$TEST"
compare binderfs_test 'binderfs' "$SAID/binder-off.log" "$SAID/binder-without.log"
