/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Mappings of PMD_SIZE for the Rust abstractions in rust/kernel/mm/: of memory
 * by its frame numbers, or of folios. The contract of each function stands
 * with its definition in mm/rust_tlb/huge.c.
 */
#ifndef _LINUX_TLB_BATCH_HUGE_H
#define _LINUX_TLB_BATCH_HUGE_H

#include <linux/gfp_types.h>
#include <linux/mm.h>

struct tlb_batch_cleared;
struct tlb_batch_table;

#ifdef CONFIG_RUST_TLB

static inline bool tlb_batch_can_have_leaves(const struct vm_area_struct *vma)
{
	return vma->vm_ops && vma->vm_ops->huge_fault;
}

struct page *tlb_batch_alloc_huge(gfp_t gfp);
vm_fault_t tlb_batch_insert_huge(struct vm_fault *vmf, struct page *page);
vm_fault_t tlb_batch_insert_huge_folio(struct vm_fault *vmf, struct page *page,
				       bool write);
bool tlb_batch_is_leaf(pmd_t *pmd);
bool tlb_batch_leaf_lock(struct tlb_batch_table *table, pmd_t *pmd);
bool tlb_batch_is_vacant(struct vm_area_struct *vma, pmd_t *pmd);
struct tlb_batch_cleared tlb_batch_clear_leaf(struct tlb_batch_table *table,
					      unsigned long addr,
					      struct page *page,
					      unsigned int nr);
unsigned int tlb_batch_test_young_leaf(const struct tlb_batch_table *table,
				       bool clear);
void tlb_batch_split_leaf(struct vm_area_struct *vma, unsigned long addr);

#endif /* CONFIG_RUST_TLB */
#endif /* _LINUX_TLB_BATCH_HUGE_H */
