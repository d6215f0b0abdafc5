# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced by what builds the cargo workspace: each checkout into a folder of its own, build/cargo.
#
# Cargo tells the members of a workspace apart by their path within it, and files outside of it by their absolute path:
# in one folder, two checkouts would take each other's tests for their own. What is not ours is the same for all, and
# takes most of the time: a checkout without that folder begins with a copy of what another one has left in the cache,
# and cargo takes from it what fits.

DEPENDENCIES=$RUST_TLB_CACHE/cargo

# copy_built FROM TO: what cargo built, without executables: those are ours. Copied, not linked, because cargo writes to
# some files in place.
copy_built() {
    mkdir -p "$2/release/deps"
    cp -a --reflink=auto "$1/release/.fingerprint" "$1/release/build" "$2/release"
    find "$1/release/deps" -type f -name '*.*' -exec cp -a --reflink=auto -t "$2/release/deps" {} +
}

# remove_members FOLDER: cargo itself knows which files belong to the members of the workspace.
remove_members() {
    local packages
    mapfile -t packages < <(grep -hm1 '^name = ' "$TOP"/selftests/rust_tlb/*/Cargo.toml | cut -d'"' -f2)
    CARGO_TARGET_DIR=$1 "$CARGO" clean --quiet --release --locked --offline "${packages[@]/#/--package=}" \
        --manifest-path "$TOP/selftests/rust_tlb/Cargo.toml"
}

# copy_dependencies FROM TO: all or nothing. A copy that cannot be made costs the time to build.
copy_dependencies() {
    local new=$2.$$
    rm -rf "$new"
    if copy_built "$1" "$new" && remove_members "$new"; then
        rm -rf "$2"
        mv -T "$new" "$2"
    fi
    rm -rf "$new"
}

take_dependencies() {
    [[ -e $CARGO_TARGET_DIR || ! -d $DEPENDENCIES/release/build ]] ||
        copy_dependencies "$DEPENDENCIES" "$CARGO_TARGET_DIR" || true
}

# Once for each list of dependencies and compiler. In a subshell: the cache is locked no longer than this takes.
leave_dependencies() (
    key=$(cat "$TOP/selftests/rust_tlb/Cargo.lock" "$TOOLS_ENV" | sha256sum)
    [[ ! -f $DEPENDENCIES.key || $(<"$DEPENDENCIES.key") != "$key" ]] || return 0
    lock_cache
    copy_dependencies "$CARGO_TARGET_DIR" "$DEPENDENCIES"
    printf '%s\n' "$key" >"$DEPENDENCIES.key"
)
