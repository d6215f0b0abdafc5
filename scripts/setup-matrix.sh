#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: setup-matrix.sh [MACHINE]...
#
# Tries the set-up on fresh machines, each a Debian of its own in a folder: a fresh clone of what is committed here, no
# cache, `make run` to its table, on those with backports' packages `make test` as well. Says what was installed, what
# is private, how long each step took, and whether anything that was installed before is no more as it was. Writes
# build/setup-matrix.txt.
#
# Needs root and debootstrap, an hour or more, and 8 GB a machine below MATRIX= (the cache, otherwise). Two machines at
# a time, or AT_A_TIME=, nicely; results of machines that were tried before are kept, unless AGAIN=1.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/private-apt.sh
source "$TOP/scripts/private-apt.sh"

MACHINES=(backports backports-user user bare trixie)
MATRIX=${MATRIX:-$RUST_TLB_CACHE/matrix}
RESULTS=$OUT/setup-matrix
AT_A_TIME=${AT_A_TIME:-2}
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

declare -A TITLE=(
    [bare]='Debian 12, bare'
    [backports]="Debian 12, backports' qemu-utils"
    [backports-user]="Debian 12, backports' qemu-utils, ordinary user"
    [user]='Debian 12, ordinary user'
    [trixie]='Debian 13, bare'
)

release_of() {
    case $1 in trixie) echo trixie ;; *) echo bookworm ;; esac
}

user_of() {
    case $1 in *user) echo user ;; *) echo root ;; esac
}

home_of() {
    case $1 in *user) echo /home/user ;; *) echo /root ;; esac
}

targets_of() {
    case $1 in backports*) echo 'run test' ;; *) echo run ;; esac
}

# A release with no more than it takes to clone and to start make, and its updates in the list.
make_base() {
    local release=$1 base=$MATRIX/base-$1 uri=$2 security=$3
    [[ ! -f $base/.complete ]] || return 0
    rm -rf "$base"
    debootstrap --variant=minbase --include=ca-certificates,git,make "$release" "$base" "$uri"
    cat >"$base/etc/apt/sources.list" <<-END
		deb $uri $release main
		deb $uri $release-updates main
		deb $security $release-security main
	END
    # Whom this machine trusts, its copies trust.
    cp "$CERTIFICATES" "$base$CERTIFICATES"
    touch "$base/.complete"
}

# inside MACHINE USER COMMAND: with mounts that go when it ends.
inside() {
    local root=$MATRIX/$1 user=$2 command=$3
    # shellcheck disable=SC2016 # of the shell that is started
    unshare --mount --propagation private bash -c '
        for folder in proc dev sys; do mount --rbind "/$folder" "$1/$folder"; done
        exec nice -n 5 env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb chroot "$1" su - "$2" -c "$3"' \
        - "$root" "$user" "$command"
}

prepare() {
    local machine=$1 root=$MATRIX/$1 home
    rm -rf "$root"
    cp -a "$MATRIX/base-$(release_of "$machine")" "$root"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    inside "$machine" root 'apt-get update -qq'
    case $machine in backports*) add_backports "$machine" "$2" ;; esac
    case $machine in
        *user) inside "$machine" root 'useradd -m -s /bin/bash user' ;;
    esac
    home=$(home_of "$machine")
    git clone -q --no-hardlinks "$TOP" "$root$home/rust-tlb"
    inside "$machine" root "chown -R $(user_of "$machine"): $home/rust-tlb"
}

# What made the set-up fail on such a machine: tools of a QEMU that is newer than the release's, and a systemd that is
# older than the archive's.
add_backports() {
    printf 'deb %s bookworm-backports main\n' "$2" >"$MATRIX/$1/etc/apt/sources.list.d/backports.list"
    # shellcheck disable=SC2016 # of the shell inside
    inside "$1" root 'apt-get update -qq
        export DEBIAN_FRONTEND=noninteractive
        old=$(apt-cache madison systemd | grep -v backports | awk "{ print \$3 }" | sort -V | head -n 1)
        apt-get install -qq -y --no-install-recommends --allow-downgrades systemd="$old" libsystemd0="$old" libsystemd-shared="$old" ||
            apt-get install -qq -y --no-install-recommends systemd
        apt-get install -qq -y --no-install-recommends -t bookworm-backports qemu-utils
        rm /etc/apt/sources.list.d/backports.list
        apt-get update -qq'
}

packages() {
    inside "$1" root "dpkg-query -W -f '\${Package}:\${Architecture} \${Version} \${db:Status-Abbrev}\n'" | sort
}

# A machine is made once, and each of its targets is made once: what has a result is kept, so that a matrix that was
# stopped goes on where it was.
try() {
    local machine=$1 target=$2 home results=$RESULTS/$1
    home=$(home_of "$machine")
    [[ ! -f $results/$target.status ]] || return 0
    mkdir -p "$results"
    if [[ ! -f $results/packages.before ]]; then
        prepare "$machine" "$3" >"$results/prepare.log" 2>&1
        git -C "$TOP" describe --always --dirty --abbrev=12 >"$results/commit"
        packages "$machine" >"$results/packages.before"
    fi
    inside "$machine" "$(user_of "$machine")" "cd $home/rust-tlb && make $target" >"$results/$target.log" 2>&1 &&
        echo 0 >"$results/$target.status" || echo $? >"$results/$target.status"
    cat "$MATRIX/$machine$home/rust-tlb/build/tools.summary" >>"$results/summary"
    packages "$machine" >"$results/packages.after"
}

# What was installed before, and is not as it was.
taken_away() {
    comm -23 "$RESULTS/$1/packages.before" "$RESULTS/$1/packages.after"
}

# how MACHINE HOW: what the summary says of it.
how() {
    sed -n "s/^$2: //p" "$RESULTS/$1/summary" | awk '!seen[$0]++' | paste -sd' ' | sed 's/^$/nothing/'
}

outcome() {
    local log=$RESULTS/$1/$2.log
    case $2 in
        run) if grep -q '^ *precise ' "$log"; then echo 'the table'; else echo 'NO TABLE'; fi ;;
        *) { grep -E '^[0-9]+ passed' "$log" || echo 'NO END'; } | tail -n 1 ;;
    esac
}

is_good() {
    if grep -qvx 0 "$RESULTS/$1"/*.status || [[ -n $(taken_away "$1") ]]; then
        die "not as it should be: ${TITLE[$1]}"
    fi
}

report() {
    local machine=$1 target
    printf '%s (commit %s)\n' "${TITLE[$machine]}" "$(cat "$RESULTS/$machine/commit")"
    printf '  %-12s %s\n' installed "$(how "$machine" installed)" private "$(how "$machine" private)" \
        used "$(how "$machine" used)" 'taken away' "$(taken_away "$machine" | paste -sd' ' | sed 's/^$/nothing/')"
    for target in $(targets_of "$machine"); do
        printf '  %-12s %s, exit status %s\n' "make $target" "$(outcome "$machine" "$target")" \
            "$(cat "$RESULTS/$machine/$target.status")"
        sed -n '/^How long it took/,$ { /^ /p }' "$RESULTS/$machine/$target.log"
    done
    printf '\n'
}

main() {
    local machine target uri security
    [[ $(id -u) == 0 ]] || die "this makes machines in folders, which takes root"
    command -v debootstrap >/dev/null || die "there is no debootstrap here: apt-get install debootstrap"
    uri=$(archive_uri) security=$(archive_uri -security)
    [[ -n $uri && -n $security ]] || die "apt knows no Debian archive here"
    (($#)) || set -- "${MACHINES[@]}"
    mkdir -p "$MATRIX"
    for machine in "$@"; do
        [[ -n ${TITLE[$machine]:-} ]] || die "there is no machine '$machine': ${MACHINES[*]}"
        [[ -z ${AGAIN:-} ]] || rm -rf "${RESULTS:?}/$machine"
        note "a base for ${TITLE[$machine]}"
        quietly "$OUT/setup-matrix.log" make_base "$(release_of "$machine")" "$uri" "$security"
    done
    for target in run test; do
        for machine in "$@"; do
            [[ " $(targets_of "$machine") " == *" $target "* ]] || continue
            while (($(jobs -rp | wc -l) >= AT_A_TIME)); do wait -n || true; done
            note "make $target: ${TITLE[$machine]}"
            try "$machine" "$target" "$uri" &
        done
        wait
    done
    for machine in "$@"; do report "$machine"; done | tee "$OUT/setup-matrix.txt"
    for machine in "$@"; do is_good "$machine"; done
}

main "$@"
