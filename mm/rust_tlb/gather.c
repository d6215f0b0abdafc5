// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's own mmu_gather for Rust: the peer that a batch is measured
 * against, and what frees empty page tables with a ranged flush. Decisions are
 * made in rust/kernel/mm/tlb/gather.rs.
 *
 * A gather is flushed by tlb_finish_mmu(), and only then are the references of
 * the pages that it zapped put, and the tables that it took out freed. If it is
 * full, zap_vma_range_batched() flushes it early.
 */

/* Before the first header that may declare an event. */
#ifndef CONFIG_RUST_TLB_EVENTS
#define NOTRACE
#endif

#include <linux/mm.h>
#include <linux/tlb_batch_gather.h>

#include <asm/tlb.h>

#define CREATE_TRACE_POINTS
#include <trace/events/rust_tlb_gather.h>

#include "../internal.h"

/*
 * Call @zap with a gather of @mm, then flush what it zapped: one range, from
 * the lowest address to the highest, or all of @mm if another gather is at work
 * in it (mm_tlb_flush_nested()).
 * Context: may sleep; IRQs enabled, no spinlock held. @mm is not freed.
 */
void tlb_batch_gather(struct mm_struct *mm,
		      void (*zap)(struct mmu_gather *gather, void *data),
		      void *data)
{
	struct mmu_gather gather;

	might_sleep();
	tlb_gather_mmu(&gather, mm);
	zap(&gather, data);
	trace_rust_tlb_gather_end(mm, gather.start, gather.end,
				  gather.freed_tables);
	tlb_finish_mmu(&gather);
}

/*
 * Zap [@start, @end) of @vma.
 * Context: may sleep. @vma is locked: by the rmap of its file, as in
 * unmap_mapping_range(), by its own lock, or by the mmap_lock. It is of the mm of
 * @gather, and [@start, @end) lies in it.
 */
void tlb_batch_gather_zap(struct mmu_gather *gather,
			  struct vm_area_struct *vma, unsigned long start,
			  unsigned long end)
{
	zap_vma_range_batched(gather, vma, start, end - start, NULL);
}

/*
 * As tlb_batch_gather_zap(), and take page tables out that are empty afterwards
 * and that lie in [@start, @end). Returns whether that could be tried: who takes
 * a table out holds the mmap_lock, too, as MADV_DONTNEED does, or mremap would
 * move PTEs into it. The lock comes before the rmap's, so it is only tried.
 */
bool tlb_batch_gather_zap_tables(struct mmu_gather *gather,
				 struct vm_area_struct *vma,
				 unsigned long start, unsigned long end)
{
	struct zap_details details = { .reclaim_pt = true };
	struct mm_struct *mm = vma->vm_mm;

	if (!mmap_read_trylock(mm)) {
		tlb_batch_gather_zap(gather, vma, start, end);
		return false;
	}
	zap_vma_range_batched(gather, vma, start, end - start, &details);
	mmap_read_unlock(mm);
	return true;
}
