#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Finds every tool that the build and the tests need, and installs what is missing: packages with apt, bindgen with
# cargo, virtme-ng in a Python environment of its own. Writes what it found to tools/env.sh in the cache. Without root,
# or where there is no apt, it stops with the list of what to install.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

BINDGEN_VERSION=0.72.1
VIRTME_VERSION=1.42
MIN_RUSTC=1.85
LLVM_VERSIONS=(19 20 21 22 18 17)

TOOLS=$RUST_TLB_CACHE/tools
STAMP=$TOOLS/stamp
KEY=$(cat "$TOP/scripts/tools.sh" <(printf '%s\n' "${RUSTC:-}") | sha256sum | cut -c1-64)

# What to look for, and the Debian package that has it.
COMMANDS=(
    git:git gcc:gcc make:make flex:flex bison:bison bc:bc perl:perl xz:xz-utils cpio:cpio kmod:kmod
    rsync:rsync patch:patch flock:util-linux udevadm:udev qemu-system-x86_64:qemu-system-x86
    busybox:busybox-static ip:iproute2 perf:linux-perf trace-cmd:trace-cmd
    bpftrace:bpftrace shellcheck:shellcheck
)
FILES=(
    /usr/include/stdio.h:libc6-dev /usr/include/libelf.h:libelf-dev /usr/include/openssl/ssl.h:libssl-dev
)

missing=()

have_command() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
}

look_for_packages() {
    local entry
    missing=()
    for entry in "${COMMANDS[@]}"; do
        have_command "${entry%%:*}" || missing+=("${entry#*:}")
    done
    for entry in "${FILES[@]}"; do
        [[ -e ${entry%%:*} ]] || missing+=("${entry#*:}")
    done
    [[ -n $(find_python) ]] || missing+=(python3 python3-venv)
    [[ -n $(find_llvm) ]] || missing+=("clang-${LLVM_VERSIONS[0]}" "lld-${LLVM_VERSIONS[0]}"
        "llvm-${LLVM_VERSIONS[0]}" "libclang-${LLVM_VERSIONS[0]}-dev")
    look_for_rust
}

look_for_rust() {
    local bin
    bin=$(find_rust)
    if [[ -z $bin ]]; then
        mapfile -t -O "${#missing[@]}" missing < <(rust_packages)
        return
    fi
    # Debian splits its toolchain. Elsewhere (rustup) these three lie beside rustc.
    [[ -x $bin/cargo ]] || missing+=("$(rust_package cargo)")
    [[ -x $bin/rustfmt ]] || missing+=("$(rust_package rustfmt)")
    [[ -x $bin/clippy-driver ]] || missing+=("$(rust_package rust-clippy)")
}

# Debian's stable release has an old rustc; its -web flavour is kept current, and comes with the source of `core`.
is_web_flavour() {
    apt-cache show --no-all-versions rustc-web >/dev/null 2>&1
}

rust_packages() {
    if is_web_flavour; then
        printf '%s\n' rustc-web rust-web-src cargo-web rustfmt-web rust-web-clippy
    else
        printf '%s\n' rustc rust-src cargo rustfmt rust-clippy
    fi
}

rust_package() {
    case $(is_web_flavour && echo web) in
        web) sed 's/rust-clippy/rust-web-clippy/; t; s/$/-web/' <<<"$1" ;;
        *) printf '%s\n' "$1" ;;
    esac
}

# The kernel compiles `core` itself, so a rustc without its source is of no use, however new it is.
has_core_source() {
    local sysroot version
    sysroot=$("$1" --print sysroot 2>/dev/null) || return 1
    version=$("$1" --version | cut -d' ' -f2)
    [[ -d $sysroot/lib/rustlib/src/rust/library ]] &&
        [[ $(printf '%s\n' "$MIN_RUSTC" "$version" | sort -V | head -n 1) == "$MIN_RUSTC" ]]
}

# Prints the folder of the first rustc that will do.
find_rust() {
    local candidate
    for candidate in ${RUSTC:+"$(command -v "$RUSTC" || true)"} /usr/bin/rustc $(type -aP rustc || true) \
        /usr/lib/rust-*/bin/rustc "${CARGO_HOME:-$HOME/.cargo}/bin/rustc"; do
        if [[ -x $candidate ]] && has_core_source "$candidate"; then
            dirname "$candidate"
            return
        fi
    done
}

# Prints the version suffix of the first complete LLVM: compiler, linker, archiver and the library bindgen loads.
find_llvm() {
    local version tool
    for version in "${LLVM_VERSIONS[@]}"; do
        for tool in clang ld.lld llvm-ar llvm-nm llvm-objcopy llvm-objdump llvm-readelf llvm-strip; do
            have_command "$tool-$version" || continue 2
        done
        [[ -z $(find_libclang "$version") ]] || { printf '%s\n' "$version" && return; }
    done
}

find_libclang() {
    local file
    for file in "/usr/lib/llvm-$1/lib"/libclang{,-"$1"}.so*; do
        [[ ! -e $file ]] || { dirname "$file" && return; }
    done
}

# A Python that can make environments. Not through a version manager's shim: what it starts depends on the folder.
find_python() {
    local candidate
    for candidate in /usr/bin/python3 $(type -aP python3 || true); do
        if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

install_packages() {
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null || [[ $(id -u) != 0 ]]; then
        printf 'These tools are missing. As root, on Debian 12:\n\n    apt-get install %s\n\n' "${missing[*]}" >&2
        die "install them (or what your system calls them), then run this again"
    fi
    note "reading the package lists"
    quietly "$OUT/tools.log" apt-get update
    look_for_packages # again: what the packages are called, apt may know only now
    note "installing ${missing[*]}"
    # Nothing that is there is removed for us: if that is what it takes, the user decides.
    DEBIAN_FRONTEND=noninteractive quietly "$OUT/tools.log" \
        apt-get install -y --no-install-recommends --no-remove "${missing[@]}"
    look_for_packages
    ((${#missing[@]} == 0)) || die "installed, and still not found: ${missing[*]}"
}

install_bindgen() {
    BINDGEN=$TOOLS/bindgen-$BINDGEN_VERSION/bin/bindgen
    [[ -x $BINDGEN ]] && return
    note "building bindgen $BINDGEN_VERSION"
    RUSTC=$RUST_BIN/rustc CARGO_TARGET_DIR=$TOOLS/bindgen-target quietly "$OUT/tools.log" \
        "$RUST_BIN/cargo" install bindgen-cli --version "=$BINDGEN_VERSION" --locked \
        --root "$TOOLS/bindgen-$BINDGEN_VERSION"
    rm -rf "$TOOLS/bindgen-target"
}

install_virtme() {
    VENV=$TOOLS/virtme-ng-$VIRTME_VERSION
    [[ -x $VENV/bin/vng ]] && return
    note "installing virtme-ng $VIRTME_VERSION"
    rm -rf "$VENV"
    "$(find_python)" -m venv "$VENV"
    quietly "$OUT/tools.log" "$VENV/bin/python" -m pip install "virtme-ng==$VIRTME_VERSION"
}

write_env() {
    local llvm
    llvm=$(find_llvm)
    {
        printf '# Written by scripts/tools.sh.\n'
        printf 'export RUST_BIN=%q BINDGEN=%q VENV=%q LLVM=-%q\n' "$RUST_BIN" "$BINDGEN" "$VENV" "$llvm"
        # shellcheck disable=SC2016
        printf 'export LIBCLANG_PATH=%q PATH=$PATH:/usr/sbin:/sbin\n' "$(find_libclang "$llvm")"
    } >"$TOOLS_ENV"
}

# The tools of an earlier run, if they are still there. Takes no time, so that a rebuild does not either.
still_there() {
    [[ -f $STAMP && $(<"$STAMP") == "$KEY" ]] || return 1
    # shellcheck source=/dev/null
    source "$TOOLS_ENV"
    local tool
    for tool in "$RUST_BIN"/{rustc,cargo} "$BINDGEN" "$VENV/bin/vng" /usr/bin/{clang,ld.lld}"${LLVM:?}"; do
        [[ -x $tool ]] || return 1
    done
    have_command qemu-system-x86_64 && have_command udevadm
}

step 1 "tools"
[[ $(uname -m) == x86_64 ]] || die "rust-tlb builds and runs on x86-64 only, this is $(uname -m)"
lock_cache
still_there && exit 0
look_for_packages
install_packages
RUST_BIN=$(find_rust)
install_bindgen
install_virtme
write_env
printf '%s\n' "$KEY" >"$STAMP"
note "$("$RUST_BIN/rustc" --version), clang $(find_llvm), bindgen $BINDGEN_VERSION, virtme-ng $VIRTME_VERSION"
