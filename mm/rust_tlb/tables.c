// SPDX-License-Identifier: GPL-2.0
/*
 * Page tables that an unmap by Rust left empty: how they are taken out of an mm,
 * and freed after the flush. Which ones, and when, is decided in
 * rust/kernel/mm/tlb/tables.rs; why it is right, in
 * Documentation/mm/tlb_batch_tables.rst. T1 to T7 below are its rules.
 */

/* Before the first header that may declare an event. */
#ifndef CONFIG_RUST_TLB_EVENTS
#define NOTRACE
#endif

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/mmu_notifier.h>
#include <linux/pgalloc.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/tlb_batch_tables.h>
#include <linux/tlb_hold.h>

#include <asm/tlbflush.h>

#define CREATE_TRACE_POINTS
#include <trace/events/rust_tlb_tables.h>

#include "../internal.h"

static bool breaks(const struct tlb_batch_tables *tables, unsigned int rule)
{
	return IS_ENABLED(CONFIG_RUST_TLB_FAULTS) && (tables->broken & rule);
}

static bool is_empty(pte_t *pte)
{
	int i;

	for (i = 0; i < PTRS_PER_PTE; i++)
		if (!pte_none(ptep_get(pte + i)))
			return false;
	return true;
}

/*
 * Clear @pmd if it points to an empty table, which is stored in @pmdval. As
 * zap_pte_table_if_empty(): nobody can fill an entry while its lock is held, and
 * nobody can replace the table while that of @pmd is.
 */
static enum tlb_batch_table_fate
clear_pmd(const struct tlb_batch_tables *tables, struct mm_struct *mm,
	  pmd_t *pmd, unsigned long addr, pmd_t *pmdval)
{
	enum tlb_batch_table_fate fate = TLB_BATCH_TABLE_ABSENT;
	spinlock_t *pml, *ptl;
	pte_t *pte;

	pml = pmd_lock(mm, pmd);
	pte = pte_offset_map_rw_nolock(mm, pmd, addr, pmdval, &ptl);
	if (!pte)
		goto unlock_pmd;
	if (ptl != pml)
		spin_lock_nested(ptl, SINGLE_DEPTH_NESTING);

	/* T2 */
	fate = TLB_BATCH_TABLE_USED;
	if (is_empty(pte) || breaks(tables, TLB_BATCH_BREAK_RECHECK)) {
		pmd_clear(pmd);
		fate = TLB_BATCH_TABLE_TAKEN;
	}

	if (ptl != pml)
		spin_unlock(ptl);
	pte_unmap(pte);
unlock_pmd:
	spin_unlock(pml);
	return fate;
}

/*
 * A PMD of @mm is about to be cleared, and is flushed later: whoever finds it
 * empty has no PTE to flush, and must not return early all the same. Every gather
 * of @mm ends in a full flush from here on, if @tells, until
 * tlb_batch_retract().
 * Context: any. @mm is kept meanwhile; it may be without users.
 */
void tlb_batch_announce(struct mm_struct *mm, bool tells)
{
	mmgrab(mm);
	if (tells)
		inc_tlb_flush_pending(mm);
}

/*
 * Undo one tlb_batch_announce(), with the same @tells.
 * Context: the flush has been made, or nothing was cleared. May sleep.
 */
void tlb_batch_retract(struct mm_struct *mm, bool tells)
{
	if (tells)
		dec_tlb_flush_pending(mm);
	mmdrop(mm);
}

/* T4: from before the PMD is cleared until after the flush. */
static void announce(const struct tlb_batch_tables *tables,
		     struct mm_struct *mm)
{
	tlb_batch_announce(mm, !breaks(tables, TLB_BATCH_BREAK_PENDING));
}

static void retract(const struct tlb_batch_tables *tables,
		    struct mm_struct *mm)
{
	tlb_batch_retract(mm, !breaks(tables, TLB_BATCH_BREAK_PENDING));
}

/*
 * The table keeps itself and its mm: there is nothing to allocate, and nothing
 * to run out of. Who has looked it up before can still lock it, and finds that
 * the PMD has changed: its lock and its entries stay as they are until RCU.
 */
static void keep(struct tlb_batch_tables *tables, struct mm_struct *mm,
		 struct ptdesc *table)
{
	table->pt_mm = mm;
	table->pt_list.next = (struct list_head *)tables->first;
	tables->first = table;
}

static enum tlb_batch_table_fate
take_notified(struct tlb_batch_tables *tables, struct mm_struct *mm, pmd_t *pmd,
	      unsigned long addr)
{
	enum tlb_batch_table_fate fate;
	struct mmu_notifier_range range;
	pmd_t pmdval;

	mmu_notifier_range_init(&range, MMU_NOTIFY_CLEAR, 0, mm, addr,
				addr + PMD_SIZE);
	mmu_notifier_invalidate_range_start(&range);
	announce(tables, mm);
	fate = clear_pmd(tables, mm, pmd, addr, &pmdval);
	if (fate == TLB_BATCH_TABLE_TAKEN) {
		mm_dec_nr_ptes(mm);
		keep(tables, mm, page_ptdesc(pmd_pgtable(pmdval)));
	} else {
		retract(tables, mm);
	}
	mmu_notifier_invalidate_range_end(&range);
	return fate;
}

static enum tlb_batch_table_fate take(struct tlb_batch_tables *tables,
				      struct vm_area_struct *vma,
				      unsigned long addr)
{
	bool is_locked = !breaks(tables, TLB_BATCH_BREAK_MMAP_LOCK);
	enum tlb_batch_table_fate fate = TLB_BATCH_TABLE_ABSENT;
	struct mm_struct *mm = vma->vm_mm;
	pmd_t *pmd = mm_find_pmd(mm, addr);

	if (!pmd || pmd_none(pmdp_get_lockless(pmd)))
		return TLB_BATCH_TABLE_ABSENT;
	/* T1 */
	if (is_locked && !mmap_read_trylock(mm))
		return TLB_BATCH_TABLE_BUSY;
	/* What exits frees its tables itself. */
	if (atomic_read(&mm->mm_users))
		fate = take_notified(tables, mm, pmd, addr);
	if (is_locked)
		mmap_read_unlock(mm);
	return fate;
}

/*
 * Take the page table out that maps [@addr, @addr + PMD_SIZE), if it is empty,
 * and add it to @tables. The caller then owes the mm a flush of all of it, one
 * that CPUs in lazy mode get, too: see tlb_batch_add_pending_table().
 * Context: may sleep. The rmap of @vma's file is locked: so the tables above stay,
 * and @vma is not freed. All of the range is @vma's.
 */
enum tlb_batch_table_fate
tlb_batch_table_take(struct tlb_batch_tables *tables,
		     struct vm_area_struct *vma, unsigned long addr)
{
	enum tlb_batch_table_fate fate;

	i_mmap_assert_locked(vma->vm_file->f_mapping);
	VM_WARN_ON_ONCE(addr & ~PMD_MASK);
	fate = take(tables, vma, addr);
	trace_rust_tlb_table_take(vma->vm_mm, addr, fate);
	return fate;
}

/*
 * All tables that go with a flush were taken out: a test may hold this moment.
 * Context: may sleep, if it is told to. No lock of an mm is held, but the rmap of a
 * file may be: then whoever holds this moment waits for nobody that wants that.
 */
void tlb_batch_tables_taken(void)
{
	tlb_hold_tables();
}

static void free_after_rcu(struct rcu_head *head)
{
	pagetable_dtor_free(container_of(head, struct ptdesc, pt_rcu_head));
}

/*
 * Free @tables, once nobody walks them any more: hardware does not, after the
 * flush, and software does not, after a grace period that begins now (T6).
 * Context: the flush of all of them has been made. Does not sleep.
 */
void tlb_batch_tables_free(struct tlb_batch_tables *tables)
{
	struct ptdesc *table;

	while ((table = tables->first)) {
		struct mm_struct *mm = table->pt_mm;

		tables->first = (struct ptdesc *)table->pt_list.next;
		table->pt_mm = NULL;
		paravirt_release_pte(page_to_pfn(ptdesc_page(table)));
		call_rcu(&table->pt_rcu_head, free_after_rcu);
		retract(tables, mm);
	}
}

/*
 * As tlb_batch_add_pending(), for a page table that was taken out: the round
 * goes to CPUs in lazy mode, too. They may walk it.
 */
void tlb_batch_add_pending_table(struct arch_tlbflush_unmap_batch *batch,
				 struct mm_struct *mm, unsigned long start,
				 unsigned long end)
{
	batch->freed_tables = true;
	arch_tlbbatch_add_pending(batch, mm, start, end);
}
