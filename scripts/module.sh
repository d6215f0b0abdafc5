#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: module.sh CONFIG [KDIR]
#
# Builds rust_tlb.ko alone, from this checkout, against a kernel that has our patches and was built: KDIR, its build
# folder, or else the one that `make kernel CONFIG=` built. The result is in build/module/.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"

KDIR=${2:-$OUT/kernel-$1}
LOG=$OUT/module.log
load_tools

[[ -f $KDIR/Module.symvers ]] || die "$KDIR holds no built kernel: make kernel CONFIG=$1, or KDIR=a build folder"
grep -qx 'CONFIG_RUST_TLB=y' "$KDIR/.config" ||
    die "the kernel in $KDIR was built without CONFIG_RUST_TLB: make overlay KSRC=its source, then build it with that"

# What a package of kernel headers has is enough for a module in C.
for file in rust/libkernel.rmeta rust/libmacros.so rust/libcore.rmeta; do
    [[ -f $KDIR/$file ]] || die "$KDIR has headers, and not what Rust's crates export ($file): a module in Rust takes" \
        "the folder that the kernel was built in"
done
# A build folder may have been moved since, but not the source that it was built from. Where that is, only its Makefile
# says; that has been told where the folder was, too, so that it is not what is called.
SOURCE=$(sed -n 's|^include \(/.*\)/Makefile$|\1|p' "$KDIR/Makefile" 2>/dev/null | head -n 1)
[[ -z $SOURCE || -f $SOURCE/Makefile ]] ||
    die "$KDIR was built from $SOURCE, which is no longer there: move the source back, or build again"

step 2 "module"
mkdir -p "$OUT/module"
KDIR=$(realpath "$KDIR")
arguments=(-C "${SOURCE:-$KDIR}" ${SOURCE:+O="$KDIR"} M="$TOP" MO="$OUT/module" CONFIG_SAMPLE_RUST_TLB=m)
if verbose; then
    kernel_make "${arguments[@]}" V=1
elif ! kernel_make "${arguments[@]}" >"$LOG" 2>&1; then
    first_error "$LOG" >&2
    die "the module does not build; its first error is above, the whole log is $LOG"
fi
note "build/module/samples/rust/rust_tlb/rust_tlb.ko"
