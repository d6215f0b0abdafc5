// SPDX-License-Identifier: GPL-2.0

//! Mappings of what a page table would map, as a whole.
//!
//! It is one folio, in a file of such folios. Else, by frame numbers, the pages of it are one behind the
//! other in memory, and pages like all others beyond that: each is unmapped, released and freed by
//! itself. Where one is missing, or is another one, faults map page by page.

use crate::store::{
    LockedState,
    Store, //
};
use core::ops::Range;
use kernel::{
    mm::{
        vm_ops::{
            FaultError,
            VmFault,
            VmOperations, //
        },
        window::PTRS_PER_PTE, //
    },
    prelude::*,
    sync::ArcBorrow, //
};

/// As [`Store`], for mappings that may be huge.
pub(crate) struct Huge;

#[vtable]
impl VmOperations for Huge {
    type Data = Store;

    fn fault(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<(), FaultError> {
        <Store as VmOperations>::fault(store, vmf)
    }

    // As every fault, and every unmap until its flush, it holds the pages' lock from the look at them
    // on: no small page is mapped beside the leaf.
    fn huge_fault(store: ArcBorrow<'_, Store>, vmf: &VmFault<'_>) -> Result<bool, FaultError> {
        let Some(pgoffs) = vmf.leaf_pgoffs() else {
            return Ok(false);
        };
        // Without memory it is for `fault` to say so.
        let Ok(mut state) = lock_filled(&store, pgoffs) else {
            return Ok(false);
        };
        let is_mapped = vmf.insert_huge(|pgoff| state.get(pgoff))?;
        state.counters.nr_huge_faults += u64::from(is_mapped);
        Ok(is_mapped)
    }

    fn mremap(store: ArcBorrow<'_, Store>, nr_pages: usize) -> Result {
        <Store as VmOperations>::mremap(store, nr_pages)
    }
}

/// Locks the pages, with a folio at `pgoffs`. Or, in a file of pages, with a block of them there, if
/// there was nothing, and there is memory.
///
/// # Errors
///
/// - `ENOMEM`: there is no memory for a folio.
fn lock_filled(store: &Store, pgoffs: Range<usize>) -> Result<LockedState<'_>> {
    let state = store.lock();
    if state.setup.folio_order > 0 {
        drop(state);
        return Ok(store.lock_populated(pgoffs.start)?.0);
    }
    if !state.slots.are_free(pgoffs.clone()) {
        return Ok(state);
    }
    drop(state);
    let room = store.alloc_room(PTRS_PER_PTE);
    let block = store.alloc_block();
    let mut state = store.lock();
    if let (Ok(room), Ok(block), true) = (room, block, state.slots.are_free(pgoffs.clone())) {
        state.slots.grow(pgoffs.start, room);
        state.fill_block(pgoffs, block);
    }
    Ok(state)
}
