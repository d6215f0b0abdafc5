#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the litmus tests with herd7 and the kernel's own memory model, and compares each with the result that it names.
# The model wants herd7 7.58. Debian has that from its testing release on, so where there is none it is unpacked into the
# cache, with the C library that it was linked with; nothing is installed.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/private-apt.sh
source "$TOP/scripts/private-apt.sh"

SUITE=forky
HERD=$RUST_TLB_CACHE/tools/herdtools7
PACKAGES=(herdtools7 libc6 libgmp10)

fetch_herd() {
    local package
    APT=$RUST_TLB_CACHE/download/apt-$SUITE
    write_private_apt "$SUITE" || die "apt knows no Debian archive here, and there is no herd7"
    note "fetching ${PACKAGES[*]} from $SUITE (40 MB)"
    quietly "$OUT/litmus.log" private_apt apt-get update
    rm -rf "$HERD.unpacking"
    mkdir -p "$HERD.unpacking/packages"
    (cd "$HERD.unpacking/packages" && quietly "$OUT/litmus.log" private_apt apt-get download "${PACKAGES[@]}")
    for package in "$HERD.unpacking"/packages/*.deb; do
        dpkg-deb -x "$package" "$HERD.unpacking"
    done
    rm -rf "$HERD.unpacking/packages"
    mv "$HERD.unpacking" "$HERD"
}

herd() {
    local libraries=$HERD/usr/lib/x86_64-linux-gnu
    if [[ -d $HERD ]]; then
        "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$HERD/usr/bin/herd7" \
            -set-libdir "$HERD/usr/share/herdtools7/herd" "$@"
    else
        herd7 "$@"
    fi
}

# The result that a test names, and the one that it has.
expected() {
    sed -n 's/^ \* Result: //p' "$1" | head -n 1
}

observed() {
    (cd "$TREE/tools/memory-model" && herd -conf linux-kernel.cfg "$1" 2>>"$OUT/litmus.log") |
        tee -a "$OUT/litmus.log" | awk '/^Observation / { print $3 }'
}

step 3 "litmus tests"
lock_cache
: >"$OUT/litmus.log"
TREE=$(<"$OUT/kernel-tree")
command -v herd7 >/dev/null || [[ -d $HERD ]] || fetch_herd
failed=0
for test in "$TOP"/Documentation/litmus-tests/tlb/*.litmus; do
    result=$(observed "$test")
    if [[ -n $result && $result == "$(expected "$test")" ]]; then
        note "ok      $(basename "$test" .litmus): $result"
    else
        note "FAILED  $(basename "$test" .litmus): ${result:-no result}, and not $(expected "$test")"
        failed=1
    fi
done
exit $failed
