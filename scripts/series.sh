#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: series.sh
#
# The whole work as mails, one commit each: build/series/mails/. `git am` puts them onto an unmodified kernel tree. What
# asks for comments is a series of its own, in a folder there, with a cover letter of its own, to go on top: one for each
# folder series/rfc-NAME/.
#
# What goes into which commit, and in what order, is in series/: a file for each, with lines `patch: NAME` (of patches/)
# and `files: PATH...` (new files below these paths, but for those that an earlier commit had), then `---` and the
# message; without one, it is that of the patch. Files that a later series names are left to it. Nothing may be left over:
# in the end the tree is what overlay.sh makes.
#
# Checked each time: that `git am` takes the mails, and checkpatch. With CHECK=1 the kernel is built after each commit,
# with CONFIG_RUST_TLB and without, in a small configuration (scripts/config/series.config).

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"

SERIES=$OUT/series
MAILS=$SERIES/mails
CONFIGURED=$RUST_TLB_CACHE/build/series-configured
GIT=(git -c user.name=rust-tlb -c "user.email=rust-tlb@localhost" -c core.autocrlf=false -c commit.gpgSign=false)

# The unpatched contents of a file of the kernel.
pristine() {
    if [[ -f $TREE/.rust-tlb/original/$1 ]]; then
        printf '%s\n' "$TREE/.rust-tlb/original/$1"
    else
        printf '%s\n' "$TREE/$1"
    fi
}

# As much of an unmodified kernel as the patches touch, in the folder $1.
make_base() {
    local path
    mkdir -p "$1"
    { sed -n 's|^+++ [^/]*/\([^\t]*\).*|\1|p' "$TOP"/patches/*.patch; echo Makefile; } | sort -u |
        while IFS= read -r path; do
            install -D -m 644 "$(pristine "$path")" "$1/$path"
        done
}

field() {
    sed -n "/^---\$/q; s/^$1: *//p" "$2"
}

message() {
    local patch
    if grep -qx -- '---' "$1"; then
        sed '1,/^---$/d' "$1"
    else
        patch=$(field patch "$1")
        sed '/^---$/,$d' "$TOP/patches/$patch"
    fi
}

# Whether a path is left to a series on top of the one that $STEP belongs to.
is_later() {
    local rfc path
    [[ $(dirname "$STEP") == "$TOP/series" ]] || return 1
    for rfc in "$TOP"/series/rfc-*/[1-9]* "$TOP"/series/rfc-*/0[1-9]*; do
        [[ -f $rfc ]] || continue
        for path in $(field files "$rfc"); do
            [[ $1 != "$path" && $1 != "$path"/* ]] || return 0
        done
    done
    return 1
}

commit_step() {
    local step=$1 name patch path paths
    STEP=$step
    name=$(basename "$step")
    for patch in $(field patch "$step"); do
        "${GIT[@]}" apply --index --unidiff-zero "$TOP/patches/$patch" ||
            die "patches/$patch does not apply where series/$name has it"
    done
    read -ra paths <<<"$(field files "$step")"
    for path in "${paths[@]}"; do
        [[ ! -e $SERIES/after/$path ]] || (cd "$SERIES/after" && find "$path" ! -type d -print0)
    done | while IFS= read -rd '' path; do
        # Files that a later patch changes are not new.
        [[ -e $SERIES/base/$path ]] || is_later "$path" || install_if_changed "$SERIES/after/$path" "$path" || true
    done
    git add -A
    message "$step" | "${GIT[@]}" commit -q -F - || die "series/$name has nothing to commit"
}

make_commits() {
    local step
    cp -a "$SERIES/base" "$SERIES/tree"
    cd "$SERIES/tree"
    git init -q -b series
    git add -A
    "${GIT[@]}" commit -q -m "an unmodified kernel, as far as it is touched"
    git tag base
    for step in "$TOP"/series/[0-9]* "$TOP"/series/rfc-*/[0-9]*; do
        [[ $step != */rfc-*/00-* ]] || git tag "before-$(basename "$(dirname "$step")")"
        [[ $step == */00-* ]] || commit_step "$step"
    done
    # Links are compared as such: one of them points to the top of the tree.
    diff -r --no-dereference --exclude=.git "$SERIES/after" "$SERIES/tree" ||
        die "what series/ names is not all of it: the difference is above"
}

# mails FOLDER COVER RANGE OPTION...: the commits as mails in FOLDER, with COVER as their cover letter.
mails() {
    local folder=$1 cover=$2 range=$3 letter subject
    shift 3
    "${GIT[@]}" format-patch -q --cover-letter --no-signature --summary --stat=76 -o "$folder" "$@" "$range"
    letter=$(echo "$folder"/0000-*)
    subject=$(head -n 1 "$cover")
    sed -i "s/\*\*\* SUBJECT HERE \*\*\*/$subject/" "$letter"
    sed -i -e "/\*\*\* BLURB HERE \*\*\*/{
        r /dev/stdin
        d
    }" "$letter" < <(tail -n +3 "$cover")
}

# The series in order: their folders.
list_series() {
    printf '%s\n' "$TOP/series"
    find "$TOP/series" -mindepth 1 -type d -name 'rfc-*' | sort
}

# Each begins where the one before it ends.
make_mails() {
    local name from=base to folders
    cd "$SERIES/tree"
    mapfile -t folders < <(list_series | tail -n +2)
    for name in "${folders[@]##*/}" series; do
        to=before-$name
        [[ $name != series ]] || to=series
        if [[ $from == base ]]; then
            mails "$MAILS" "$TOP/series/00-cover-letter" "base..$to"
        else
            mails "$MAILS/${from#before-}" "$TOP/series/${from#before-}/00-cover-letter" "$from..$to" --rfc
        fi
        from=$to
    done
    cd "$TOP"
}

# All mails but the cover letters, in order.
list_mails() {
    printf '%s\n' "$MAILS"/0*.patch "$MAILS"/rfc-*/0*.patch | grep -v '/0000-'
}

# The mails, onto what they were not made on, make the same tree.
check_am() {
    local mails
    mapfile -t mails < <(list_mails)
    cp -a "$SERIES/base" "$SERIES/am"
    cd "$SERIES/am"
    git init -q -b am
    git add -A
    "${GIT[@]}" commit -q -m base
    "${GIT[@]}" am -q "${mails[@]}" || die "git am does not take the mails"
    [[ $(git rev-parse 'HEAD^{tree}') == $(git -C "$SERIES/tree" rev-parse 'HEAD^{tree}') ]] ||
        die "git am makes another tree of the mails"
    cd "$TOP"
    note "git am: ${#mails[@]} mails, without cover letters"
}

# They have no sender yet, and MAINTAINERS is for whoever sends them. Lines of Rust are rustfmt's to break: checkpatch
# counts bytes, and knows no string that cannot be broken. Its look at licences wants a module of Python that may not be
# there, and says so each time.
check_patch() {
    local mail ignored is_clean=yes
    for mail in $(list_mails); do
        ignored=MISSING_SIGN_OFF,FILE_PATH_CHANGES
        ! grep -q '^+++ b/.*\.rs$' "$mail" || ignored+=,LONG_LINE,LONG_LINE_COMMENT,LONG_LINE_STRING
        "$TREE/scripts/checkpatch.pl" --root="$TREE" --quiet --no-summary --terse \
            --show-types --ignore "$ignored" "$mail" || is_clean=no
    done >"$SERIES/checkpatch.log" 2>"$SERIES/checkpatch.err"
    [[ $is_clean == yes ]] || { cat "$SERIES"/checkpatch.{err,log} >&2 && die "checkpatch does not like the mails"; }
    note "checkpatch: clean"
}

# All of an unmodified kernel: links to the tree, but for what the project put there.
make_whole_tree() {
    local path
    rm -rf "$SERIES/whole"
    cp -al "$TREE" "$SERIES/whole"
    while IFS= read -r path; do
        rm -f "$SERIES/whole/$path"
        [[ ! -f $TREE/.rust-tlb/original/$path ]] || cp "$TREE/.rust-tlb/original/$path" "$SERIES/whole/$path"
    done <"$TREE/.rust-tlb/manifest"
    rm -rf "$SERIES/whole/.rust-tlb"
}

# What is not there yet in Kconfig falls out of the configuration, and is back as soon as it is there.
build_step() {
    local name=$1 build=$RUST_TLB_CACHE/build/series-$2
    mkdir -p "$build"
    cp "$CONFIGURED/.config" "$build/.config"
    "$SERIES/whole/scripts/config" --file "$build/.config" "--$2" RUST_TLB "--$2" MREMAP_BATCH_FLUSH
    kernel_make -C "$SERIES/whole" O="$build" olddefconfig >"$SERIES/$name-$2.log" 2>&1
    # The option is not there yet.
    [[ $2 == disable ]] || ! cmp -s "$build/.config" "${build%enable}disable/.config" || return 0
    kernel_make -C "$SERIES/whole" O="$build" -j"$(nproc)" >>"$SERIES/$name-$2.log" 2>&1 ||
        { first_error "$SERIES/$name-$2.log" >&2 && die "$name does not build (RUST_TLB: $2)"; }
}

build_each() {
    local mail name
    "$TOP/scripts/kernel-config.sh" series "$CONFIGURED" "$SERIES/config.log"
    make_whole_tree
    for mail in $(list_mails); do
        name=$(basename "$mail" .patch)
        patch -d "$SERIES/whole" -p1 -F0 -s --no-backup-if-mismatch -i "$mail"
        build_step "$name" disable
        build_step "$name" enable
        note "builds, with CONFIG_RUST_TLB and without: $name"
    done
}

lock_cache
load_tools
"$TOP/scripts/kernel-source.sh"
"$TOP/scripts/overlay.sh"
TREE=$(<"$OUT/kernel-tree")
step 4 "series"
rm -rf "$SERIES"
make_base "$SERIES/base"
cp -a "$SERIES/base" "$SERIES/after"
"$TOP/scripts/overlay.sh" "$SERIES/after" >/dev/null
make_commits
make_mails
check_am
check_patch
note "$(realpath --relative-to="$TOP" "$MAILS")/"
[[ ${CHECK:-0} == 0 ]] || build_each
