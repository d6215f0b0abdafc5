#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: kernel-config.sh NAME[-NAME]... BUILD LOG
#
# Makes the kernel's configuration in the build folder BUILD, from tinyconfig and our fragments, unless it is there and
# nothing that it depends on has changed. `run` is what the main job needs, and all others have more; bench-noevents is
# bench.config with noevents.config on top.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"

BUILD=$2
LOG=$3
TREE=$(<"$OUT/kernel-tree")
case $1 in
    series) NAMES=(series) ;;
    run) IFS=- read -ra NAMES <<<"base-$1" ;;
    bench*) IFS=- read -ra NAMES <<<"base-trace-run-$1" ;;
    *) IFS=- read -ra NAMES <<<"base-trace-$1" ;;
esac
FRAGMENTS=("${NAMES[@]/#/$TOP/scripts/config/}")
FRAGMENTS=("${FRAGMENTS[@]/%/.config}")
KEY_FILE=$BUILD/.rust-tlb-config

for fragment in "${FRAGMENTS[@]}"; do
    [[ -f $fragment ]] || die "there is no configuration '$1': CONFIG is run, bench, test, kcsan, bench-noevents or bench-noring"
done
load_tools
KEY=$(cat "${FRAGMENTS[@]}" "$TOOLS_ENV" "$TOP/scripts/kernel-make.sh" | sha256sum)

is_current() {
    [[ -f $BUILD/.config && -f $KEY_FILE && $(<"$KEY_FILE") == "$KEY" ]] &&
        [[ -z $(find "$TREE" -name 'Kconfig*' -newer "$KEY_FILE" -print -quit) ]]
}

# Kconfig drops without a word what it cannot have. The last fragment that names an option decides.
missing_options() {
    sed -n 's/^\(CONFIG_[A-Za-z0-9_]*\)=\(.*\)$/\1 \2/p; s/^# \(CONFIG_[A-Za-z0-9_]*\) is not set$/\1 n/p' \
        "${FRAGMENTS[@]}" | awk -v config="$BUILD/.config" '
            BEGIN { FS = "="; while ((getline <config) > 0) if (/^CONFIG_/) is[$1] = substr($0, length($1) + 2); FS = " " }
            { want[$1] = $2 }
            END { for (o in want) { have = o in is ? is[o] : "n"
                if (have != want[o]) print "  " o "=" want[o] " is " have } }' | sort
}

is_current && exit 0
note "configuring"
mkdir -p "$BUILD"
quietly "$LOG" kernel_make -C "$TREE" O="$BUILD" tinyconfig
quietly "$LOG" "$TREE/scripts/kconfig/merge_config.sh" -m -Q -O "$BUILD" "$BUILD/.config" "${FRAGMENTS[@]}"
quietly "$LOG" kernel_make -C "$TREE" O="$BUILD" olddefconfig
missing=$(missing_options)
[[ -z $missing ]] || die "these options did not make it into the configuration (dependencies?):
$missing"
printf '%s\n' "$KEY" >"$KEY_FILE"
