# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced by what runs the kernel's make: with the tools that were found, whichever others are in PATH, and without what
# would differ from one build or machine to the next.

# kernel_make ARGUMENT...
kernel_make() {
    make ARCH=x86_64 LLVM="$LLVM" RUSTC="$RUST_BIN/rustc" HOSTRUSTC="$RUST_BIN/rustc" RUSTDOC="$RUST_BIN/rustdoc" \
        RUSTFMT="$RUST_BIN/rustfmt" CLIPPY_DRIVER="$RUST_BIN/clippy-driver" BINDGEN="$BINDGEN" \
        KBUILD_BUILD_USER=rust-tlb KBUILD_BUILD_HOST=rust-tlb KBUILD_BUILD_TIMESTAMP=2026-01-01 \
        KBUILD_BUILD_VERSION=1 "$@"
}

# Prints the first error of a build's log, with the lines around it. With several jobs it is rarely at the end.
first_error() {
    local line
    line=$(grep -n -m 1 -E '(^|[^a-z_])(error(\[E[0-9]+\])?:|ERROR:|undefined!|\*\*\* )' "$1" | cut -d: -f1)
    if [[ -n $line ]]; then
        sed -n "$((line > 2 ? line - 2 : 1)),$((line + 18))p" "$1"
    else
        tail -n 20 "$1"
    fi
}
