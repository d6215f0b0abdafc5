// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings of PMD_SIZE, by frame numbers or of a folio: how they are made for
 * Rust, and how a walk over page tables takes them out. What they are cleared
 * for, and when they are flushed, is decided in rust/kernel/mm/tlb/walk.rs and
 * batch.rs; why it is right, in Documentation/mm/tlb_batch_huge.rst. L1 to L7
 * below are its rules.
 */

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/rmap.h>
#include <linux/tlb_batch.h>
#include <linux/tlb_batch_huge.h>
#include <linux/tlb_hold.h>

#include <asm/tlbflush.h>

#include "../internal.h"

/*
 * Allocate memory of PMD_SIZE, aligned to that, as pages of their own: each is
 * freed by itself. Returns the first one, or NULL if there is none to be had
 * without much ado.
 * Context: may sleep, as @gfp says.
 */
struct page *tlb_batch_alloc_huge(gfp_t gfp)
{
	struct page *page = alloc_pages(gfp | __GFP_NORETRY | __GFP_NOWARN,
					PMD_ORDER);

	if (page)
		split_page(page, PMD_ORDER);
	return page;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * Make ready for a leaf around the address of @vmf. Returns whether there is
 * room for one: neither a page table nor a leaf.
 *
 * L2: a page table that was freed here may be in use by CPUs until its flush:
 * with a leaf in its place they could have translations of both sizes, which
 * no CPU has to bear. Who has cleared the PMD has raised tlb_flush_pending
 * before, and on x86 whoever sees the one sees the other: so the flush can be
 * made here.
 */
static bool prepare_leaf(struct vm_fault *vmf)
{
	unsigned long addr = vmf->address & PMD_MASK;
	struct vm_area_struct *vma = vmf->vma;

	VM_WARN_ON_ONCE(addr < vma->vm_start ||
			vma->vm_end - addr < PMD_SIZE);
	if (!pmd_none(pmdp_get_lockless(vmf->pmd)))
		return false;

	if (mm_tlb_flush_pending(vma->vm_mm))
		flush_tlb_mm_range(vma->vm_mm, addr, addr + PMD_SIZE,
				   PAGE_SHIFT, true);
	return true;
}

/*
 * Map the PMD_SIZE of memory that begins with @page around the address of
 * @vmf. Returns VM_FAULT_FALLBACK if it has to be mapped page by page, with
 * nothing done; else VM_FAULT_NOPAGE, also if somebody else was faster.
 *
 * Context: ->huge_fault of a PMD, or ->fault, in a VM_PFNMAP mapping that is
 * not copy-on-write; may sleep, IRQs enabled. All of the range lies in the
 * VMA: of that, vmf_insert_pfn_pmd() looks at the start alone (L1). Nobody
 * else maps anything there meanwhile. The memory is kept until the leaf and
 * its copies are gone and flushed.
 */
vm_fault_t tlb_batch_insert_huge(struct vm_fault *vmf, struct page *page)
{
	if (!IS_ALIGNED(page_to_pfn(page), HPAGE_PMD_NR) || !prepare_leaf(vmf))
		return VM_FAULT_FALLBACK;

	return vmf_insert_pfn_pmd(vmf, page_to_pfn(page), false);
}

/*
 * As tlb_batch_insert_huge(), for the folio that begins with @page, dirty if
 * @write: the leaf gets a reference, and is accounted, as HPAGE_PMD_NR pages.
 * Who clears it undoes that (L7).
 *
 * Context: as tlb_batch_insert_huge(), in a VM_MIXEDMAP mapping; what the leaf
 * maps is kept by its reference until it is cleared.
 */
vm_fault_t tlb_batch_insert_huge_folio(struct vm_fault *vmf, struct page *page,
				       bool write)
{
	struct folio *folio = page_folio(page);

	/* Of others, vmf_insert_folio_pmd() warns. */
	if (folio_order(folio) != PMD_ORDER || !prepare_leaf(vmf))
		return VM_FAULT_FALLBACK;

	return vmf_insert_folio_pmd(vmf, folio, write);
}

/*
 * Whether @pmd maps PMD_SIZE as a whole, and has no table.
 * Context: any; without the lock of @pmd, it may change.
 */
bool tlb_batch_is_leaf(pmd_t *pmd)
{
	return pmd_trans_huge(pmdp_get_lockless(pmd)) &&
	       !tlb_hold_passes_leaf();
}

/*
 * Lock @pmd, if it is a leaf (L3). Returns whether it is: @table has no PTEs then.
 * Context: as tlb_batch_pte_lock(), for the VMA of @table.
 */
bool tlb_batch_leaf_lock(struct tlb_batch_table *table, pmd_t *pmd)
{
	spinlock_t *ptl;

	if (!tlb_batch_is_leaf(pmd))
		return false;

	ptl = pmd_lock(table->vma->vm_mm, pmd);
	if (!tlb_batch_is_leaf(pmd)) {
		spin_unlock(ptl);
		return false;
	}
	table->ptl = ptl;
	table->leaf = pmd;
	table->leafval = pmdp_get(pmd);
	return true;
}

/*
 * Whether there is neither a table nor a leaf at @pmd (L3). Who moves or splits a
 * leaf clears @pmd first: mremap() sets it elsewhere then, and a split flushes,
 * with nobody told, but both before they unlock it. So that it is clear, where
 * there can be leaves, is to be believed with its lock held alone: then a leaf
 * that was here is gone from TLBs, or at its new place, which a walk comes to
 * later.
 * Context: as tlb_batch_pte_lock(), for @vma. @pmd was seen without a table.
 */
bool tlb_batch_is_vacant(struct vm_area_struct *vma, pmd_t *pmd)
{
	spinlock_t *ptl;
	bool is_vacant;

	if (!tlb_batch_can_have_leaves(vma) || tlb_hold_passes_leaf())
		return true;

	ptl = pmd_lock(vma->vm_mm, pmd);
	is_vacant = !pmd_present(pmdp_get(pmd));
	spin_unlock(ptl);
	return is_vacant;
}

/*
 * Whether the leaf that @table is maps @page at @addr, in a mapping of
 * whichever of the two kinds: as pte_maps() in mm/rust_tlb/defer.c.
 */
static bool leaf_maps(const struct tlb_batch_table *table, unsigned long addr,
		      struct page *page)
{
	unsigned long at = (addr & ~PMD_MASK) >> PAGE_SHIFT;

	return pmd_pfn(table->leafval) + at == page_to_pfn(page) &&
	       (!pmd_special(table->leafval) || table->maps_pfns);
}

/*
 * Undo what tlb_batch_insert_huge_folio() accounted for the leaf that @table
 * was; the rss, when @table is unlocked. As zap_huge_pmd() does, and a split;
 * of PFNs nothing is accounted (L7).
 */
static void unaccount_leaf(struct tlb_batch_table *table)
{
	struct folio *folio;

	if (table->maps_pfns)
		return;
	folio = pmd_folio(table->leafval);
	if (pmd_dirty(table->leafval))
		folio_mark_dirty(folio);
	folio_remove_rmap_pmd(folio, folio_page(folio, 0), table->vma);
	table->nr_cleared[mm_counter_file(folio)] += HPAGE_PMD_NR;
	VM_WARN_ON_ONCE_FOLIO(folio_ref_count(folio) < 2, folio);
	folio_put(folio);
}

/*
 * Clear the leaf that @table is, if it maps @page at @addr, and so the @nr
 * pages from there on, unless that was done for others of its pages. Returns
 * what was in it: what is true of the leaf is true of each of them. It is one
 * entry: what it has accounted is undone once.
 *
 * Context: as tlb_batch_clear_parts(); moreover tlb_batch_announce() was called
 * for the mm, and its end follows the flush; or the flush comes before the
 * unlock (L4).
 */
struct tlb_batch_cleared tlb_batch_clear_leaf(struct tlb_batch_table *table,
					      unsigned long addr,
					      struct page *page,
					      unsigned int nr)
{
	if (!leaf_maps(table, addr, page))
		return (struct tlb_batch_cleared){};

	if (!table->is_leaf_cleared) {
		table->is_leaf_cleared = true;
		/* An xchg: what the CPU set in Accessed and Dirty is not lost. */
		table->leafval = pmdp_huge_get_and_clear(table->vma->vm_mm,
							 addr & PMD_MASK,
							 table->leaf);
		unaccount_leaf(table);
	}
	return (struct tlb_batch_cleared){
		.nr = nr,
		.nr_dirty = pmd_dirty(table->leafval) ? nr : 0,
		.nr_writable = pmd_write(table->leafval) ? nr : 0,
	};
}

/*
 * As tlb_batch_test_young(), for a leaf: it has one Accessed bit for all of its
 * pages. As long as it is locked, the answer stays that of when it was locked.
 */
unsigned int tlb_batch_test_young_leaf(const struct tlb_batch_table *table,
				       bool clear)
{
	bool young = pmd_young(table->leafval);

	if (clear && young)
		pmdp_test_and_clear_young(table->vma, 0, table->leaf);
	return TLB_BATCH_MAPPED | (young ? TLB_BATCH_YOUNG : 0);
}

/*
 * If what is mapped at @addr is mapped as a whole, unmap that, and flush it
 * before its lock is released: it is mapped again by the next use. The core
 * undoes what was accounted for it.
 * Context: may sleep; the mmap_lock is held.
 */
void tlb_batch_split_leaf(struct vm_area_struct *vma, unsigned long addr)
{
	pmd_t *pmd = mm_find_pmd(vma->vm_mm, addr);

	if (pmd && tlb_batch_is_leaf(pmd))
		__split_huge_pmd(vma, pmd, addr, false);
}
#else
vm_fault_t tlb_batch_insert_huge(struct vm_fault *vmf, struct page *page)
{
	return VM_FAULT_FALLBACK;
}

vm_fault_t tlb_batch_insert_huge_folio(struct vm_fault *vmf, struct page *page,
				       bool write)
{
	return VM_FAULT_FALLBACK;
}

bool tlb_batch_is_leaf(pmd_t *pmd)
{
	return false;
}

bool tlb_batch_leaf_lock(struct tlb_batch_table *table, pmd_t *pmd)
{
	return false;
}

bool tlb_batch_is_vacant(struct vm_area_struct *vma, pmd_t *pmd)
{
	return true;
}

struct tlb_batch_cleared tlb_batch_clear_leaf(struct tlb_batch_table *table,
					      unsigned long addr,
					      struct page *page,
					      unsigned int nr)
{
	return (struct tlb_batch_cleared){};
}

unsigned int tlb_batch_test_young_leaf(const struct tlb_batch_table *table,
				       bool clear)
{
	return 0;
}

void tlb_batch_split_leaf(struct vm_area_struct *vma, unsigned long addr)
{
}
#endif
