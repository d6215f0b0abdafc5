#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: tools.sh [trace|lint]...
#
# Finds every tool that a build and a boot need, and what else the target that is named needs. What is missing is
# installed with apt by root, if apt's plan leaves alone what is installed; else it is unpacked into the cache, as it is
# for an ordinary user. bindgen is built with cargo. Writes what it found to tools/env.sh in the cache. Where none of
# this is possible, it stops with the list of what to install.
#
# RUSTC=, BINDGEN=: a rustc, a bindgen of the user's.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/private-apt.sh
source "$TOP/scripts/private-apt.sh"
# shellcheck source=scripts/apt-plan.sh
source "$TOP/scripts/apt-plan.sh"
# shellcheck source=scripts/private-root.sh
source "$TOP/scripts/private-root.sh"
# shellcheck source=scripts/qemu.sh
source "$TOP/scripts/qemu.sh"
# shellcheck source=scripts/bindgen.sh
source "$TOP/scripts/bindgen.sh"

# What the user-space side's dependencies want; the kernel is content with less.
MIN_RUSTC=1.89
LLVM_VERSIONS=(19 20 21 22 18 17)

# shellcheck disable=SC2034 # of private-apt.sh
APT=$RUST_TLB_CACHE/download/apt-release
ROOT=$TOOLS/root
STAMP=$TOOLS/stamp$(printf -- '-%s' "$@")
KEY=$(cat "$TOP"/scripts/{tools,qemu,bindgen,apt-plan,private-apt,private-root}.sh \
    <(printf '%s\n' "${RUSTC:-}" "${BINDGEN:-}") | sha256sum | cut -c1-64)
USERS_BINDGEN=${BINDGEN:-}

# What to look for, and the Debian package that has it.
COMMANDS=(
    git:git make:make flex:flex bison:bison bc:bc perl:perl-base xz:xz-utils cpio:cpio insmod:kmod rsync:rsync
    patch:patch flock:util-linux
)
declare -A COMMANDS_FOR=(
    [trace]='perf:linux-perf trace-cmd:trace-cmd bpftrace:bpftrace'
    [lint]='shellcheck:shellcheck'
)
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

for purpose in "$@"; do
    [[ -n ${COMMANDS_FOR[$purpose]:-} ]] || die "no target needs '$purpose': trace, lint"
    # shellcheck disable=SC2206 # words
    COMMANDS+=(${COMMANDS_FOR[$purpose]})
done
case " $* " in *" lint "*) NEEDS_LINT=1 ;; *) NEEDS_LINT= ;; esac

missing=()

have_command() {
    PATH=$PATH:/usr/sbin:/sbin:$TOOLS/bin command -v "$1" >/dev/null
}

# Puts into `missing` what is not there: the name of a package, or `toolchain`, `rust`, which are of use only whole.
look_for_packages() {
    local entry
    missing=()
    for entry in "${COMMANDS[@]}"; do
        have_command "${entry%%:*}" || missing+=("${entry#*:}")
    done
    [[ -e $CERTIFICATES || -e $ROOT/certificates.crt ]] || missing+=(ca-certificates)
    [[ -z $(lacks_of_toolchain) ]] || missing+=(toolchain)
    [[ -z $(lacks_of_rust) ]] || missing+=(rust)
}

# packages_of UNIT: what to install. Those of a unit that are there already are left out.
packages_of() {
    case $1 in
        toolchain) lacks_of_toolchain ;;
        rust) lacks_of_rust ;;
        *) printf '%s\n' "$1" ;;
    esac
}

# The same, for a root of its own, where none of it is there.
private_packages_of() {
    case $1 in
        toolchain) llvm_packages && printf '%s\n' libc6-dev libelf-dev ;;
        rust) rust_packages rustc rust-src cargo rustfmt rust-clippy ;;
        *) printf '%s\n' "$1" ;;
    esac
}

# LLVM makes the kernel, and the programs that the kernel's build runs.
lacks_of_toolchain() {
    [[ -n $(find_llvm) ]] || llvm_packages
    has_header stdio.h || printf 'libc6-dev\n'
    has_header libelf.h || printf 'libelf-dev\n'
}

llvm_packages() {
    printf '%s\n' {clang,lld,llvm}-"${LLVM_VERSIONS[0]}" "libclang1-${LLVM_VERSIONS[0]}"
}

has_header() {
    [[ -e /usr/include/$1 || -e $ROOT/usr/include/$1 ]]
}

lacks_of_rust() {
    local bin wanted=()
    bin=$(find_rust)
    if [[ -z $bin ]]; then
        wanted=(rustc rust-src cargo)
        [[ -z $NEEDS_LINT ]] || wanted+=(rustfmt rust-clippy)
    else
        # Debian splits its toolchain. Elsewhere (rustup) these lie beside rustc.
        [[ -x $bin/cargo ]] || wanted+=(cargo)
        [[ -z $NEEDS_LINT || -x $bin/rustfmt ]] || wanted+=(rustfmt)
        [[ -z $NEEDS_LINT || -x $bin/clippy-driver ]] || wanted+=(rust-clippy)
    fi
    ((${#wanted[@]} == 0)) || rust_packages "${wanted[@]}"
}

# Debian's stable release has an old rustc; its -web flavour is kept current, and comes with the source of `core`.
rust_packages() {
    if ${PACKAGE_CACHE:-} apt-cache show --no-all-versions rustc-web >/dev/null 2>&1; then
        printf '%s\n' "$@" | sed 's/^rust-/rust-web-/; t; s/$/-web/'
    else
        printf '%s\n' "$@"
    fi
}

# The kernel compiles `core` itself, so a rustc without its source is of no use, however new it is.
has_core_source() {
    local sysroot version
    sysroot=$("$1" --print sysroot 2>/dev/null) || return 1
    version=$("$1" --version | cut -d' ' -f2)
    [[ -d $sysroot/lib/rustlib/src/rust/library ]] && is_at_least "$MIN_RUSTC" "$version"
}

# Prints the folder of the first rustc that will do.
find_rust() {
    local candidate
    for candidate in ${RUSTC:+"$(command -v "$RUSTC" || true)"} /usr/bin/rustc $(type -aP rustc || true) \
        /usr/lib/rust-*/bin/rustc "${CARGO_HOME:-$HOME/.cargo}/bin/rustc" "$TOOLS/bin/rustc"; do
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
    for file in {,"$ROOT"}"/usr/lib/llvm-$1/lib"/libclang{,-"$1"}.so*; do
        [[ ! -e $file ]] || { dirname "$file" && return; }
    done
}

# Installs of the missing what can be installed without harm; the rest, and all of it for an ordinary user, is private.
get_packages() {
    local unfit=("${missing[@]}")
    command -v apt-get >/dev/null || give_up
    if [[ $(id -u) == 0 ]]; then
        note "reading the package lists"
        # What one of the user's other sources has to say does not matter yet.
        (quietly "$OUT/tools.log" apt-get update) || true
        look_for_packages # again: what the packages are called, apt may know only now
        install_harmless
    fi
    ((${#unfit[@]} == 0)) || get_private
    look_for_packages
    [[ " ${missing[*]} " != *" rust "* ]] || die "the newest rustc that apt has here is older than $MIN_RUSTC: put Debian's" \
        "security updates into apt's sources, or say RUSTC=one with the source of \`core\`"
    ((${#missing[@]} == 0)) || die "installed, and still not found: ${missing[*]}"
}

give_up() {
    local unit names=()
    for unit in "${missing[@]}"; do mapfile -t -O "${#names[@]}" names < <(packages_of "$unit"); done
    printf 'These tools are missing. As root, on Debian 12:\n\n    apt-get install %s\n\n' "${names[*]}" >&2
    die "${1:-there is no apt here}: install them (or what your system calls them), then run this again"
}

# Leaves in `unfit` the units that apt cannot install without harm.
install_harmless() {
    local unit packages words=() units=()
    declare -A unit_of=()
    for unit in "${missing[@]}"; do
        packages=$(packages_of "$unit" | paste -sd' ')
        units+=("$packages") unit_of[$packages]=$unit
    done
    divide "${units[@]}"
    if ((${#installable[@]})); then
        read -ra words <<<"${installable[*]}"
        note "installing ${words[*]}"
        DEBIAN_FRONTEND=noninteractive quietly "$OUT/tools.log" \
            apt-get install -y --no-install-recommends --no-remove --no-upgrade "${words[@]}"
        told installed "${words[@]}"
    fi
    units=("${unfit[@]}") unfit=()
    for packages in "${units[@]}"; do
        note "not installed, since apt would not leave alone what is installed: $packages"
        unfit+=("${unit_of[$packages]}")
    done
}

# The release's lists, read into the cache once per run.
read_private_lists() {
    local release
    release=$(release_name)
    [[ -n $release ]] || give_up "this is not Debian, and nothing can be unpacked privately"
    write_private_apt "$release" "$release-updates" "$release-security" || give_up "apt knows no Debian archive here"
    note "reading the package lists of $release, privately"
    quietly "$OUT/tools.log" private_apt apt-get update
}

# Unpacks the unfit into our root, beside what is there already.
get_private() {
    local unit names=() plan=() before=()
    read_private_lists
    [[ ! -f $ROOT/units ]] || mapfile -t before <"$ROOT/units"
    PACKAGE_CACHE=private_apt
    for unit in "${before[@]}" "${unfit[@]}"; do
        mapfile -t -O "${#names[@]}" names < <(private_packages_of "$unit")
    done
    mapfile -t plan < <(private_plan "${names[@]}")
    ((${#plan[@]})) || give_up "$(release_name) does not have all of ${names[*]}"
    note "unpacking ${unfit[*]} into the cache"
    unpack_into "$ROOT" "${plan[@]}"
    printf '%s\n' "${before[@]}" "${unfit[@]}" | sed '/^$/d' | sort -u >"$ROOT/units"
    told private "${unfit[@]}"
    wrap_all
}

# Makes a command of ours of each of the root's that the system does not have, and of all that belong together.
wrap_all() {
    local path name
    rm -rf "${TOOLS:?}/bin"
    for path in "$ROOT"/usr/{bin,sbin}/*; do
        name=${path##*/}
        [[ -x $path && -f $path ]] || continue
        ! is_system_command "$name" || belongs_to_private_unit "$name" || continue
        case $name in
            clang-*) wrap "$ROOT" "$TOOLS/bin" "$name" --config="$ROOT/clang.cfg" ;;
            # It compiles its programs, with headers that the system may not have.
            bpftrace) wrap "$ROOT" "$TOOLS/bin" "$name" -I "$ROOT/usr/include" -I "$ROOT/usr/include/x86_64-linux-gnu" ;;
            *) wrap "$ROOT" "$TOOLS/bin" "$name" ;;
        esac
    done
    # What is said in a file of settings may go unused; what is said on the command line may not.
    printf -- '--sysroot=%s\n' "$ROOT" >"$ROOT/clang.cfg"
    # What the package would make of them when it is installed.
    cat "$ROOT"/usr/share/ca-certificates/mozilla/*.crt >"$ROOT/certificates.crt" 2>/dev/null ||
        rm -f "$ROOT/certificates.crt"
    ! is_private_qemu || wrap_qemu
}

is_system_command() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
}

is_private_unit() {
    grep -qx "$1" "$ROOT/units" 2>/dev/null
}

belongs_to_private_unit() {
    case $1 in
        clang-* | *lld* | llvm-*) is_private_unit toolchain ;;
        rust* | cargo*) is_private_unit rust ;;
        *) return 1 ;;
    esac
}

write_env() {
    local llvm
    llvm=$(find_llvm)
    {
        printf '# Written by scripts/tools.sh.\n'
        printf 'export RUST_BIN=%q BINDGEN=%q LLVM=-%q\n' "$RUST_BIN" "$BINDGEN" "$llvm"
        # shellcheck disable=SC2016
        printf 'export LIBCLANG_PATH=%q PATH=%s$PATH:/usr/sbin:/sbin\n' "$(find_libclang "$llvm")" \
            "$([[ ! -d $TOOLS/bin ]] || printf '%q:' "$TOOLS/bin")"
        command -v cc >/dev/null && ! is_private_unit toolchain ||
            printf 'export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=clang-%q\n' "$llvm"
        [[ ! -d $ROOT ]] || write_private_env
    } >"$TOOLS_ENV"
}

# Where programs of the root's look for what they were told at their making to be below /usr.
write_private_env() {
    # What is linked here finds its libraries at run time.
    printf 'export LD_RUN_PATH=%q\n' "$ROOT/libraries"
    [[ ! -x $TOOLS/bin/m4 ]] || printf 'export M4=%q\n' "$TOOLS/bin/m4"
    [[ ! -x $TOOLS/bin/bison ]] || printf 'export BISON_PKGDATADIR=%q\n' "$ROOT/usr/share/bison"
    [[ ! -x $TOOLS/bin/git ]] || printf 'export GIT_EXEC_PATH=%q\n' "$ROOT/usr/lib/git-core"
    [[ -e $CERTIFICATES || ! -e $ROOT/certificates.crt ]] ||
        printf 'export CARGO_HTTP_CAINFO=%q\n' "$ROOT/certificates.crt"
}

# told HOW NAME...: remembers for the summary.
told() {
    local how=$1
    shift
    printf '%s: %s\n' "$how" "$*" >>"$OUT/tools.summary"
}

# The tools of an earlier run, if they are still there. Takes no time, so that a rebuild does not either.
still_there() {
    [[ -f $STAMP && $(<"$STAMP") == "$KEY" && -f $TOOLS_ENV ]] || return 1
    # shellcheck source=/dev/null
    source "$TOOLS_ENV"
    local tool
    for tool in "$RUST_BIN"/{rustc,cargo} "$BINDGEN"; do
        [[ -x $tool ]] || return 1
    done
    for tool in {clang,ld.lld}"${LLVM:?}" qemu-system-x86_64 insmod; do
        command -v "$tool" >/dev/null || return 1
    done
}

begin_times
step 1 "tools"
[[ $(uname -m) == x86_64 ]] || die "rust-tlb builds and runs on x86-64 only, this is $(uname -m)"
lock_cache
(still_there) && exit 0
: >"$OUT/tools.summary"
[[ ! -f $ROOT/units ]] || wrap_all
look_for_packages
((${#missing[@]} == 0)) || get_packages
get_qemu
RUST_BIN=$(find_rust)
BINDGEN=/bin/false write_env # for cargo
get_bindgen
wrap_bindgen
write_env
printf '%s\n' "$KEY" >"$STAMP"
told 'used' "$("$RUST_BIN/rustc" --version | cut -d' ' -f1,2), clang $(find_llvm)," \
    "$("$BINDGEN" --version), $(describe_qemu)"
note "$(tail -n 1 "$OUT/tools.summary")"
