// SPDX-License-Identifier: GPL-2.0
/*
 * Faults of Rust drivers' mappings, by page table; those of leaves are in huge.c.
 */

#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/tlb_batch.h>
#include <linux/tlb_hold.h>

#include "../internal.h"

/*
 * Lock the PTE of @vmf, in a table that is made if there is none. Returns 0 if
 * it is locked and empty; else what the handler has to return, with nothing
 * locked. VM_FAULT_NOPAGE has the access tried again: something is mapped there
 * already, be it by a leaf, or the table is gone again (PT_RECLAIM), as in
 * finish_fault().
 */
static vm_fault_t lock_empty_pte(struct vm_fault *vmf, pte_t **pte,
				 spinlock_t **ptl)
{
	struct mm_struct *mm = vmf->vma->vm_mm;

	if (pmd_none(*vmf->pmd)) {
		if (vmf->prealloc_pte)
			pmd_install(mm, vmf->pmd, &vmf->prealloc_pte);
		else if (pte_alloc(mm, vmf->pmd))
			return VM_FAULT_OOM;
	}
	tlb_hold_fault();
	*pte = pte_offset_map_lock(mm, vmf->pmd, vmf->address, ptl);
	if (!*pte)
		return VM_FAULT_NOPAGE;
	if (pte_none(ptep_get(*pte)))
		return 0;
	pte_unmap_unlock(*pte, *ptl);
	return VM_FAULT_NOPAGE;
}

/*
 * What is to be mapped by one fault: the page that was touched, and those around
 * it, of the same folio, or bundle.
 */
struct fault_around {
	unsigned int nr_before;
	unsigned int nr_behind;
};

/*
 * Of @around, which is there in the folio, what can be mapped around the address of
 * @vmf: in its VMA, and in its page table, where there is nothing as far as that.
 * Context: @pte is the entry of that address, in a table that is locked.
 */
static struct fault_around clip_around(const struct vm_fault *vmf,
				       pte_t *pte,
				       struct fault_around around)
{
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned long start = max(vmf->vma->vm_start, addr & PMD_MASK);
	unsigned long end = min(vmf->vma->vm_end - 1, addr | ~PMD_MASK);
	struct fault_around clipped = {};

	around.nr_before = min(around.nr_before, (addr - start) >> PAGE_SHIFT);
	around.nr_behind = min(around.nr_behind, (end - addr) >> PAGE_SHIFT);
	while (clipped.nr_before < around.nr_before &&
	       pte_none(ptep_get(pte - clipped.nr_before - 1)))
		clipped.nr_before++;
	while (clipped.nr_behind < around.nr_behind &&
	       pte_none(ptep_get(pte + clipped.nr_behind + 1)))
		clipped.nr_behind++;
	return clipped;
}

/*
 * Set the entries of @around to what @pteval, that of the address of @vmf, makes of
 * the pages there. That one is @touched.
 */
static void set_around(struct vm_fault *vmf, pte_t *pte, pte_t pteval,
		       pte_t touched, struct fault_around around)
{
	struct mm_struct *mm = vmf->vma->vm_mm;
	unsigned long addr = vmf->address & PAGE_MASK;
	unsigned int nr = around.nr_before;

	if (nr)
		set_ptes(mm, addr - nr * PAGE_SIZE, pte - nr,
			 pte_advance_pfn(pteval, -(unsigned long)nr), nr);
	set_pte_at(mm, addr, pte, touched);
	nr = around.nr_behind;
	if (nr)
		set_ptes(mm, addr + PAGE_SIZE, pte + 1,
			 pte_advance_pfn(pteval, 1), nr);
}

/*
 * Map @page where @vmf happened, dirty if @write, and with it what is around it in
 * its folio, up to @nr_before and @nr_behind pages, clean, as far as there is
 * nothing mapped. Each PTE gets a reference, and is accounted. Not
 * vmf_insert_page_mkwrite(): that takes a table which went away for want of memory,
 * and with @write it upgrades a PTE which is there. Here the access is tried again,
 * and the write of a PTE that is read-only then asks ->page_mkwrite().
 * Context: fault handler of a VM_MIXEDMAP mapping that is not copy-on-write.
 */
vm_fault_t tlb_batch_insert_page(struct vm_fault *vmf, struct page *page,
				 unsigned int nr_before, unsigned int nr_behind,
				 bool write)
{
	struct fault_around around = { nr_before, nr_behind };
	struct vm_area_struct *vma = vmf->vma;
	struct folio *folio = page_folio(page);
	pte_t pteval = mk_pte(page, vma->vm_page_prot);
	pte_t *pte, touched = pteval;
	spinlock_t *ptl;
	vm_fault_t fault;
	unsigned int nr;

	/* What validate_page_before_insert() refuses. */
	if (folio_test_anon(folio) || page_has_type(page) ||
	    is_zero_folio(folio))
		return VM_FAULT_SIGBUS;

	fault = lock_empty_pte(vmf, &pte, &ptl);
	if (fault)
		return fault;

	if (write)
		touched = maybe_mkwrite(pte_mkdirty(pte_mkyoung(pteval)), vma);
	around = clip_around(vmf, pte, around);
	nr = around.nr_before + 1 + around.nr_behind;
	folio_ref_add(folio, nr);
	add_mm_counter(vma->vm_mm, mm_counter_file(folio), nr);
	folio_add_file_rmap_ptes(folio, page - around.nr_before, nr, vma);
	set_around(vmf, pte, pteval, touched, around);
	pte_unmap_unlock(pte, ptl);
	return VM_FAULT_NOPAGE;
}

/*
 * Map @page by its frame number where @vmf happened, and with it what is around it,
 * as tlb_batch_insert_page() does. The PTEs own no references. Not
 * vmf_insert_pfn(), for the same reason; @page is memory, to which
 * pfn_modify_allowed() has no objection.
 * Context: fault handler of a VM_PFNMAP mapping that is not copy-on-write.
 */
vm_fault_t tlb_batch_insert_pfn(struct vm_fault *vmf, struct page *page,
				unsigned int nr_before, unsigned int nr_behind)
{
	struct fault_around around = { nr_before, nr_behind };
	unsigned long pfn = page_to_pfn(page);
	pgprot_t prot = vmf->vma->vm_page_prot;
	pte_t *pte, pteval;
	spinlock_t *ptl;
	vm_fault_t fault;

	pfnmap_setup_cachemode_pfn(pfn, &prot);

	fault = lock_empty_pte(vmf, &pte, &ptl);
	if (fault)
		return fault;

	pteval = pte_mkspecial(pfn_pte(pfn, prot));
	set_around(vmf, pte, pteval, pteval, clip_around(vmf, pte, around));
	pte_unmap_unlock(pte, ptl);
	return VM_FAULT_NOPAGE;
}

/*
 * As tlb_batch_insert_pfn(), of @nr @pages, each of its own: number @nth is the one
 * that was touched.
 */
vm_fault_t tlb_batch_insert_pfns(struct vm_fault *vmf,
				 struct page *const *pages, unsigned int nth,
				 unsigned int nr)
{
	struct fault_around around = { nth, nr - 1 - nth };
	unsigned long addr = vmf->address & PAGE_MASK;
	struct vm_area_struct *vma = vmf->vma;
	pgprot_t prot = vma->vm_page_prot;
	pte_t *touched, *pte;
	spinlock_t *ptl;
	vm_fault_t fault;

	/* All are memory: what one is cached by, all are. */
	pfnmap_setup_cachemode_pfn(page_to_pfn(pages[nth]), &prot);

	fault = lock_empty_pte(vmf, &touched, &ptl);
	if (fault)
		return fault;

	around = clip_around(vmf, touched, around);
	nr = around.nr_before + 1 + around.nr_behind;
	pages += nth - around.nr_before;
	pte = touched - around.nr_before;
	addr -= around.nr_before * PAGE_SIZE;
	for (; nr; nr--, pages++, pte++, addr += PAGE_SIZE)
		set_pte_at(vma->vm_mm, addr, pte,
			   pte_mkspecial(pfn_pte(page_to_pfn(*pages), prot)));
	pte_unmap_unlock(touched, ptl);
	return VM_FAULT_NOPAGE;
}

/* Lock the page of a page_mkwrite. Context: may sleep; before any driver lock. */
void tlb_batch_lock_page(struct vm_fault *vmf)
{
	folio_lock(page_folio(vmf->page));
}

void tlb_batch_unlock_page(struct vm_fault *vmf)
{
	folio_unlock(page_folio(vmf->page));
}
