# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced by tools.sh: which QEMU runs the kernel. Before 8.1 the emulator runs code that the kernel is just patching
# (`int3` at a jump or a static call), so that a newer one is taken where one can be had: the system's, the release's if
# apt can install it without harm, or one that is unpacked into the cache, from the release or its backports.

MIN_QEMU=8.1
QEMU_PACKAGE=qemu-system-x86
QEMU_COMMAND=qemu-system-x86_64
QEMU_ROOT=$TOOLS/qemu

# is_at_least VERSION IS
is_at_least() {
    [[ -n $2 && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
}

# qemu_version COMMAND: nothing, if it does not run.
qemu_version() {
    "$1" --version 2>/dev/null | awk 'NR == 1 { print $4 }' || true
}

system_qemu() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$QEMU_COMMAND" || true
}

is_private_qemu() {
    [[ -f $QEMU_ROOT/packages ]]
}

has_new_qemu() {
    is_at_least "$MIN_QEMU" "$(qemu_version "$(system_qemu)")"
}

get_qemu() {
    if has_new_qemu; then
        rm -rf "$QEMU_ROOT" "${TOOLS:?}/bin/$QEMU_COMMAND"
        return
    fi
    ! is_at_least "$MIN_QEMU" "$(qemu_version "$TOOLS/bin/$QEMU_COMMAND")" || return 0
    install_new_qemu || unpack_new_qemu || settle_for_old_qemu
}

# candidate_of APT-CACHE...: the version that it would take.
candidate_of() {
    LC_ALL=C "$@" policy "$QEMU_PACKAGE" 2>/dev/null | awk '$1 == "Candidate:" { sub(/^[0-9]+:/, "", $2); print $2 }'
}

install_new_qemu() {
    [[ $(id -u) == 0 ]] && is_at_least "$MIN_QEMU" "$(candidate_of apt-cache)" && harmless "$QEMU_PACKAGE" || return 1
    note "installing $QEMU_PACKAGE"
    DEBIAN_FRONTEND=noninteractive quietly "$OUT/tools.log" \
        apt-get install -y --no-install-recommends --no-remove --no-upgrade "$QEMU_PACKAGE"
    told installed "$QEMU_PACKAGE"
}

unpack_new_qemu() {
    local release suite plan=()
    release=$(release_name)
    [[ -n $release ]] || return 1
    # shellcheck disable=SC2034 # of private-apt.sh
    local APT=$RUST_TLB_CACHE/download/apt-qemu
    for suite in "$release" "$release-backports"; do
        write_private_apt "$release" "$release-updates" "$release-security" "$suite" || return 1
        note "looking for a QEMU in $suite"
        (quietly "$OUT/tools.log" private_apt apt-get update) || continue
        is_at_least "$MIN_QEMU" "$(candidate_of private_apt apt-cache -t "$suite")" || continue
        mapfile -t plan < <(private_plan -t "$suite" "$QEMU_PACKAGE")
        ((${#plan[@]})) || continue
        note "unpacking QEMU of $suite into the cache"
        unpack_into "$QEMU_ROOT" "${plan[@]}"
        wrap_qemu
        is_at_least "$MIN_QEMU" "$(qemu_version "$TOOLS/bin/$QEMU_COMMAND")" || continue
        told private "$QEMU_PACKAGE"
        return 0
    done
    return 1
}

wrap_qemu() {
    local root=$QEMU_ROOT
    wrap "$root" "$TOOLS/bin" "$QEMU_COMMAND" -L "$root/usr/share/seabios" -L "$root/usr/share/qemu" \
        -L "$root/usr/lib/ipxe/qemu"
}

settle_for_old_qemu() {
    # shellcheck disable=SC2034 # of tools.sh
    missing=("$QEMU_PACKAGE")
    [[ -n $(system_qemu) ]] || get_packages
    note "there is no QEMU $MIN_QEMU or newer to be had: an older one may run code while the kernel patches it," \
        "and the tests of the trace events may end in \`int3\`"
}

describe_qemu() {
    local path
    path=$(PATH=$TOOLS/bin:$PATH:/usr/sbin:/sbin command -v "$QEMU_COMMAND")
    printf 'QEMU %s (%s)' "$(qemu_version "$path")" \
        "$([[ $path == "$TOOLS"/* ]] && echo "unpacked in the cache" || echo "$path")"
}
