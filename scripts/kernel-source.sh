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

PACKAGE=linux-source-$KERNEL_SERIES
PINNED=7.3.4-1~bpo13+1
SUITE=trixie-backports

# Prints the version to take: the pinned one, or else the newest of the series.
choose_version() {
    local versions
    versions=$(private_apt apt-cache madison "$PACKAGE" | awk '{ print $3 }')
    [[ -n $versions ]] || die "$SUITE no longer has $PACKAGE: give a Linux $KERNEL_SERIES tree with KSRC=/path"
    if grep -qxF "$PINNED" <<<"$versions"; then
        printf '%s\n' "$PINNED"
    else
        sort -V <<<"$versions" | tail -n 1
    fi
}

download() {
    APT=$RUST_TLB_CACHE/download/apt
    write_private_apt "$SUITE" "give a Linux $KERNEL_SERIES tree with KSRC=/path"
    note "reading the package list of $SUITE"
    quietly "$OUT/kernel-source.log" private_apt apt-get update
    local version
    version=$(choose_version)
    [[ $version == "$PINNED" ]] || note "$PACKAGE $PINNED is gone from the archive, taking $version"
    note "fetching $PACKAGE $version (160 MB)"
    (cd "$RUST_TLB_CACHE/download" &&
        quietly "$OUT/kernel-source.log" private_apt apt-get download "$PACKAGE=$version")
}

package_file() {
    local files=("$RUST_TLB_CACHE/download/${PACKAGE}_$PINNED"_*.deb "$RUST_TLB_CACHE/download/$PACKAGE"_*.deb)
    local file
    for file in "${files[@]}"; do
        [[ ! -f $file ]] || { printf '%s\n' "$file" && return; }
    done
}

unpack() {
    note "unpacking $(basename "$1")"
    rm -rf "$TREE.unpacking"
    mkdir -p "$TREE.unpacking"
    dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$PACKAGE.tar.xz" | xz -dc -T0 |
        tar -x --strip-components=1 -C "$TREE.unpacking"
    check_series "$TREE.unpacking"
    mv "$TREE.unpacking" "$TREE"
}

debian_source() {
    TREE=$RUST_TLB_CACHE/linux-$KERNEL_SERIES
    if [[ ! -d $TREE ]]; then
        [[ -n $(package_file) ]] || download
        unpack "$(package_file)"
    fi
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
