/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Empty page tables for the Rust abstractions in rust/kernel/mm/tlb/tables.rs:
 * taken out, flushed with the batch that left them empty, freed. The contract of
 * each function stands with its definition in mm/rust_tlb/tables.c.
 */
#ifndef _LINUX_TLB_BATCH_TABLES_H
#define _LINUX_TLB_BATCH_TABLES_H

#include <linux/types.h>

#include <asm/tlbbatch.h>

struct mm_struct;
struct ptdesc;
struct vm_area_struct;

#ifdef CONFIG_RUST_TLB

/* What became of a page table. */
enum tlb_batch_table_fate {
	TLB_BATCH_TABLE_TAKEN,
	/* There is none. */
	TLB_BATCH_TABLE_ABSENT,
	/* Something is mapped by it. */
	TLB_BATCH_TABLE_USED,
	/* Someone changes the mappings of its mm. */
	TLB_BATCH_TABLE_BUSY,
};

/* Rules to break, with CONFIG_RUST_TLB_FAULTS. */
#define TLB_BATCH_BREAK_MMAP_LOCK	1U
#define TLB_BATCH_BREAK_RECHECK		2U
#define TLB_BATCH_BREAK_PENDING		4U

/* Page tables that were taken out, and wait for their flush. */
struct tlb_batch_tables {
	struct ptdesc *first;
	unsigned int broken;
};

enum tlb_batch_table_fate
tlb_batch_table_take(struct tlb_batch_tables *tables,
		     struct vm_area_struct *vma, unsigned long addr);
void tlb_batch_announce(struct mm_struct *mm, bool tells);
void tlb_batch_retract(struct mm_struct *mm, bool tells);
void tlb_batch_tables_taken(void);
void tlb_batch_tables_free(struct tlb_batch_tables *tables);
void tlb_batch_add_pending_table(struct arch_tlbflush_unmap_batch *batch,
				 struct mm_struct *mm, unsigned long start,
				 unsigned long end);

#endif /* CONFIG_RUST_TLB */
#endif /* _LINUX_TLB_BATCH_TABLES_H */
