#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: setup-tests.sh [TEST]...
#
# Tests the scripts that set up and build, against package lists, plans and trees that are made up. Prints `ok TEST` or
# `not ok TEST` for each, and lines with `#` before it that say why. Installs nothing, fetches nothing.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# expect WHAT IS
expect() {
    [[ $1 == "$2" ]] || { printf '# expected "%s", and not "%s"\n' "$1" "$2" && return 1; }
}

# expect_words TEXT IS: that it is part of it.
expect_words() {
    [[ $2 == *"$1"* ]] || { printf '# expected the words "%s", and not:\n%s\n' "$1" "$2" && return 1; }
}

### apt's plans. apt-get is a function that prints the plan for what it is asked for.

apt_tests() {
    # shellcheck source=scripts/apt-plan.sh
    source "$TOP/scripts/apt-plan.sh"
}

# Each package has a plan of its own; that of several is one after the other, as far as each has one.
apt-get() {
    local word
    for word in "$@"; do
        case $word in
            --print-uris) printf "'http://%s/InRelease' a_file 0 \n" other/dists/stable mirror/debian/dists/bookworm \
                mirror/security/dists/bookworm-security ;;
            fine*) printf 'Inst %s (1.0 Debian:12 [amd64])\nConf %s (1.0 Debian:12 [amd64])\n' "$word" "$word" ;;
            removes) printf 'Remv other [2.0]\nInst removes (1.0 Debian:12 [amd64])\n' ;;
            upgrades) printf 'Inst other [2.0] (2.1 Debian:12 [amd64]) []\nInst upgrades (1.0 Debian:12 [amd64])\n' ;;
            downgrades) printf 'Inst other [2.0] (1.9 Debian:12 [amd64])\nInst downgrades (1.0 Debian:12 [amd64])\n' ;;
            unknown) return 100 ;;
        esac
    done
}

# divided UNIT...: what divide makes of it, as "installable / unfit".
divided() {
    local installable unfit
    apt_tests
    divide "$@"
    printf '%s / %s' "${installable[*]}" "${unfit[*]}"
}

what_is_missing_is_installed_if_nothing_else_changes() {
    expect 'fine fine-too / ' "$(divided fine fine-too)"
}

what_would_remove_something_is_not_installed() {
    expect ' / removes' "$(divided removes)"
    expect 'other would be removed' "$(apt_tests && simulate removes | plan_harms)"
}

what_would_upgrade_something_is_not_installed() {
    expect ' / upgrades' "$(divided upgrades)"
    expect 'other 2.0 would become 2.1' "$(apt_tests && simulate upgrades | plan_harms)"
}

what_would_downgrade_something_is_not_installed() {
    expect ' / downgrades' "$(divided downgrades)"
    expect 'other 2.0 would become 1.9' "$(apt_tests && simulate downgrades | plan_harms)"
}

what_has_no_plan_is_not_installed() {
    expect ' / unknown' "$(divided unknown)"
}

the_harmless_part_is_installed() {
    expect 'fine fine-too / removes upgrades' "$(divided fine removes fine-too upgrades)"
}

what_belongs_together_is_installed_together_or_not() {
    expect 'fine / fine-too upgrades' "$(divided fine 'fine-too upgrades')"
}

the_archive_is_known_before_the_first_update() {
    # shellcheck source=scripts/private-apt.sh
    source "$TOP/scripts/private-apt.sh"
    printf 'ID=debian\nVERSION_CODENAME=bookworm\n' >"$WORK/os-release"
    export OS_RELEASE=$WORK/os-release
    expect http://mirror/debian/ "$(archive_uri)"
    expect http://mirror/security/ "$(archive_uri -security)"
    printf 'ID=ubuntu\nVERSION_CODENAME=noble\n' >"$WORK/os-release"
    expect '' "$(archive_uri)"
}

an_old_qemu_will_not_do() {
    # shellcheck source=scripts/qemu.sh
    source "$TOP/scripts/qemu.sh"
    local version
    for version in 8.1 8.1.0 8.2.4 10.0.2; do is_at_least "$MIN_QEMU" "$version" || expect "$MIN_QEMU" "$version"; done
    for version in '' 7.2.22 8.0.5; do ! is_at_least "$MIN_QEMU" "$version" || expect "not $MIN_QEMU" "$version"; done
}

### Kernel packages. private_apt is a function that knows the packages in $archive, "name version" each.

kernel_tests() {
    # shellcheck source=scripts/kernel-version.sh
    source "$TOP/scripts/kernel-version.sh"
    # shellcheck source=scripts/kernel-package.sh
    source "$TOP/scripts/kernel-package.sh"
}

private_apt() {
    case $2 in
        pkgnames) cut -d' ' -f1 <<<"$archive" | grep "^$3" | sort -u ;;
        madison) awk -v name="$3" '$1 == name { print $1 " | " $2 " | somewhere Packages" }' <<<"$archive" |
            sed 's/ | / | /' | awk '{ print $1, "|", $3, "|" }' ;;
    esac
}

the_series_is_taken_while_it_is_there() {
    kernel_tests
    local archive=$'linux-source-6.12 6.12.1-1\nlinux-source 7.9\nlinux-source-7.3 7.3.4-1~bpo13+1\nlinux-source-7.5 7.5.1-1'
    expect 7.3 "$(choose_series)"
    expect 7.3.4-1~bpo13+1 "$(choose_version linux-source-7.3)"
}

the_newest_of_the_series_is_taken_for_the_pinned() {
    kernel_tests
    local archive=$'linux-source-7.3 7.3.9-1~bpo13+1\nlinux-source-7.3 7.3.12-1~bpo13+1'
    expect 7.3.12-1~bpo13+1 "$(choose_version linux-source-7.3)"
}

a_later_series_is_taken_when_it_is_gone() {
    kernel_tests
    local archive=$'linux-source-6.12 6.12.1-1\nlinux-source-7.9 7.9.1-1\nlinux-source-7.10 7.10.2-1'
    expect 7.10 "$(choose_series)"
    archive='linux-source-8.0 8.0.1-1'
    expect 8.0 "$(choose_series)"
}

an_earlier_series_is_not_taken() {
    kernel_tests
    local archive=$'linux-source-6.12 6.12.1-1\nlinux-source-7.2 7.2.1-1'
    expect '' "$(choose_series)"
    archive=''
    expect '' "$(choose_series)"
}

# A tree of a later series, with those files that our patches change, as they were before.
make_later_tree() {
    local tree path from
    tree=$(<"$OUT/kernel-tree")
    while IFS= read -r path; do
        from=$tree/.rust-tlb/original/$path
        [[ -f $from ]] || from=$tree/$path
        mkdir -p "$1/$(dirname "$path")"
        cp "$from" "$1/$path"
    done < <(sed -n 's|^+++ [^/]*/\([^\t]*\).*|\1|p' "$TOP"/patches/*.patch | sort -u)
    printf 'VERSION = 7\nPATCHLEVEL = 9\nSUBLEVEL = 1\nEXTRAVERSION =\n' >"$1/Makefile"
}

a_series_to_which_every_hunk_applies_is_taken() {
    make_later_tree "$WORK/later"
    expect '' "$("$TOP/scripts/overlay.sh" --try "$WORK/later" 2>&1)"
}

a_series_to_which_a_hunk_does_not_apply_is_refused() {
    local said
    make_later_tree "$WORK/later"
    # A blank more in each line.
    sed -i 's/$/ /' "$WORK/later/mm/rmap.c"
    if said=$("$TOP/scripts/overlay.sh" --try "$WORK/later" 2>&1); then expect 'a refusal' "$said"; fi
    expect_words 'does not apply exactly' "$said"
}

an_overlay_that_is_cut_off_takes_none_of_ours_for_the_trees() {
    local tree=$WORK/tree
    make_later_tree "$tree"
    mkdir "$WORK/out"
    echo "$tree" >"$WORK/out/kernel-tree"
    overlay() { RUST_TLB_OUT=$WORK/out RUST_TLB_CACHE=$WORK/cache RUST_TLB_LOCKED='' "$TOP/scripts/overlay.sh" 9>&-; }
    (cd "$tree" && find . -type f ! -name Makefile -o -path './*/Makefile') | sort >"$WORK/before"
    # No folder can be made there, and what comes before it is there already.
    touch "$tree/tools"
    if overlay >/dev/null 2>&1; then expect 'a failure' 'none'; fi
    [[ -f $tree/mm/rust_tlb/defer.c ]]
    rm "$tree/tools"
    overlay >/dev/null
    expect "$(<"$WORK/before")" "$(cd "$tree/.rust-tlb/original" && find . -type f | sort)"
}

### bindgen, of a version that is made up.

# settled VERSION: what is said to a bindgen of the user's.
settled() {
    # shellcheck source=scripts/qemu.sh
    source "$TOP/scripts/qemu.sh"
    # shellcheck source=scripts/bindgen.sh
    source "$TOP/scripts/bindgen.sh"
    printf '#!/bin/sh\necho bindgen %s\n' "$1" >"$WORK/bindgen"
    chmod +x "$WORK/bindgen"
    # shellcheck disable=SC2034 # of bindgen.sh
    USERS_BINDGEN=$WORK/bindgen
    get_bindgen 2>&1 && printf '%s' "$BINDGEN"
}

a_newer_bindgen_is_taken_and_told_of() {
    local said
    said=$(settled 0.99.0)
    expect_words 'bindgen 0.99.0, not 0.72.1' "$said"
    expect_words "bindings layout" "$said"
    expect "$WORK/bindgen" "$(settled 0.72.1)"
}

an_older_bindgen_is_refused() {
    local said
    if said=$(settled 0.70.0); then expect 'a refusal' "$said"; fi
    expect_words 'the kernel wants bindgen 0.71.1 or newer' "$said"
}

### make module KDIR=

# A folder that says of itself what a built kernel does.
make_kernel_folder() {
    mkdir -p "$1/rust"
    touch "$1/Module.symvers"
    echo CONFIG_RUST_TLB=y >"$1/.config"
}

# refusal_of_module KDIR
refusal_of_module() {
    local said
    if said=$("$TOP/scripts/module.sh" bench "$1" 2>&1); then said='it was not refused'; fi
    printf '%s' "$said"
}

a_module_against_headers_alone_is_refused() {
    make_kernel_folder "$WORK/headers"
    expect_words 'the folder that the kernel was built in' "$(refusal_of_module "$WORK/headers")"
}

a_module_against_a_lost_source_is_refused() {
    make_kernel_folder "$WORK/lost"
    touch "$WORK/lost/rust"/{libkernel.rmeta,libcore.rmeta,libmacros.so}
    printf 'include /nowhere/linux/Makefile\n' >"$WORK/lost/Makefile"
    expect_words 'was built from /nowhere/linux, which is no longer there' "$(refusal_of_module "$WORK/lost")"
}

### KSRC=

# A distribution's tree: with its configuration, that names its certificates, and something that was built.
a_distributions_configuration_is_left_out() {
    local tree=$WORK/distribution copy
    mkdir -p "$tree/debian/certs" "$tree/mm"
    printf 'VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n' >"$tree/Makefile"
    echo 'CONFIG_SYSTEM_TRUSTED_KEYS="debian/certs/debian-uefi-certs.pem"' >"$tree/.config"
    touch "$tree/mm/rmap.c" "$tree/mm/rmap.o"
    RUST_TLB_OUT=$WORK/out RUST_TLB_CACHE=$WORK/cache RUST_TLB_LOCKED='' KSRC=$tree "$TOP/scripts/kernel-source.sh" >/dev/null 9>&-
    copy=$(<"$WORK/out/kernel-tree")
    expect 'mm/rmap.c' "$(cd "$copy" && find . -name .config -printf '%P\n' -o -path './mm/rmap*' -printf '%P\n')"
    # And none of our configurations has modules signed, or keys trusted.
    ! grep -hE 'MODULE_SIG|TRUSTED_KEY' "$TOP"/scripts/config/*.config
}

### The machine.

a_panic_before_init_ends_it() {
    local said
    if said=$("$CARGO_TARGET_DIR/release/rust-tlb-runner" boot --config test --kernel-argument kunit.enable=0 \
        --kernel-argument rootfstype=none -- true 2>&1); then
        expect 'a failure' "$said"
    fi
    expect_words 'Kernel panic' "$said"
    # Or else it was the silence afterwards that ended it, a minute or two later.
    [[ $said != *'booting once more'* ]] || expect 'the panic ends it' "$said"
}

# Each in a shell of its own, which ends with the first thing that is not as expected.
run() {
    local status
    # In a condition, `set -e` would be ignored.
    set +e
    (set -e; "$1") >"$WORK/said" 2>&1
    status=$?
    set -e
    if ((status == 0)); then
        printf 'ok %s\n' "$1"
    else
        sed 's/^\([^#]\)/# \1/' "$WORK/said"
        printf 'not ok %s\n' "$1"
    fi
    rm -rf "${WORK:?}"/*
}

# All that are listed, so that one that is listed and is not here fails.
names=()
(($#)) || mapfile -t names < <(sed -n 's/^setup //p' "$TOP/selftests/rust_tlb/tests.list")
for name in "$@" "${names[@]}"; do run "$name"; done
