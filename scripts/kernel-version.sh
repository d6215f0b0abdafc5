# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced after steps.sh: which kernel this is for, and whether a tree is one.

KERNEL_SERIES=7.3

# kernel_version TREE: as `make kernelversion` says it, without running anything in the tree.
kernel_version() {
    awk -F' *= *' '
        $1 == "VERSION" { version = $2 }
        $1 == "PATCHLEVEL" { patchlevel = $2 }
        $1 == "SUBLEVEL" { sublevel = $2 }
        $1 == "EXTRAVERSION" { print version "." patchlevel "." sublevel $2; exit }' "$1/Makefile" 2>/dev/null || true
}

is_our_series() {
    [[ $(kernel_version "$1") == "$KERNEL_SERIES".* ]]
}

check_series() {
    local version
    version=$(kernel_version "$1")
    case $version in
        "$KERNEL_SERIES".*) ;;
        '') die "$1 is no kernel tree: point KSRC at the top of a Linux $KERNEL_SERIES source tree" ;;
        *) die "$1 is Linux $version, and rust-tlb is written for $KERNEL_SERIES: check out v$KERNEL_SERIES there, or" \
            "leave KSRC out to have it fetched" ;;
    esac
}
