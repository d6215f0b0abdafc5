/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runs of page-table entries that mremap() moves under one hold of locks and
 * with one flush: what mm/mremap.c shares with others for them. The rules are in
 * Documentation/mm/tlb_batch_mremap.rst.
 */
#ifndef _MM_MREMAP_RUN_H
#define _MM_MREMAP_RUN_H

#include <linux/bits.h>
#include <linux/mm_types.h>
#include <linux/tlb_hold.h>

struct dentry;

/* What the entries of a run are. */
enum mremap_run_kind {
	MREMAP_RUN_TABLES,	/* PMD entries that point to PTE tables */
	MREMAP_RUN_HUGE_PMDS,
	MREMAP_RUN_PTES,	/* the PTEs of several tables */
};

bool move_huge_pmd_locked(struct vm_area_struct *vma, unsigned long old_addr,
			  unsigned long new_addr, pmd_t *old_pmd,
			  pmd_t *new_pmd);

/*
 * What tests can have happen to a run, in debugfs: mremap/faults. The first two
 * are no fault: they hold open what is short else.
 */
enum mremap_fault {
	/* Wait with all locks held, before the flush. */
	MREMAP_FAULT_HOLD		= BIT(0),
	/* Stop after three entries, as if a table had vanished. */
	MREMAP_FAULT_STOP_EARLY		= BIT(1),
	/* Drop the locks, wait, flush. */
	MREMAP_FAULT_UNLOCK_FIRST	= BIT(2),
	/* End the bracket of the MMU notifiers, wait, flush. */
	MREMAP_FAULT_END_FIRST		= BIT(3),
	/* Flush an address per PMD, whatever the PMD is. */
	MREMAP_FAULT_STRIDE_OF_PMD	= BIT(4),
	/* Allocate with the locks held. */
	MREMAP_FAULT_ALLOCATE		= BIT(5),
	/* Do not flush. */
	MREMAP_FAULT_UNFLUSHED		= BIT(6),
};

#if defined(CONFIG_MREMAP_BATCH_FLUSH) && defined(CONFIG_RUST_TLB_FAULTS)
void mremap_faults_init(struct dentry *dir);
bool mremap_fault_stops(unsigned long nr_moved);
void mremap_fault_allocate(void);
bool mremap_fault_flush(struct vm_area_struct *vma, unsigned long start,
			unsigned long len);
void mremap_fault_flush_late(enum mremap_fault when,
			     struct vm_area_struct *vma);
#else
static inline void mremap_faults_init(struct dentry *dir)
{
}

static inline bool mremap_fault_stops(unsigned long nr_moved)
{
	return false;
}

static inline void mremap_fault_allocate(void)
{
}

static inline bool mremap_fault_flush(struct vm_area_struct *vma,
				      unsigned long start, unsigned long len)
{
	return false;
}

static inline void mremap_fault_flush_late(enum mremap_fault when,
					   struct vm_area_struct *vma)
{
}
#endif

#endif /* _MM_MREMAP_RUN_H */
