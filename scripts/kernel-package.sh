# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced after kernel-version.sh and private-apt.sh: which of Debian's packages of kernel sources to take.

PINNED=7.3.4-1~bpo13+1

# Prints the series to take: ours, or when that has left the archive, the newest later one; nothing, if there is neither.
choose_series() {
    private_apt apt-cache pkgnames linux-source- | sed -n 's/^linux-source-\([0-9][0-9.]*\)$/\1/p' | sort -V |
        awk -v ours="$KERNEL_SERIES" '
            $1 == ours { print; found = 1; exit }
            { last = $1 }
            END { split(ours, o, "."); split(last, l, ".")
                if (!found && (l[1] > o[1] || l[1] == o[1] && l[2] > o[2])) print last }'
}

# choose_version PACKAGE: the pinned version, or else the newest.
choose_version() {
    local versions
    versions=$(private_apt apt-cache madison "$1" | awk '{ print $3 }')
    if grep -qxF "$PINNED" <<<"$versions"; then
        printf '%s\n' "$PINNED"
    else
        sort -V <<<"$versions" | tail -n 1
    fi
}
