#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Puts a Linux 7.3 source tree into the cache, for the overlay to go onto: Debian's, or a copy of the user's (KSRC=).
# Writes its path to build/kernel-tree. A user's tree is only read.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-version.sh
source "$TOP/scripts/kernel-version.sh"
# shellcheck source=scripts/private-apt.sh
source "$TOP/scripts/private-apt.sh"
# shellcheck source=scripts/kernel-package.sh
source "$TOP/scripts/kernel-package.sh"

SUITE=trixie-backports
LOG=$OUT/kernel-source.log
OTHERWISE="give a Linux $KERNEL_SERIES tree with KSRC=/path"

# Sets PACKAGE and VERSION.
choose_package() {
    APT=$RUST_TLB_CACHE/download/apt
    write_private_apt "$SUITE" || die "apt knows no Debian archive here: $OTHERWISE"
    note "reading the package list of $SUITE"
    quietly "$LOG" private_apt apt-get update
    SERIES=$(choose_series)
    [[ -n $SERIES ]] || die "$SUITE no longer has linux-source-$KERNEL_SERIES, nor a later one: $OTHERWISE"
    PACKAGE=linux-source-$SERIES
    VERSION=$(choose_version "$PACKAGE")
    [[ $VERSION == "$PINNED" ]] || note "linux-source-$KERNEL_SERIES $PINNED is gone from the archive, taking $SERIES ($VERSION)"
}

download() {
    note "fetching $PACKAGE $VERSION (160 MB)"
    (cd "$RUST_TLB_CACHE/download" && quietly "$LOG" private_apt apt-get download "$PACKAGE=$VERSION")
}

package_file() {
    local file
    for file in "$RUST_TLB_CACHE/download/${PACKAGE}_$PINNED"_*.deb "$RUST_TLB_CACHE/download/$PACKAGE"_*.deb; do
        [[ ! -f $file ]] || { printf '%s\n' "$file" && return; }
    done
}

unpack() {
    note "unpacking $(basename "$1")"
    rm -rf "$TREE.unpacking"
    mkdir -p "$TREE.unpacking"
    dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$PACKAGE.tar.xz" | xz -dc -T0 |
        tar -x --strip-components=1 -C "$TREE.unpacking"
    if is_our_series "$TREE.unpacking"; then
        check_series "$TREE.unpacking"
    else
        "$TOP/scripts/overlay.sh" --try "$TREE.unpacking" ||
            die "$SUITE no longer has linux-source-$KERNEL_SERIES, and not every hunk applies to $SERIES: $OTHERWISE"
        note "every hunk applies exactly to $SERIES; it is built, and then the layout of its bindings is checked"
    fi
    mv "$TREE.unpacking" "$TREE"
}

# The newest tree that is there already, ours before any other.
unpacked_tree() {
    local tree
    for tree in "$RUST_TLB_CACHE/linux-$KERNEL_SERIES" "$RUST_TLB_CACHE"/linux-[0-9]*; do
        [[ ! $tree =~ /linux-[0-9.]+$ || ! -d $tree ]] || { printf '%s\n' "$tree" && return; }
    done
}

debian_source() {
    TREE=$(unpacked_tree)
    [[ -z $TREE ]] || return 0
    PACKAGE=linux-source-$KERNEL_SERIES SERIES=$KERNEL_SERIES
    if [[ -z $(package_file) ]]; then
        choose_package
        [[ -n $(package_file) ]] || download
    fi
    TREE=$RUST_TLB_CACHE/linux-$SERIES
    unpack "$(package_file)"
}

# What a kernel build leaves in a tree, as rsync patterns. A tree with any of it in is refused by `make O=`.
BUILD_PRODUCTS=(
    '*.o' '*.a' '*.ko' '*.mod' '*.mod.c' '*.cmd' '*.order' '*.rmeta' '*.rlib' '/vmlinux*' '/.tmp_*' '/System.map'
    '/Module.symvers' '/modules.*' '/.config*' '/include/config' '/include/generated' '/arch/*/include/generated'
)

# Prints what not to copy of a tree: what git ignores, or where git does not know the tree, build products.
left_out() {
    if git -C "$1" ls-files --error-unmatch Makefile >/dev/null 2>&1; then
        git -C "$1" ls-files -o -i --exclude-standard --directory | sed 's/[][*?\\]/\\&/g; s|^|/|'
    else
        printf '%s\n' "${BUILD_PRODUCTS[@]}"
    fi
}

# Copies what changed in the user's tree. What the overlay put into the copy stays; the user's version of it goes where
# the overlay looks for the unpatched file.
copy_source() {
    local from
    from=$(realpath -e "$KSRC" 2>/dev/null) || die "there is no KSRC=$KSRC"
    check_series "$from"
    TREE=$RUST_TLB_CACHE/linux-$KERNEL_SERIES-$(sha256sum <<<"$from" | cut -c1-12)
    STATE=$TREE/.rust-tlb
    mkdir -p "$STATE"
    touch "$STATE/manifest"
    note "copying what changed in $from"
    left_out "$from" >"$STATE/left-out"
    overlay_filter >"$STATE/filter"
    rsync -a --delete --exclude=/.git --exclude=/.rust-tlb --exclude-from="$STATE/left-out" \
        --filter="merge $STATE/filter" "$from/" "$TREE/"
    refresh_originals "$from"
}

# Leaves the overlay's files alone, and their folders where they are.
overlay_filter() {
    sed 's|^|- /|' "$STATE/manifest"
    awk -F/ '{ dir = ""; for (i = 1; i < NF; i++) { dir = dir "/" $i; if (!seen[dir]++) print "P " dir "/" } }' \
        "$STATE/manifest"
}

refresh_originals() {
    local path
    while IFS= read -r path; do
        if [[ -f $1/$path ]]; then
            install_if_changed "$1/$path" "$STATE/original/$path" || true
        else
            rm -f "$STATE/original/$path"
        fi
    done <"$STATE/manifest"
}

step 2 "kernel source"
lock_cache
if [[ -n ${KSRC:-} ]]; then
    copy_source
else
    debian_source
fi
printf '%s\n' "$TREE" >"$OUT/kernel-tree"
note "Linux $(kernel_version "$TREE")"
