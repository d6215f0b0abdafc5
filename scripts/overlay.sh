#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: overlay.sh [[--try] TREE]
#
# Puts this project onto a kernel tree: new files at the same path, then the stack of patches/, in order, into existing
# files. Doing it again changes nothing, not even a time stamp.
#
# Without TREE, onto the tree in the cache, and as it ought to be now: what an earlier overlay put there and this one
# does not, goes. With TREE, onto a tree of the user's, where nothing else is left behind, so that there a file which
# the project no longer has stays. With --try, nothing is changed: it ends well if every hunk would apply, whatever the
# tree's series.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-version.sh
source "$TOP/scripts/kernel-version.sh"

NEW_FILES=(arch drivers mm include rust samples Documentation)
SELFTESTS=selftests/rust_tlb
KERNEL_SELFTESTS=tools/testing/$SELFTESTS

STAGE=$(mktemp -d)
trap 'rm -rf "$STAGE" "$STAGE".*' EXIT

# Every file of the project under the given folders, one per line: what git tracks, or would if asked.
project_files() {
    local path
    (cd "$TOP" && git ls-files -co --exclude-standard -- "$@") | sort -u | while IFS= read -r path; do
        [[ ! -e $TOP/$path && ! -L $TOP/$path ]] || printf '%s\n' "$path"
    done
}

stage_new_files() {
    project_files "${NEW_FILES[@]}" >"$STAGE.new"
    (cd "$TOP" && cpio -pdm --quiet "$STAGE" <"$STAGE.new")
    mkdir -p "$STAGE/$KERNEL_SELFTESTS"
    (cd "$TOP/$SELFTESTS" && project_files "$SELFTESTS" | sed "s|^$SELFTESTS/||" |
        cpio -pdm --quiet "$STAGE/$KERNEL_SELFTESTS")
    # The one path that differs: from here to the top of the tree.
    ln -sfn ../../../.. "$STAGE/$KERNEL_SELFTESTS/srctree"
}

# The files that a patch touches, one per line.
files_of_patch() {
    sed -n 's|^+++ [^/]*/\([^\t]*\).*|\1|p' "$1"
}

# The unpatched contents of a file: as it was before an earlier overlay, where that is known.
original() {
    if [[ -f $STATE/original/$1 ]]; then
        printf '%s\n' "$STATE/original/$1"
    else
        printf '%s\n' "$TREE/$1"
    fi
}

# What a patch touches, as it is in the tree. Several patches may touch one file.
stage_files_of_patch() {
    local patch=$1 name=${1#"$TOP/"} path from
    if grep -q '^--- /dev/null' "$patch"; then
        die "$name creates a file: a new file goes into this tree, at its path"
    fi
    while IFS= read -r path; do
        ! grep -qxF "$path" "$STAGE.new" || die "$name changes $path, a new file of this project: change it there"
        from=$(original "$path")
        [[ -f $from ]] || die "$name changes $path, which $TREE does not have"
        mkdir -p "$STAGE/$(dirname "$path")"
        cp "$from" "$STAGE/$path"
    done < <(files_of_patch "$patch")
}

# patch_stage PATCH OPTION...: exact context only, as a hunk that has to be guessed into place is a hunk to look at.
patch_stage() {
    patch -d "$STAGE" -p1 -F0 --no-backup-if-mismatch -r - -i "$@"
}

# Takes a patch out of the staged files, if it is in.
unapply_patch() {
    if patch_stage "$1" -R -f --dry-run >/dev/null 2>&1; then
        patch_stage "$1" -R -f >/dev/null
    fi
}

apply_patch() {
    if ! patch_stage "$1" -N >"$STAGE.log" 2>&1; then
        grep -v '^File .* is read-only' "$STAGE.log" >&2
        die "${1#"$TOP/"} does not apply exactly to $TREE; the hunks that fail are above"
    fi
}

# The patches are a stack, each made against the tree with those before it. A tree that has them already, or the first
# of them, loses them from the last one to the first before it gets all.
stage_patches() {
    local at
    for at in "${!PATCHES[@]}"; do stage_files_of_patch "${PATCHES[at]}"; done
    for ((at = ${#PATCHES[@]} - 1; at >= 0; at--)); do unapply_patch "${PATCHES[at]}"; done
    for at in "${!PATCHES[@]}"; do apply_patch "${PATCHES[at]}"; done
}

# Keeps a file that was there before us, so that it can come back.
keep_original() {
    [[ -n $STATE && -f $TREE/$1 && ! -e $STATE/original/$1 ]] || return 0
    grep -qxF "$1" "$STATE/manifest" && return
    mkdir -p "$STATE/original/$(dirname "$1")"
    cp -p "$TREE/$1" "$STATE/kept"
    mv "$STATE/kept" "$STATE/original/$1"
}

# What is put there is ours from here on, even if this is cut off before it is there: the next overlay would take it for
# the tree's.
write_down() {
    [[ -n $STATE ]] || return 0
    sort -u "$STATE/manifest" <(staged) >"$STATE/written"
    mv "$STATE/written" "$STATE/manifest"
}

install_stage() {
    local path changed=0
    while IFS= read -r path; do keep_original "$path"; done < <(staged)
    write_down
    while IFS= read -r path; do
        if install_if_changed "$STAGE/$path" "$TREE/$path"; then
            changed=$((changed + 1))
            verbose && note "$path"
        fi
    done < <(staged)
    note "$(staged | wc -l) files in the overlay, $changed changed"
}

staged() {
    (cd "$STAGE" && find . ! -type d -printf '%P\n' | sort)
}

# What an earlier overlay put there and this one did not: the file that was there before it, or none.
remove_stale() {
    local path
    while IFS= read -r path; do
        if [[ -f $STATE/original/$path ]]; then
            install_if_changed "$STATE/original/$path" "$TREE/$path" || true
            rm -f "$STATE/original/$path"
        else
            rm -f "$TREE/$path"
        fi
        note "taken out again: $path"
    done < <(comm -23 "$STATE/manifest" <(staged))
    staged >"$STATE/manifest"
}

TRY=
if [[ ${1:-} == --try ]]; then
    TRY=1
    TREE=${2:?which tree?} STATE=
elif (($#)); then
    step 3 "overlay"
    TREE=$(realpath -e "$1" 2>/dev/null) || die "there is no $1"
    check_series "$TREE"
    STATE=
else
    step 3 "overlay"
    lock_cache
    [[ -f $OUT/kernel-tree ]] || "$TOP/scripts/kernel-source.sh"
    TREE=$(<"$OUT/kernel-tree")
    STATE=$TREE/.rust-tlb
    mkdir -p "$STATE/original"
    [[ -f $STATE/manifest ]] || : >"$STATE/manifest"
fi
shopt -s nullglob
PATCHES=("$TOP"/patches/*.patch)
stage_new_files
stage_patches
[[ -z $TRY ]] || exit 0
install_stage
[[ -z $STATE ]] || remove_stale
