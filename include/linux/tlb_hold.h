/* SPDX-License-Identifier: GPL-2.0 */
/* Moments that a test can hold open: see mm/rust_tlb/hold.c. */
#ifndef _LINUX_TLB_HOLD_H
#define _LINUX_TLB_HOLD_H

#include <linux/types.h>

#ifdef CONFIG_RUST_TLB_FAULTS
void tlb_hold_fault(void);
void tlb_hold_tables(void);
void tlb_hold_move(void);
bool tlb_hold_passes_leaf(void);
#else
static inline void tlb_hold_fault(void)
{
}

static inline void tlb_hold_tables(void)
{
}

static inline void tlb_hold_move(void)
{
}

static inline bool tlb_hold_passes_leaf(void)
{
	return false;
}
#endif

#endif /* _LINUX_TLB_HOLD_H */
