// SPDX-License-Identifier: GPL-2.0
/*
 * Mechanism for deferred TLB flushes from Rust: thin wrappers over what the
 * core has, each named after the rule it keeps. Decisions (what to flush, when,
 * how much) are not made here, but in rust/kernel/mm/tlb/.
 *
 * The order that the callers follow, and why, is in
 * Documentation/mm/tlb_batch.rst; H1 to H14 below are its rules, L3 is one of
 * Documentation/mm/tlb_batch_huge.rst.
 */

/* Before the first header that may declare an event. */
#ifndef CONFIG_RUST_TLB_EVENTS
#define NOTRACE
#endif

#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/sched/signal.h>
#include <linux/tlb_batch.h>
#include <linux/tlb_batch_huge.h>
#include <linux/tlb_hold.h>
#include <linux/workqueue.h>

#include <asm/tlbflush.h>

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include <trace/events/rust_tlb.h>

#include "../internal.h"
#include "../../arch/x86/mm/mm_internal.h"

/* Rules to break, and moments to hold open, for tests. */

#ifdef CONFIG_RUST_TLB_FAULTS
static bool ignore_pending;
static u32 delay_expiry_ms;
static atomic_t nr_expiring;

/* H2: what others have yet to flush is not seen. */
static bool ignores_pending(void)
{
	return READ_ONCE(ignore_pending);
}

/* A deadline has passed, and ->expired() is about to be called. */
static void expiry_begins(void)
{
	atomic_inc(&nr_expiring);
	msleep(READ_ONCE(delay_expiry_ms));
}

static void expiry_ends(void)
{
	atomic_dec(&nr_expiring);
}

static int __init tlb_batch_faults_init(void)
{
	struct dentry *dir = debugfs_create_dir("rust_tlb_faults", NULL);

	debugfs_create_bool("ignore_pending", 0600, dir, &ignore_pending);
	debugfs_create_u32("delay_expiry_ms", 0600, dir, &delay_expiry_ms);
	debugfs_create_atomic_t("nr_expiring", 0400, dir, &nr_expiring);
	return 0;
}
late_initcall(tlb_batch_faults_init);
#else
static bool ignores_pending(void)
{
	return false;
}

static void expiry_begins(void)
{
}

static void expiry_ends(void)
{
}
#endif

/* Generations and flushes. */

/*
 * Those that are asked to flush; for the trace. It may be off if the task
 * moves, or if a CPU goes.
 */
static unsigned int nr_others(const struct cpumask *cpus)
{
	return cpumask_weight_and(cpus, cpu_online_mask) -
	       cpumask_test_cpu(raw_smp_processor_id(), cpus);
}

/* Events of a batch that are on. */
static atomic_t nr_events_on __read_mostly;

int tlb_batch_event_on(void)
{
	atomic_inc(&nr_events_on);
	return 0;
}

void tlb_batch_event_off(void)
{
	atomic_dec(&nr_events_on);
}

/* Whether one of them is. Context: any. */
bool tlb_batch_is_traced(void)
{
	return atomic_read(&nr_events_on);
}

#ifdef CONFIG_RUST_TLB_RING
/*
 * As arch_tlbbatch_add_pending() does after its increment, but only for CPUs
 * that run @mm. With INVLPGB there are no rings, and this is not for it.
 */
static void note_cpus(struct arch_tlbflush_unmap_batch *batch,
		      struct mm_struct *mm)
{
	flush_ring_note_cpus(mm, &batch->cpumask);
	mmu_notifier_arch_invalidate_secondary_tlbs(mm, 0, -1UL);
}
#endif

#if defined(CONFIG_RUST_TLB_RING) && defined(CONFIG_RUST_TLB_FAULTS)
/*
 * The bug of 2021, to show that tests notice: the generation goes up for the
 * first of several deferrals, as long as nobody else bumps it.
 */
static struct {
	struct mm_struct *mm;
	u64 gen;
} bumped;

static bool skips_bump(struct arch_tlbflush_unmap_batch *batch,
		       struct mm_struct *mm)
{
	if (flush_ring_keeps(FLUSH_RING_KEEP_BUMP))
		return false;
	if (bumped.mm != mm ||
	    bumped.gen != atomic64_read(&mm->context.tlb_gen)) {
		bumped.mm = mm;
		bumped.gen = atomic64_read(&mm->context.tlb_gen) + 1;
		return false;
	}
	cpumask_or(&batch->cpumask, &batch->cpumask, mm_cpumask(mm));
	return true;
}

/* Publish before the PTE of @addr is cleared: H1, broken. */
static void publish_early(struct mm_struct *mm, unsigned long addr)
{
	if (flush_ring_keeps(FLUSH_RING_KEEP_CLEAR) || !mm_has_flush_ring(mm))
		return;
	__flush_ring_publish(mm, inc_mm_tlb_gen(mm), addr, addr + PAGE_SIZE,
			     PAGE_SHIFT, false);
	flush_ring_pause(FLUSH_RING_AT_CLEAR);
}
#else
static bool skips_bump(struct arch_tlbflush_unmap_batch *batch,
		       struct mm_struct *mm)
{
	return false;
}

static void publish_early(struct mm_struct *mm, unsigned long addr) { }
#endif

/*
 * Owe @mm a flush of [@start, @end).
 *
 * H1: the PTEs were cleared by a locked read-modify-write; this increments the
 * generation (a full barrier) and only then reads mm_cpumask().
 * Context: after the PTEs were cleared, at the latest when they are to be
 * flushed. Does not sleep.
 */
void tlb_batch_add_pending(struct arch_tlbflush_unmap_batch *batch,
			   struct mm_struct *mm, unsigned long start,
			   unsigned long end)
{
	if (skips_bump(batch, mm))
		return;
#ifdef CONFIG_RUST_TLB_RING
	if (mm_has_flush_ring(mm)) {
		__flush_ring_publish(mm, inc_mm_tlb_gen(mm), start, end,
				     PAGE_SHIFT, false);
		note_cpus(batch, mm);
		return;
	}
#endif
	arch_tlbbatch_add_pending(batch, mm, start, end);
}

/*
 * Owe @mm a flush of @runs, words of rust/kernel/mm/run.rs; of everything
 * if @mm has no ring to say that in.
 *
 * H1: as tlb_batch_add_pending(); mm_cpumask(), and what its CPUs have loaded, is
 * read after the last increment.
 * Context: as tlb_batch_add_pending().
 */
void tlb_batch_publish(struct arch_tlbflush_unmap_batch *batch,
		       struct mm_struct *mm, const u64 *runs,
		       unsigned long nr_runs)
{
#ifdef CONFIG_RUST_TLB_RING
	if (mm_has_flush_ring(mm)) {
		for (; nr_runs > FLUSH_RING_RUNS; runs += FLUSH_RING_RUNS) {
			flush_ring_publish_next(mm, runs, FLUSH_RING_RUNS);
			nr_runs -= FLUSH_RING_RUNS;
		}
		flush_ring_publish_next(mm, runs, nr_runs);
		note_cpus(batch, mm);
		return;
	}
#endif
	arch_tlbbatch_add_pending(batch, mm, 0, TLB_FLUSH_ALL);
}

/*
 * While this is held, address spaces can have rings. Context: may sleep, and no
 * mmap_lock.
 */
void tlb_batch_rings_get(void)
{
#ifdef CONFIG_RUST_TLB_RING
	flush_rings_get();
#endif
}

void tlb_batch_rings_put(void)
{
#ifdef CONFIG_RUST_TLB_RING
	flush_rings_put();
#endif
}

/*
 * Give @mm a ring. Context: may sleep; tlb_batch_rings_get() is held.
 * Returns -EOPNOTSUPP if there are none on this machine, or -ENOMEM.
 */
int tlb_batch_ring_add(struct mm_struct *mm)
{
#ifdef CONFIG_RUST_TLB_RING
	return flush_ring_add(mm);
#else
	return -EOPNOTSUPP;
#endif
}

/*
 * Flush everything that @batch owes: one round for all mms, a full flush on
 * each CPU asked. @batch is empty afterwards.
 * Context: IRQs enabled (H11), no spinlock held.
 */
void tlb_batch_flush_pending(struct arch_tlbflush_unmap_batch *batch)
{
	if (trace_rust_tlb_call_begin_enabled())
		trace_rust_tlb_call_begin(NULL, 0, TLB_FLUSH_ALL,
					  nr_others(&batch->cpumask));
	arch_tlbbatch_flush(batch);
	trace_rust_tlb_call_end(NULL);
}

/*
 * Flush leaf entries of [@start, @end) of @mm; a range over the kernel's own
 * ceiling, or that ends at TLB_FLUSH_ALL, becomes a full flush of @mm. Never
 * for freed page tables: lazy CPUs are not asked (H6).
 * Context: IRQs enabled (H11); the page-table lock may be held. @mm may be
 * without users, but not freed (H12).
 */
void tlb_batch_flush_mm_range(struct mm_struct *mm, unsigned long start,
			      unsigned long end)
{
	if (trace_rust_tlb_call_begin_enabled())
		trace_rust_tlb_call_begin(mm, start, end,
					  nr_others(mm_cpumask(mm)));
	flush_tlb_mm_range(mm, start, end, PAGE_SHIFT, false);
	trace_rust_tlb_call_end(mm);
}

/*
 * Tell mprotect, munmap, mremap and madvise that PTEs of @mm were cleared and
 * that their flush is still owed (H4).
 * Context: if PTEs were cleared, their page-table lock is still held, and
 * tlb_batch_add_pending(), if it is called at all, was called before.
 */
void tlb_batch_note_batched(struct mm_struct *mm)
{
	mm_note_tlb_flush_batched(mm);
}

/* Pages above which the kernel flushes an mm in full; debugfs can change it. */
unsigned long tlb_batch_ceiling(void)
{
	return READ_ONCE(tlb_single_page_flush_ceiling);
}

/* The VMAs that map a file. */

/*
 * Context: may sleep. H10: taken by reclaim, so no allocation that can reclaim
 * while it is held; never take an mmap_lock inside.
 */
void tlb_batch_rmap_lock(struct address_space *mapping)
{
	i_mmap_lock_read(mapping);
}

/* As tlb_batch_rmap_lock(), for reclaim, which must not wait for it. */
bool tlb_batch_rmap_trylock(struct address_space *mapping)
{
	return i_mmap_trylock_read(mapping);
}

void tlb_batch_rmap_unlock(struct address_space *mapping)
{
	i_mmap_unlock_read(mapping);
}

/*
 * The VMAs that map any of pages @first to @last, in the order of the tree. A
 * VMA that is found cannot be freed, and its page tables above the PTE level
 * stay, as long as tlb_batch_rmap_lock() is held.
 */
struct vm_area_struct *tlb_batch_rmap_first(struct address_space *mapping,
					    pgoff_t first, pgoff_t last)
{
	i_mmap_assert_locked(mapping);
	return mapping_rmap_tree_iter_first(mapping, first, last);
}

struct vm_area_struct *tlb_batch_rmap_next(struct vm_area_struct *vma,
					   pgoff_t first, pgoff_t last)
{
	return mapping_rmap_tree_iter_next(vma, first, last);
}

/*
 * Whether nobody has installed operations or data in @vma.
 * Context: @vma is being set up.
 */
bool tlb_batch_vma_is_fresh(const struct vm_area_struct *vma)
{
	return !vma->vm_private_data &&
	       (!vma->vm_ops || vma->vm_ops == &vma_dummy_vm_ops);
}

/*
 * Bracket the clearing of PTEs in [@start, @end), which lies in @vma, for
 * secondary MMUs, and keep the high-water mark of the rss before it falls. A leaf
 * that maps any of it is cleared as a whole, and is in the bracket as a whole.
 * Context: may sleep, so before the page-table lock. @vma is locked in one of the
 * ways of tlb_batch_pte_lock().
 */
void tlb_batch_invalidate_start(struct mmu_notifier_range *range,
				struct vm_area_struct *vma,
				unsigned long start, unsigned long end)
{
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, vma->vm_mm, start,
				end);
	if (tlb_batch_can_have_leaves(vma)) {
		range->start = max(vma->vm_start, start & PMD_MASK);
		range->end = min(vma->vm_end, ALIGN(end, PMD_SIZE));
	}
	update_hiwater_rss(vma->vm_mm);
	mmu_notifier_invalidate_range_start(range);
}

void tlb_batch_invalidate_end(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_end(range);
}

/*
 * Zap [@addr, @addr + @size) of @vma with a gather of its own: the peer that
 * the batch is measured against.
 * Context: as unmap_mapping_range(): tlb_batch_rmap_lock() or more is held.
 */
void tlb_batch_zap(struct vm_area_struct *vma, unsigned long addr,
		   unsigned long size)
{
	zap_vma_range(vma, addr, size);
}

/* Let others run between two page tables. Context: may sleep. */
void tlb_batch_cond_resched(void)
{
	cond_resched();
}

/* Whether this task is being killed: what it does has no use any more. */
bool tlb_batch_is_being_killed(void)
{
	return fatal_signal_pending(current);
}

/* Page tables. */

/*
 * Lock the page table of @vma that maps @addr, as @table, which is zero; its
 * @pte is the entry of @addr then. Where there is a leaf, lock that instead
 * (L3). Returns false if there is neither (normal: tables come and go, see
 * PT_RECLAIM), and no leaf is on its way.
 * Context: tlb_batch_rmap_lock() is held on the file that @vma maps, or @vma's
 * own lock, or the mmap_lock: each keeps the upper page tables. Under the first,
 * mprotect() changes flags meanwhile, but not those looked at here.
 */
bool tlb_batch_pte_lock(struct tlb_batch_table *table,
			struct vm_area_struct *vma, unsigned long addr)
{
	vm_flags_t kind = READ_ONCE(vma->vm_flags) &
			  (VM_PFNMAP | VM_MIXEDMAP);
	pmd_t *pmd = mm_find_pmd(vma->vm_mm, addr);

	table->vma = vma;
	table->maps_pfns = kind == VM_PFNMAP;
	if (!pmd)
		return false;
	do {
		if (pmd_trans_huge(pmdp_get_lockless(pmd)) &&
		    tlb_batch_leaf_lock(table, pmd))
			return true;
		table->pte = pte_offset_map_lock(vma->vm_mm, pmd, addr,
						 &table->ptl);
	} while (!table->pte && !tlb_batch_is_vacant(vma, pmd));
	return table->pte;
}

/* Settle the rss, once per table as zap_pte_range() does, and unlock. */
void tlb_batch_pte_unlock(struct tlb_batch_table *table)
{
	int i;

	for (i = 0; i < NR_MM_COUNTERS; i++)
		if (table->nr_cleared[i])
			add_mm_counter(table->vma->vm_mm, i,
				       -table->nr_cleared[i]);
	if (!table->shares_lock)
		spin_unlock(table->ptl);
	if (!table->leaf)
		pte_unmap(table->pte);
}

/*
 * Whether @pteval maps page @pfn, in a mapping of whichever of the two kinds. As
 * vm_normal_page(), but the page is known already: in a VM_MIXEDMAP mapping it
 * is that of a PTE which is not special.
 */
static bool pte_maps(const struct tlb_batch_table *table, pte_t pteval,
		     unsigned long pfn)
{
	return pte_present(pteval) && pte_pfn(pteval) == pfn &&
	       (!pte_special(pteval) || table->maps_pfns);
}

/*
 * Undo what tlb_batch_insert_page() accounted for @nr pages of a folio, from
 * @page on; the rss, when @table is unlocked.
 */
static void unaccount(struct tlb_batch_table *table, struct page *page,
		      unsigned int nr, bool dirty)
{
	struct folio *folio = page_folio(page);

	if (dirty)
		folio_mark_dirty(folio);
	folio_remove_rmap_ptes(folio, page, nr, table->vma);
	table->nr_cleared[mm_counter_file(folio)] += nr;
	VM_WARN_ON_ONCE_FOLIO(folio_ref_count(folio) <= nr, folio);
	folio_put_refs(folio, nr);
}

/*
 * Clear up to @nr PTEs from @pte on, as far as they map @page and what is behind it
 * in its folio, or what is in @pages, if that is not NULL; undo what was accounted
 * for them.
 *
 * Not get_and_clear_full_ptes(): that, too, is one xchg after the other, and merges
 * what was dirty.
 */
static __always_inline struct tlb_batch_cleared
clear_run(struct tlb_batch_table *table, unsigned long addr, pte_t *pte,
	  struct page *page, struct page *const *pages, unsigned int nr)
{
	struct mm_struct *mm = table->vma->vm_mm;
	struct tlb_batch_cleared cleared = {};
	unsigned long pfn = page_to_pfn(page);

	for (; cleared.nr < nr; cleared.nr++, pte++, addr += PAGE_SIZE) {
		unsigned int at = cleared.nr;
		pte_t pteval = ptep_get(pte);

		if (!pte_maps(table, pteval,
			      pages ? page_to_pfn(pages[at]) : pfn + at))
			break;

		publish_early(mm, addr);
		/* An xchg: what the CPU set in Accessed and Dirty is not lost. */
		pteval = ptep_get_and_clear(mm, addr, pte);
		cleared.nr_dirty += !!pte_dirty(pteval);
		cleared.nr_writable += !!pte_write(pteval);
	}
	/* Of a PFN nothing was accounted. */
	if (cleared.nr && !table->maps_pfns)
		unaccount(table, page, cleared.nr, cleared.nr_dirty);
	return cleared;
}

/* Adds what was cleared from @addr on. Returns whether that is anything. */
static __always_inline bool add_cleared(struct tlb_batch_changed *changed,
					unsigned long addr,
					struct tlb_batch_cleared cleared)
{
	if (!cleared.nr)
		return false;
	if (!changed->cleared.nr || addr < changed->start)
		changed->start = addr;
	changed->end = max(changed->end, addr + cleared.nr * PAGE_SIZE);
	changed->cleared.nr += cleared.nr;
	changed->cleared.nr_dirty += cleared.nr_dirty;
	changed->cleared.nr_writable += cleared.nr_writable;
	return true;
}

/*
 * Clear the PTEs of @part, from @pte on, of several pages. Returns whether all were
 * there. Pages of their own are mapped by their numbers, but for one that its owner
 * mapped by itself: that is accounted by itself.
 */
static noinline bool clear_many(struct tlb_batch_table *table,
				const struct tlb_batch_part *part, pte_t *pte,
				struct tlb_batch_changed *changed)
{
	bool is_complete = true;
	unsigned int at = 0;

	while (at < part->nr) {
		unsigned long addr = part->addr + at * PAGE_SIZE;
		struct tlb_batch_cleared cleared;

		if (part->pages)
			cleared = clear_run(table, addr, pte + at,
					    part->pages[at], part->pages + at,
					    table->maps_pfns ? part->nr - at : 1);
		else
			cleared = clear_run(table, addr, pte + at,
					    part->page + at, NULL,
					    part->nr - at);
		is_complete &= add_cleared(changed, addr, cleared);
		at += max(cleared.nr, 1U);
	}
	return is_complete;
}

/*
 * Clear those PTEs of @nr @parts that map what they should; undo what their
 * insertion accounted (rss, rmap), once for all that are next to each other, and
 * put the references that they owned, if they are of the kind that owns them. A part
 * of no pages is missing, whatever its address.
 *
 * Context: @table is locked for @addr, and no leaf, in a VM_MIXEDMAP or VM_PFNMAP
 * mapping that is not copy-on-write; it has the entries of all parts. The caller
 * owns a reference to the folio of each page and keeps it until the flush: those of
 * the PTEs are not the last, and no stale entry outlives the folio.
 */
struct tlb_batch_changed
tlb_batch_clear_parts(struct tlb_batch_table *table, unsigned long addr,
		      const struct tlb_batch_part *parts, unsigned int nr)
{
	pte_t *base = table->pte - pte_index(addr);
	struct tlb_batch_changed changed = {};
	unsigned int i;

	for (i = 0; i < nr; i++, parts++) {
		pte_t *pte = base + pte_index(parts->addr);
		bool is_complete = false;

		if (likely(parts->nr == 1))
			is_complete = add_cleared(&changed, parts->addr,
						  clear_run(table, parts->addr,
							    pte, parts->page,
							    NULL, 1));
		else if (parts->nr)
			is_complete = clear_many(table, parts, pte, &changed);
		if (!is_complete)
			changed.missing |= BIT(i);
	}
	return changed;
}

/*
 * Write-protect @pte if it maps @page and is writable but clean. Returns whether
 * it did: then the next write faults, once stale entries are flushed. Of a PTE
 * that is dirty a write needs no fault, and of one that is read-only it faults
 * already.
 * Context: as tlb_batch_clear_parts(); @pte is the entry of @addr in @table.
 */
bool tlb_batch_protect_pte(const struct tlb_batch_table *table,
			   unsigned long addr, pte_t *pte, struct page *page)
{
	pte_t pteval = ptep_get(pte);

	if (!pte_maps(table, pteval, page_to_pfn(page)))
		return false;
	/* Not the raw bits: Dirty without Write is a shadow stack's. */
	if (!pte_write(pteval) || pte_dirty(pteval))
		return false;

	/* A cmpxchg: a Dirty bit that is set meanwhile is kept. */
	ptep_set_wrprotect(table->vma->vm_mm, addr, pte);
	return true;
}

/*
 * Whether @pte maps something, and whether its Accessed bit is set; with
 * @clear, clear that bit, without a flush: a CPU that has the entry in its TLB
 * does not set it again.
 * Context: @table is locked, @pte its entry of @addr.
 */
unsigned int tlb_batch_test_young(const struct tlb_batch_table *table,
				  unsigned long addr, pte_t *pte, bool clear)
{
	pte_t pteval = ptep_get(pte);
	bool young;

	if (!pte_present(pteval))
		return 0;

	young = clear ? ptep_test_and_clear_young(table->vma, addr, pte) :
			pte_young(pteval);
	return TLB_BATCH_MAPPED | (young ? TLB_BATCH_YOUNG : 0);
}

/*
 * Whether someone cleared PTEs of @mm and has yet to flush them: an empty PTE
 * is then no proof that nobody reaches the page (H2).
 * Context: the page-table lock of the PTE in question is held, if there is a
 * table; without one, the order rests on x86 being TSO, and no page depends on
 * it: see "Barriers" in Documentation/mm/tlb_batch.rst.
 */
bool tlb_batch_flush_is_pending(struct mm_struct *mm)
{
	return mm_tlb_flush_pending(mm) && !ignores_pending();
}

/* Deadlines. */

static void deadline_expired(struct work_struct *work)
{
	struct tlb_batch_deadline *deadline =
		container_of(to_delayed_work(work), struct tlb_batch_deadline,
			     work);

	expiry_begins();
	deadline->expired(deadline->data);
	expiry_ends();
}

void tlb_batch_deadline_init(struct tlb_batch_deadline *deadline,
			     void (*expired)(void *data), void *data)
{
	INIT_DELAYED_WORK(&deadline->work, deadline_expired);
	deadline->expired = expired;
	deadline->data = data;
}

/* Call ->expired() in @delay_ms, in process context; what ran before is reset. */
void tlb_batch_deadline_start(struct tlb_batch_deadline *deadline,
			      unsigned int delay_ms)
{
	mod_delayed_work(system_dfl_wq, &deadline->work,
			 msecs_to_jiffies(delay_ms));
}

/* As tlb_batch_deadline_start(), but a time that is set already stays. */
void tlb_batch_deadline_start_once(struct tlb_batch_deadline *deadline,
				   unsigned int delay_ms)
{
	queue_delayed_work(system_dfl_wq, &deadline->work,
			   msecs_to_jiffies(delay_ms));
}

/*
 * After this, ->expired() does not run, unless it is started again.
 * Context: may sleep; not from ->expired() itself.
 */
void tlb_batch_deadline_cancel(struct tlb_batch_deadline *deadline)
{
	cancel_delayed_work_sync(&deadline->work);
}
