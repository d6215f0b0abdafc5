// SPDX-License-Identifier: GPL-2.0

//! Moves: PTEs go from one mapping of an open file to another one in the caller's process.
//!
//! The device's own lock is not held: whoever takes pages out meanwhile finds them by the new address
//! or by the old one, and those that are pinned are not exclusive: they are not used again.

use crate::{
    abi,
    request::MoveRequest,
    statistics::STATISTICS,
    store::Store,
    strategy, //
};
use kernel::{
    alloc::flags::{
        GFP_KERNEL,
        GFP_KERNEL_ACCOUNT, //
    },
    mm::tlb::{
        self,
        moves::{
            move_pages,
            Done, //
        },
        moving::{
            MmapWriteGuard,
            Movable, //
        }, //
    },
    prelude::*,
    sync::ArcBorrow, //
};

/// Works on the argument of a [`MOVE`](abi::MOVE).
pub(crate) fn update(store: ArcBorrow<'_, Store>, arg: &mut abi::Move) -> Result {
    let request = MoveRequest::new(store.limits(), arg)?;
    let pgoffs = KVVec::with_capacity(request.old.span_pages(), GFP_KERNEL)?;
    let task = current!();
    let mm = task.mm().ok_or(EINVAL)?;
    let guard = mm.mmap_write_lock()?;
    move_locked(store, &guard, &request, pgoffs, arg)
}

/// The two mappings, which show the same pages.
fn find<'g>(
    store: ArcBorrow<'_, Store>,
    guard: &'g MmapWriteGuard<'_>,
    request: &MoveRequest,
) -> Result<(Movable<'g>, Movable<'g>, usize)> {
    let from = guard.movable(request.old, store)?;
    let to = guard.movable(request.new, store)?;
    let first = from.pgoff_of(request.old.start()).ok_or(EFAULT)?;
    if to.pgoff_of(request.new.start()) != Some(first) {
        return Err(EINVAL);
    }
    Ok((from, to, first))
}

fn move_locked(
    store: ArcBorrow<'_, Store>,
    guard: &MmapWriteGuard<'_>,
    request: &MoveRequest,
    mut pgoffs: KVVec<usize>,
    out: &mut abi::Move,
) -> Result {
    let (from, to, first) = find(store, guard, request)?;
    for pgoff in first..first + request.old.span_pages() {
        pgoffs.push(pgoff, GFP_KERNEL)?;
    }
    let policy = strategy::policy(abi::strategy::PRECISE)?;
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    let _locked = lock_page(store, request, first);
    store.lock().is_broken |= request.is_broken();
    let (when, flags) = (request.when, GFP_KERNEL_ACCOUNT);
    let moved = move_pages(&from, &to, &pgoffs, when, policy, flags)?;
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    hold(request);
    let (done, report) = moved.flush();
    tell(request, &done, &report, out);
    if done.is_cut_short {
        return Err(ENOMEM);
    }
    Ok(())
}

fn tell(request: &MoveRequest, done: &Done, report: &tlb::Report, out: &mut abi::Move) {
    out.nr_ptes = done.nr_ptes as u64;
    out.nr_tables = done.nr_tables as u64;
    out.nr_occupied = done.nr_occupied as u64;
    out.nr_locked_flushes = done.nr_locked_flushes as u64;
    out.nr_flush_calls = (done.nr_locked_flushes + report.nr_calls) as u64;
    out.nr_forced = done.reasons.map(|nr| nr as u64);
    STATISTICS.moved(request.when, done);
}

/// Has the first page locked, if there is one, as somebody else who works on it.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
fn lock_page(
    store: ArcBorrow<'_, Store>,
    request: &MoveRequest,
    first: usize,
) -> Option<tlb::moving::LockedPage> {
    let state = store.lock();
    let page = state.get(first).filter(|_| request.locks_page)?;
    tlb::moving::LockedPage::try_lock(page.page())
}

/// Leaves others some time between the move and the flush.
#[cfg(CONFIG_RUST_TLB_FAULTS)]
fn hold(request: &MoveRequest) {
    if request.hold_ms > 0 {
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(request.hold_ms.into()));
    }
}
