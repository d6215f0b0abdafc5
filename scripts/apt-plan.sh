# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced: apt's plan is read before it is carried out. What is installed stays as it is: nothing is removed, downgraded
# or upgraded for us.

# simulate PACKAGE...: apt's plan; fails if there is none.
simulate() {
    LC_ALL=C apt-get -s install --no-install-recommends --no-upgrade "$@" 2>/dev/null
}

# Reads a plan, and prints what it would do to packages that are installed, a line each.
plan_harms() {
    awk '$1 == "Remv" || $1 == "Purg" { print $2 " would be removed" }
        $1 == "Inst" && $3 ~ /^\[/ { gsub(/[][()]/, ""); print $2 " " $3 " would become " $4 }'
}

# harmless PACKAGE...: whether there is a plan, and it does nothing to anybody.
harmless() {
    local plan
    plan=$(simulate "$@") && [[ -z $(plan_harms <<<"$plan") ]]
}

# divide UNIT...: each is the packages, in one word with spaces, that are of use only together. Those that can all be
# installed without harm are put into the array `installable`, the others into `unfit`.
divide() {
    local unit words
    read -ra words <<<"$*"
    installable=("$@") unfit=()
    ! harmless "${words[@]}" || return 0
    installable=()
    for unit in "$@"; do
        read -ra words <<<"${installable[*]} $unit"
        if harmless "${words[@]}"; then installable+=("$unit"); else unfit+=("$unit"); fi
    done
}
