/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Moves of PTEs between two mappings of a process, for
 * rust/kernel/mm/tlb/moving.rs.
 * The contract of each function stands with its definition in mm/rust_tlb/move.c.
 */
#ifndef _LINUX_TLB_MOVE_H
#define _LINUX_TLB_MOVE_H

#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/tlb_batch.h>

#ifdef CONFIG_RUST_TLB

/* What tlb_move_look() found. */
#define TLB_MOVE_NO_PAGE	1U
#define TLB_MOVE_LOCKED		2U
#define TLB_MOVE_BAD		4U
#define TLB_MOVE_RMAP		8U
#define TLB_MOVE_WRITEBACK	16U

/* A PTE, by value. */
struct tlb_move_pte {
	unsigned long pfn;
	bool present;
	bool dirty;
};

/* A page table that can be moved as it is, with the locks of both its places. */
struct tlb_move_whole {
	struct vm_area_struct *vma;
	pmd_t *old_pmd, *new_pmd;
	spinlock_t *old_ptl, *new_ptl, *pte_ptl;
	pte_t *ptes;
};

int tlb_move_lock(struct mm_struct *mm);
void tlb_move_unlock(struct mm_struct *mm);
struct vm_area_struct *tlb_move_vma(struct mm_struct *mm, unsigned long addr);
int tlb_move_check(const struct vm_area_struct *from,
		   const struct vm_area_struct *to);
int tlb_move_prepare(struct vm_area_struct *vma, unsigned long addr,
		     bool table);
void tlb_move_rmap_lock(struct vm_area_struct *vma);
void tlb_move_rmap_unlock(struct vm_area_struct *vma);
bool tlb_move_pte_lock(struct tlb_batch_table *table,
		       struct vm_area_struct *vma, unsigned long addr,
		       const struct tlb_batch_table *beside);
struct tlb_move_pte tlb_move_read(pte_t *pte);
bool tlb_move_pte(const struct tlb_batch_table *from, unsigned long old,
		  pte_t *pte, unsigned long new, pte_t *new_pte);
bool tlb_move_whole_lock(struct tlb_move_whole *whole,
			 struct vm_area_struct *from, unsigned long old,
			 struct vm_area_struct *to, unsigned long new);
void tlb_move_whole_move(struct tlb_move_whole *whole);
void tlb_move_whole_unlock(struct tlb_move_whole *whole);
void tlb_move_settle_others(struct mm_struct *mm);
unsigned int tlb_move_look(unsigned long pfn);
struct page *tlb_move_pin(unsigned long pfn);
void tlb_move_unpin(struct page *page);
bool tlb_move_page_trylock(struct page *page);
void tlb_move_page_unlock(struct page *page);

#endif /* CONFIG_RUST_TLB */
#endif /* _LINUX_TLB_MOVE_H */
