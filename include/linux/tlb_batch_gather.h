/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own mmu_gather for the Rust abstractions in
 * rust/kernel/mm/tlb/gather.rs. It stays on a stack of C's: its layout is hidden
 * from bindgen, as the flush functions are (see <linux/tlb_batch.h>). The
 * contract of each function stands with its definition in
 * mm/rust_tlb/gather.c.
 */
#ifndef _LINUX_TLB_BATCH_GATHER_H
#define _LINUX_TLB_BATCH_GATHER_H

#include <linux/types.h>

struct mm_struct;
struct mmu_gather;
struct vm_area_struct;

#ifdef CONFIG_RUST_TLB

void tlb_batch_gather(struct mm_struct *mm,
		      void (*zap)(struct mmu_gather *gather, void *data),
		      void *data);
void tlb_batch_gather_zap(struct mmu_gather *gather,
			  struct vm_area_struct *vma, unsigned long start,
			  unsigned long end);
bool tlb_batch_gather_zap_tables(struct mmu_gather *gather,
				 struct vm_area_struct *vma,
				 unsigned long start, unsigned long end);

#endif /* CONFIG_RUST_TLB */
#endif /* _LINUX_TLB_BATCH_GATHER_H */
