// SPDX-License-Identifier: GPL-2.0
/*
 * Mechanism for moves of PTEs between two mappings of a process, for Rust
 * drivers: what move_ptes() and move_normal_pmd() in mm/mremap.c do, in steps.
 * In which order, and when to flush, is decided in rust/kernel/mm/tlb/moves.rs.
 *
 * Everywhere, the mmap_lock of the process is held for writing, and both VMAs
 * are write-locked (tlb_move_vma()): whoever does not come by way of the rmap is
 * kept out. So the order of two page-table locks is of no account, as in
 * move_ptes(). Rule H10 is one of Documentation/mm/tlb_batch.rst, T1 of
 * Documentation/mm/tlb_batch_tables.rst.
 */

#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pagemap.h>
#include <linux/pgalloc.h>
#include <linux/tlb_move.h>

#include <asm/tlbflush.h>

#include "../internal.h"

/* Returns -EINTR if the task is being killed. Context: may sleep, no mmap_lock. */
int tlb_move_lock(struct mm_struct *mm)
{
	return mmap_write_lock_killable(mm);
}

void tlb_move_unlock(struct mm_struct *mm)
{
	mmap_write_unlock(mm);
}

/*
 * The VMA at @addr, write-locked until tlb_move_unlock(): no fault and no madvise
 * under the VMA lock alone.
 */
struct vm_area_struct *tlb_move_vma(struct mm_struct *mm, unsigned long addr)
{
	struct vm_area_struct *vma = vma_lookup(mm, addr);

	if (vma)
		vma_start_write(vma);
	return vma;
}

/*
 * Whether a PTE that is right in @from is right in @to, where that shows the same
 * page: 0, -EXDEV if they are of two processes or files, or -EACCES if they are
 * protected differently.
 */
int tlb_move_check(const struct vm_area_struct *from,
		   const struct vm_area_struct *to)
{
	const vm_flags_t differing = from->vm_flags ^ to->vm_flags;

	if (from->vm_mm != to->vm_mm || from->vm_ops != to->vm_ops ||
	    from->vm_private_data != to->vm_private_data ||
	    from->vm_file->f_mapping != to->vm_file->f_mapping)
		return -EXDEV;
	if ((differing & ~VM_SOFTDIRTY) ||
	    pgprot_val(from->vm_page_prot) != pgprot_val(to->vm_page_prot))
		return -EACCES;
	return 0;
}

static pmd_t *alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pud = p4d ? pud_alloc(mm, p4d, addr) : NULL;

	return pud ? pmd_alloc(mm, pud, addr) : NULL;
}

/*
 * See to it that there is a PMD for @addr, and with @table a page table.
 * Context: may sleep; not under the rmap lock, which reclaim takes (H10).
 */
int tlb_move_prepare(struct vm_area_struct *vma, unsigned long addr, bool table)
{
	pmd_t *pmd = alloc_pmd(vma->vm_mm, addr);

	if (!pmd || (table && pte_alloc(vma->vm_mm, pmd)))
		return -ENOMEM;
	return 0;
}

/*
 * Who walks the VMAs of the file meets a page once: before this, at its old
 * address, or after it, at its new one. As take_rmap_locks(); there is no
 * anon_vma in a mapping that is not copy-on-write.
 */
void tlb_move_rmap_lock(struct vm_area_struct *vma)
{
	i_mmap_lock_write(vma->vm_file->f_mapping);
}

void tlb_move_rmap_unlock(struct vm_area_struct *vma)
{
	i_mmap_unlock_write(vma->vm_file->f_mapping);
}

/*
 * As tlb_batch_pte_lock(), while @beside is locked, which may be under the same
 * lock. @table is zero, too.
 */
bool tlb_move_pte_lock(struct tlb_batch_table *table,
		       struct vm_area_struct *vma, unsigned long addr,
		       const struct tlb_batch_table *beside)
{
	pmd_t *pmd = mm_find_pmd(vma->vm_mm, addr);
	pmd_t pmdval;

	table->vma = vma;
	table->maps_pfns = beside->maps_pfns;
	if (pmd)
		table->pte = pte_offset_map_rw_nolock(vma->vm_mm, pmd, addr,
						      &pmdval, &table->ptl);
	if (!table->pte)
		return false;

	/*
	 * It cannot go before it is locked: who takes a table out of a mapping of
	 * this kind holds the mmap_lock at least for reading (T1 in
	 * mm/rust_tlb/tables.c), or the VMA lock (MADV_DONTNEED).
	 */
	table->shares_lock = table->ptl == beside->ptl;
	if (!table->shares_lock)
		spin_lock_nested(table->ptl, SINGLE_DEPTH_NESTING);
	return true;
}

struct tlb_move_pte tlb_move_read(pte_t *pte)
{
	const pte_t pteval = ptep_get(pte);
	const bool present = pte_present(pteval);

	return (struct tlb_move_pte){
		.pfn = present ? pte_pfn(pteval) : 0,
		.present = present,
		.dirty = present && pte_dirty(pteval),
	};
}

static pte_t mksoft_dirty(pte_t pte)
{
	return pgtable_supports_soft_dirty() ? pte_mksoft_dirty(pte) : pte;
}

/*
 * Move @pte, of @old, to @new_pte, of @new. Returns false, and does nothing, if
 * nothing is mapped there, or something here. What it counts for (reference,
 * rmap, rss) goes with it.
 * Context: both tables are locked. The caller flushes @old before he unlocks
 * them, or has pinned the page until he does.
 */
bool tlb_move_pte(const struct tlb_batch_table *from, unsigned long old,
		  pte_t *pte, unsigned long new, pte_t *new_pte)
{
	struct mm_struct *mm = from->vma->vm_mm;
	pte_t pteval;

	if (!pte_present(ptep_get(pte)) || !pte_none(ptep_get(new_pte)))
		return false;

	/* An xchg: what the CPU set in Accessed and Dirty is not lost. */
	pteval = ptep_get_and_clear(mm, old, pte);
	set_pte_at(mm, new, new_pte, mksoft_dirty(pteval));
	return true;
}

/*
 * Lock the page table at @old, and its places there and at @new. Returns false,
 * with nothing locked, if there is no table at @old, or one at @new.
 * Context: tlb_move_rmap_lock() is held; there is a PMD table for @new.
 */
bool tlb_move_whole_lock(struct tlb_move_whole *whole,
			 struct vm_area_struct *from, unsigned long old,
			 struct vm_area_struct *to, unsigned long new)
{
	struct mm_struct *mm = from->vm_mm;
	pmd_t *old_pmd = mm_find_pmd(mm, old), *new_pmd = mm_find_pmd(mm, new);
	pmd_t pmdval;

	if (!old_pmd || !new_pmd)
		return false;

	*whole = (struct tlb_move_whole){
		.vma = from,
		.old_pmd = old_pmd,
		.new_pmd = new_pmd,
		.old_ptl = pmd_lock(mm, old_pmd),
		.new_ptl = pmd_lockptr(mm, new_pmd),
	};
	if (whole->new_ptl != whole->old_ptl)
		spin_lock_nested(whole->new_ptl, SINGLE_DEPTH_NESTING);

	if (pmd_present(*old_pmd) && !pmd_leaf(*old_pmd) && pmd_none(*new_pmd))
		whole->ptes = pte_offset_map_rw_nolock(mm, old_pmd, old, &pmdval,
						       &whole->pte_ptl);
	if (!whole->ptes) {
		tlb_move_whole_unlock(whole);
		return false;
	}
	spin_lock_nested(whole->pte_ptl, SINGLE_DEPTH_NESTING + 1);
	return true;
}

/*
 * As move_normal_pmd(). Until the flush, CPUs may walk the table by its old
 * addresses: it serves the new ones, and is not taken out before, as that needs
 * the mmap_lock, which is held until after the flush.
 * Context: as tlb_move_pte().
 */
void tlb_move_whole_move(struct tlb_move_whole *whole)
{
	const pmd_t pmd = *whole->old_pmd;

	pmd_clear(whole->old_pmd);
	pmd_populate(whole->vma->vm_mm, whole->new_pmd, pmd_pgtable(pmd));
}

void tlb_move_whole_unlock(struct tlb_move_whole *whole)
{
	if (whole->ptes)
		pte_unmap_unlock(whole->ptes, whole->pte_ptl);
	if (whole->new_ptl != whole->old_ptl)
		spin_unlock(whole->new_ptl);
	spin_unlock(whole->old_ptl);
}

/*
 * Flush what others have cleared and noted, and not flushed yet: afterwards,
 * nobody may use old addresses any more. Context: page tables are locked.
 */
void tlb_move_settle_others(struct mm_struct *mm)
{
	flush_tlb_batched_pending(mm);
}

static struct page *page_of(unsigned long pfn)
{
	struct page *page = pfn_to_online_page(pfn);

	return page && !PageReserved(page) ? page : NULL;
}

/*
 * What can be known of a page without waiting.
 * Context: a PTE maps @pfn, and its lock is held: the page is not freed.
 */
unsigned int tlb_move_look(unsigned long pfn)
{
	struct page *page = page_of(pfn);
	struct folio *folio;
	unsigned int found = 0;

	if (!page)
		return TLB_MOVE_NO_PAGE;

	folio = page_folio(page);
	if (!folio_trylock(folio))
		return TLB_MOVE_LOCKED;
	if (PageHWPoison(page))
		found |= TLB_MOVE_BAD;
	/* Those that the kernel's own walks of the reverse map start from. */
	if (folio_test_anon(folio) || folio->mapping || folio_test_lru(folio))
		found |= TLB_MOVE_RMAP;
	if (folio_test_writeback(folio))
		found |= TLB_MOVE_WRITEBACK;
	folio_unlock(folio);
	return found;
}

/* Keep a page; NULL if there is none. Context: as tlb_move_look(). */
struct page *tlb_move_pin(unsigned long pfn)
{
	struct page *page = page_of(pfn);

	if (page)
		get_page(page);
	return page;
}

void tlb_move_unpin(struct page *page)
{
	put_page(page);
}

#ifdef CONFIG_RUST_TLB_FAULTS
/* As somebody else who works on the page, with a reference to it. */
bool tlb_move_page_trylock(struct page *page)
{
	if (!folio_trylock(page_folio(page)))
		return false;
	get_page(page);
	return true;
}

void tlb_move_page_unlock(struct page *page)
{
	folio_unlock(page_folio(page));
	put_page(page);
}
#endif
