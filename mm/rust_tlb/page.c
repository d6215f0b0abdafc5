// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that Rust drivers map: who else has it, and whether it is good.
 *
 * H2 and H7 are rules of Documentation/mm/tlb_batch.rst.
 */

#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/tlb_batch.h>

/*
 * Whether the caller's reference to @page, the first of its folio, is the only one:
 * no PTE, no gather that has yet to flush, no GUP user holds one (H2, H7). Memory
 * that is known to be bad belongs to nobody: put it, and it is kept.
 */
bool tlb_batch_page_exclusive(struct page *page)
{
	return page_ref_count(page) == 1 && !tlb_batch_page_is_bad(page);
}

/*
 * Whether any of the memory of @page, and of the folio of which it is the first, is
 * known to be bad. Not folio_contain_hwpoisoned_page(): memory_failure() notes it
 * of folios that it can take apart, and of others in the page alone.
 * Context: any.
 */
bool tlb_batch_page_is_bad(struct page *page)
{
	struct folio *folio = page_folio(page);
	unsigned long i;

	for (i = 0; i < folio_nr_pages(folio); i++)
		if (PageHWPoison(folio_page(folio, i)))
			return true;
	return false;
}

/*
 * Allocate a folio of 2^@order pages; NULL if there is none to be had. For a large
 * one nobody is killed. Context: may sleep, as @gfp says.
 */
struct page *tlb_batch_folio_alloc(gfp_t gfp, unsigned int order)
{
	struct folio *folio;

	if (order > PAGE_ALLOC_COSTLY_ORDER)
		gfp |= __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
	folio = folio_alloc(gfp, order);

	return folio ? folio_page(folio, 0) : NULL;
}

/*
 * Put a reference to the folio of which @page is the first. If some of it is bad, it
 * is kept: the allocator keeps a bad page, but of several pages it hands each out
 * again.
 * Context: any.
 */
void tlb_batch_folio_put(struct page *page)
{
	if (!tlb_batch_page_is_bad(page))
		folio_put(page_folio(page));
}
