#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# USAGE: frames.sh
#
# The stack frames of the project's functions in a kernel for 8192 CPUs, where a mask of CPUs takes 1 KiB: the largest
# are listed, and one above what the kernel's own build warns of (FRAME_WARN) is an error. Builds objects, no kernel.

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
# shellcheck source=scripts/kernel-make.sh
source "$TOP/scripts/kernel-make.sh"

CONFIG_NAME=bench-many
LOG=$OUT/kernel-$CONFIG_NAME.log
# Bytes.
LIMIT=2048
SHOWN=15
# The objects, and which of their functions are the project's.
OBJECTS=(rust/kernel.o mm/rust_tlb/built-in.a arch/x86/mm/flush_ring.o samples/rust/rust_tlb/rust_tlb.o
    samples/rust/rust_tlb_minimal.o drivers/android/binder/rust_binder_main.o)
OURS='kernel::mm::|rust_tlb|tlb_(charge|defer|hold|mapping|move)|flush_ring|user_mapping_tlb|page_range'

# Lines `BYTES FUNCTION`, of what an object's functions take by `sub $BYTES, %rsp`.
frames() {
    "llvm-objdump$LLVM" --disassemble --demangle --no-show-raw-insn "$BUILD/$1" | awk '
        /^[0-9a-f]+ <.*>:$/ { name = $0; sub(/^[0-9a-f]+ </, "", name); sub(/>:$/, "", name) }
        /subq?[ \t]+\$(0x)?[0-9a-f]+, %rsp/ {
            match($0, /\$(0x)?[0-9a-f]+/)
            print substr($0, RSTART + 1, RLENGTH - 1), name
        }' | while read -r bytes name; do echo "$((bytes)) $name"; done
}

lock_cache
load_tools
"$TOP/scripts/kernel-source.sh"
"$TOP/scripts/overlay.sh"
step 4 "objects for 8192 CPUs"
TREE=$(<"$OUT/kernel-tree")
BUILD=$RUST_TLB_CACHE/build/$(basename "$TREE")/$CONFIG_NAME
"$TOP/scripts/kernel-config.sh" "$CONFIG_NAME" "$BUILD" "$LOG"
grep -qx 'CONFIG_NR_CPUS=8192' "$BUILD/.config" || die "the configuration is not one for 8192 CPUs"
quietly "$LOG" kernel_make -C "$TREE" O="$BUILD" -j"$(nproc)" mm/rust_tlb/ arch/x86/mm/flush_ring.o samples/rust/ \
    drivers/android/binder/ || { first_error "$LOG" >&2 && die "they do not build: $LOG"; }

step 5 "the largest frames, in bytes"
for object in "${OBJECTS[@]}"; do
    [[ -f $BUILD/$object ]] || die "there is no $object"
    frames "$object"
done | grep -E "$OURS" | sort -rn >"$OUT/frames.txt"
[[ -s $OUT/frames.txt ]] || die "no frame was found"
head -n "$SHOWN" "$OUT/frames.txt" | awk '{ bytes = $1; sub(/^[0-9]+ /, ""); printf "%6d  %s\n", bytes, $0 }'
read -r largest _ <"$OUT/frames.txt"
((largest <= LIMIT)) || die "a frame of $largest bytes: more than $LIMIT"
note "$(wc -l <"$OUT/frames.txt") functions with a frame, none above $LIMIT bytes"
