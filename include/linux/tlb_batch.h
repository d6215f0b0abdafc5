/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Deferred TLB flushes and page-table access for the Rust abstractions in
 * rust/kernel/mm/.
 *
 * The x86 flush primitives are hidden from modules and from bindgen by
 * `#ifndef MODULE` in <asm/tlbflush.h>, and nothing here is exported: the
 * functions are built in, and only the kernel crate calls them, from functions
 * that are not inlined. Those are exported to GPL modules, like the rest of the
 * crate. The contract of each function stands with its definition in
 * mm/rust_tlb/.
 */
#ifndef _LINUX_TLB_BATCH_H
#define _LINUX_TLB_BATCH_H

#include <linux/flush_ring.h>
#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/mmu_notifier.h>
#include <linux/shrinker.h>
#include <linux/workqueue.h>

struct address_space;

#ifdef CONFIG_RUST_TLB

/*
 * How many entries were cleared; how many of those were dirty: then writes can
 * still land through a stale entry (rule H14 of Documentation/mm/tlb_batch.rst);
 * and how many were writable: then they can, too, if the CPU is not trusted.
 */
struct tlb_batch_cleared {
	unsigned int nr;
	unsigned int nr_dirty;
	unsigned int nr_writable;
};

/*
 * Where @page, and the @nr - 1 behind it in its folio, should be mapped. If there
 * are @pages, those should be, of which @page is the first: each of its own.
 */
struct tlb_batch_part {
	unsigned long addr;
	struct page *page;
	struct page *const *pages;
	unsigned int nr;
};

/* Parts that are cleared in one go, at most: a bit for each. */
#define TLB_BATCH_MAX_PARTS	16U

/*
 * What was cleared of parts: from the first to the last lies in [@start, @end);
 * of those that are @missing (a bit for each) not all entries were there.
 */
struct tlb_batch_changed {
	struct tlb_batch_cleared cleared;
	u16 missing;
	unsigned long start;
	unsigned long end;
};
static_assert(BITS_PER_TYPE(u16) >= TLB_BATCH_MAX_PARTS);

/* What tlb_batch_test_young() found. */
#define TLB_BATCH_MAPPED	1U
#define TLB_BATCH_YOUNG		2U

void tlb_batch_add_pending(struct arch_tlbflush_unmap_batch *batch,
			   struct mm_struct *mm, unsigned long start,
			   unsigned long end);
void tlb_batch_publish(struct arch_tlbflush_unmap_batch *batch,
		       struct mm_struct *mm, const u64 *runs,
		       unsigned long nr_runs);
void tlb_batch_rings_get(void);
void tlb_batch_rings_put(void);
int tlb_batch_ring_add(struct mm_struct *mm);
void tlb_batch_flush_pending(struct arch_tlbflush_unmap_batch *batch);
void tlb_batch_flush_mm_range(struct mm_struct *mm, unsigned long start,
			      unsigned long end);
void tlb_batch_note_batched(struct mm_struct *mm);
unsigned long tlb_batch_ceiling(void);
bool tlb_batch_is_traced(void);

void tlb_batch_rmap_lock(struct address_space *mapping);
bool tlb_batch_rmap_trylock(struct address_space *mapping);
void tlb_batch_rmap_unlock(struct address_space *mapping);
struct vm_area_struct *tlb_batch_rmap_first(struct address_space *mapping,
					    pgoff_t first, pgoff_t last);
struct vm_area_struct *tlb_batch_rmap_next(struct vm_area_struct *vma,
					   pgoff_t first, pgoff_t last);
void tlb_batch_invalidate_start(struct mmu_notifier_range *range,
				struct vm_area_struct *vma,
				unsigned long start, unsigned long end);
void tlb_batch_invalidate_end(struct mmu_notifier_range *range);
void tlb_batch_zap(struct vm_area_struct *vma, unsigned long addr,
		   unsigned long size);
void tlb_batch_cond_resched(void);
bool tlb_batch_is_being_killed(void);

/*
 * A locked page table of a VMA, whether its PTEs own references, whether it is
 * locked by way of another one, and what its rss has yet to lose. Or a leaf, that
 * is a PMD which maps all that a table would: then there is no PTE, the lock is
 * that of the PMD, and @leafval what was in it when it was locked, or cleared.
 */
struct tlb_batch_table {
	struct vm_area_struct *vma;
	pte_t *pte;
	pmd_t *leaf;
	pmd_t leafval;
	spinlock_t *ptl;
	bool maps_pfns;
	bool shares_lock;
	bool is_leaf_cleared;
	int nr_cleared[NR_MM_COUNTERS];
};

bool tlb_batch_pte_lock(struct tlb_batch_table *table,
			struct vm_area_struct *vma, unsigned long addr);
void tlb_batch_pte_unlock(struct tlb_batch_table *table);
struct tlb_batch_changed
tlb_batch_clear_parts(struct tlb_batch_table *table, unsigned long addr,
		      const struct tlb_batch_part *parts, unsigned int nr);
bool tlb_batch_protect_pte(const struct tlb_batch_table *table,
			   unsigned long addr, pte_t *pte, struct page *page);
unsigned int tlb_batch_test_young(const struct tlb_batch_table *table,
				  unsigned long addr, pte_t *pte, bool clear);
bool tlb_batch_flush_is_pending(struct mm_struct *mm);
bool tlb_batch_page_exclusive(struct page *page);
bool tlb_batch_page_is_bad(struct page *page);
bool tlb_batch_vma_is_fresh(const struct vm_area_struct *vma);
struct page *tlb_batch_folio_alloc(gfp_t gfp, unsigned int order);
void tlb_batch_folio_put(struct page *page);
vm_fault_t tlb_batch_insert_page(struct vm_fault *vmf, struct page *page,
				 unsigned int nr_before, unsigned int nr_behind,
				 bool write);
vm_fault_t tlb_batch_insert_pfn(struct vm_fault *vmf, struct page *page,
				unsigned int nr_before, unsigned int nr_behind);
vm_fault_t tlb_batch_insert_pfns(struct vm_fault *vmf,
				 struct page *const *pages, unsigned int nth,
				 unsigned int nr);
void tlb_batch_lock_page(struct vm_fault *vmf);
void tlb_batch_unlock_page(struct vm_fault *vmf);

/* Something to do after a while. */
struct tlb_batch_deadline {
	struct delayed_work work;
	void (*expired)(void *data);
	void *data;
};

void tlb_batch_deadline_init(struct tlb_batch_deadline *deadline,
			     void (*expired)(void *data), void *data);
void tlb_batch_deadline_start(struct tlb_batch_deadline *deadline,
			      unsigned int delay_ms);
void tlb_batch_deadline_start_once(struct tlb_batch_deadline *deadline,
				   unsigned int delay_ms);
void tlb_batch_deadline_cancel(struct tlb_batch_deadline *deadline);

#endif /* CONFIG_RUST_TLB */
#endif /* _LINUX_TLB_BATCH_H */
