// SPDX-License-Identifier: GPL-2.0

//! Shims for page tables that are taken out; contracts in
//! [`mm/rust_tlb/tables.c`](srctree/mm/rust_tlb/tables.c).

use crate::bindings;

/// Page tables that were taken out.
pub(in crate::mm) type RawTables = bindings::tlb_batch_tables;

/// What became of a page table.
pub(in crate::mm) type Fate = bindings::tlb_batch_table_fate;

/// Takes the page table of `addr` out, if it is empty.
///
/// # Safety
///
/// - `tables` must come from its default, and have been used by these functions only.
/// - `vma` must be valid, the rmap of its file locked, and all that the table maps lie within it.
/// - What `tables` holds must not be freed before a flush of all that the table maps, that CPUs in
///   lazy mode get, too.
#[inline(never)]
pub(in crate::mm) unsafe fn table_take(
    tables: &mut RawTables,
    vma: *mut bindings::vm_area_struct,
    addr: usize,
) -> Fate {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_table_take(tables, vma, addr) }
}

/// All were taken out that go with a flush, which comes next.
#[inline(never)]
pub(in crate::mm) fn tables_taken() {
    // SAFETY: It has no duties but those of the context, and holds no lock.
    unsafe { bindings::tlb_batch_tables_taken() }
}

/// # Safety
///
/// All tables in `tables` must have been flushed since they were taken out.
#[inline(never)]
pub(in crate::mm) unsafe fn tables_free(tables: &mut RawTables) {
    // SAFETY: As promised by the caller.
    unsafe { bindings::tlb_batch_tables_free(tables) }
}
