# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced by tools.sh: which bindgen makes Rust's idea of C's structures. The pinned one is built with cargo; the user's
# (BINDGEN=) may be newer.

BINDGEN_VERSION=0.72.1
MIN_BINDGEN=0.71.1

# Sets BINDGEN.
get_bindgen() {
    if [[ -n $USERS_BINDGEN ]]; then
        use_users_bindgen
    else
        BINDGEN=$TOOLS/bindgen-$BINDGEN_VERSION/bin/bindgen
        [[ -x $BINDGEN ]] || build_bindgen
    fi
}

use_users_bindgen() {
    local version
    BINDGEN=$(command -v "$USERS_BINDGEN") || die "there is no BINDGEN=$USERS_BINDGEN"
    version=$("$BINDGEN" --version 2>/dev/null | awk '{ print $2 }')
    is_at_least "$MIN_BINDGEN" "$version" ||
        die "the kernel wants bindgen $MIN_BINDGEN or newer, and $BINDGEN is ${version:-none}: leave BINDGEN out"
    [[ $version == "$BINDGEN_VERSION" ]] || note "bindgen $version, not $BINDGEN_VERSION: TEST='bindings layout' make" \
        "test tells whether Rust's idea of each structure is C's"
}

# It runs for a few seconds in all, and is built for longer: that is what to save.
build_bindgen() {
    note "building bindgen $BINDGEN_VERSION"
    # shellcheck source=/dev/null
    (source "$TOOLS_ENV" && RUSTC=$RUST_BIN/rustc CARGO_TARGET_DIR=$TOOLS/bindgen-target \
        CARGO_PROFILE_RELEASE_OPT_LEVEL=1 quietly "$OUT/tools.log" "$RUST_BIN/cargo" install bindgen-cli \
        --version "=$BINDGEN_VERSION" --locked --no-default-features --features runtime \
        --root "$TOOLS/bindgen-$BINDGEN_VERSION")
    rm -rf "$TOOLS/bindgen-target"
}

# bindgen loads LLVM's library, which may be one of the root's.
wrap_bindgen() {
    local real=$BINDGEN
    is_private_unit toolchain || return 0
    BINDGEN=$TOOLS/bin/bindgen
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$ROOT/libraries" "$real" >"$BINDGEN"
    chmod +x "$BINDGEN"
}
