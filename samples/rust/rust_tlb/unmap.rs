// SPDX-License-Identifier: GPL-2.0

//! The strategies: ways to take pages out of the page tables, and to flush.

use crate::{
    abi::{
        strategy,
        Unmap, //
    },
    deferred::Deferred,
    membership::Membership,
    request::{
        EmptyTables,
        UnmapRequest,
        WriteBack, //
    },
    slots::{
        Slots,
        Until, //
    },
    state::State,
    statistics::STATISTICS,
    store::Store,
    strategy::BatchOfPages, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::tlb::{
        self,
        gather::{
            self,
            Tables, //
        },
        DriverPage,
        ExclusivePage,
        Phases,
        Staging,
        Why, //
    },
    prelude::*,
    sync::ArcBorrow, //
};
#[cfg(CONFIG_RUST_TLB_FAULTS)]
use kernel::{
    interrupt::local_interrupt_disable,
    mm::tlb::Gather,
    new_spinlock,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// What an unmap works on.
pub(crate) struct Target<'a> {
    pub(crate) store: ArcBorrow<'a, Store>,
    /// Page offsets, in ascending order.
    pub(crate) pgoffs: &'a [usize],
}

impl Target<'_> {
    /// Unmaps, and writes what was done into `out`. Returns whether a flush is owed that was not
    /// before.
    // Its frame is large, and not for whoever else comes by the same way.
    #[inline(never)]
    pub(crate) fn unmap(&self, request: &UnmapRequest, out: &mut Unmap) -> Result<bool> {
        let spare = self.alloc_copies(request);
        let mut state = self.store.lock();
        let was_owed = state.deferred.is_some();
        match request.strategy {
            strategy::ZAP => self.unmap_by_core(&mut state, request, out, Self::zap),
            strategy::UNMAP_MAPPING => {
                self.unmap_by_core(&mut state, request, out, Self::unmap_mapping)
            }
            strategy::GATHER => self.unmap_by_gather(&mut state, request, out),
            _ => self.unmap_by_batch(&mut state, request, spare, out),
        }?;
        state.counters.nr_unmapped += out.nr_pages;
        state.counters.nr_ptes += out.nr_ptes;
        state.counters.nr_redirtied += out.nr_redirtied;
        Ok(state.deferred.is_some() && !was_owed)
    }

    /// Pages for what is to be saved, which are not allocated with the file locked. There may be too
    /// few, for want of memory or because the pool has shrunk since: what cannot be saved is kept.
    fn alloc_copies(&self, request: &UnmapRequest) -> KVVec<ExclusivePage> {
        let mut copies = KVVec::new();
        if request.write_back == WriteBack::No {
            return copies;
        }
        let state = self.store.lock();
        let nr = state.nr_missing_to_store(self.pgoffs);
        let setup = state.setup;
        drop(state);
        for _ in 0..nr {
            let copy = self.store.alloc_page(&setup);
            if !copy.is_ok_and(|copy| copies.push(copy, GFP_KERNEL_ACCOUNT).is_ok()) {
                break;
            }
        }
        copies
    }

    /// Ours: everything into one batch, one walk over all processes, then the flush.
    fn unmap_by_batch(
        &self,
        state: &mut State,
        request: &UnmapRequest,
        spare: KVVec<ExclusivePage>,
        out: &mut Unmap,
    ) -> Result {
        if request.loses_tables && !state.setup.pfnmap {
            return Err(EINVAL);
        }
        let defer = request.defer || state.membership.is_some();
        state.is_broken |= request.is_broken();
        let mut work = self.open_batch(state, request, defer, out)?;
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        if request.break_leaves {
            work.batch.defer_leaves();
        }
        let nr_before = work.nr_entries();
        let staging = self.stage(&mut state.slots, &mut work.batch);
        let mappings = self.store.mapping().over_until_killed(self.store);
        let done = Self::unmap_staged(&mappings, staging, request);
        let nr_slots = work.nr_entries() - nr_before;
        self.count(state, &mut work.batch, nr_slots, &done, out);
        if mappings.is_cut_short() {
            state.counters.nr_ptes += out.nr_ptes;
            state.put_back(work, nr_before);
            return Err(EINTR);
        }
        state.write_back(&mut work, nr_before, spare, out);
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        if request.break_release {
            state.release_unflushed(&mut work);
        }
        if defer {
            state.deferred = Some(work.defer());
        } else {
            let mappings = self.store.mapping().over(self.store);
            let report = state.flush_with_tables(work, &mappings, Why::End);
            out.nr_flush_calls += report.nr_calls as u64;
        }
        Ok(())
    }

    /// Moves the pages out of their slots, into `batch`.
    fn stage<'b>(
        &self,
        slots: &mut Slots<DriverPage, ExclusivePage>,
        batch: &'b mut BatchOfPages,
    ) -> Staging<'b, DriverPage, tlb::AnyPolicy> {
        let mut staging = batch.stage();
        for pgoff in slots.firsts_of(self.pgoffs) {
            let Some(page) = slots.take(pgoff, Until::Settled) else {
                continue;
            };
            if let Err(tlb::Full(page)) = staging.push(pgoff, page) {
                slots.put_back(pgoff, page);
            }
        }
        staging
    }

    /// Clears the PTEs, in one phase or two.
    fn unmap_staged(
        mappings: &tlb::FileMappings<'_, Store>,
        staging: Staging<'_, DriverPage, tlb::AnyPolicy>,
        request: &UnmapRequest,
    ) -> Phases {
        if request.two_phase {
            let quiesced = staging.write_protect(mappings).flush();
            return quiesced.unmap(mappings);
        }
        Phases {
            nr_ptes: staging.unmap(mappings),
            ..Phases::default()
        }
    }

    /// Tells of what was `done` with the pages of `nr_slots`, and flushed on the way.
    fn count(
        &self,
        state: &mut State,
        batch: &mut BatchOfPages,
        nr_slots: usize,
        done: &Phases,
        out: &mut Unmap,
    ) {
        out.nr_ptes = done.nr_ptes as u64;
        out.nr_protected = done.nr_protected as u64;
        out.nr_redirtied = done.nr_redirtied as u64;
        out.nr_pages = (nr_slots * state.slots.nr_per_slot()) as u64;
        let early = batch.flushed_early();
        let nr_mms = batch.owed().nr_mms.max(early.nr_mms);
        out.nr_mms = nr_mms.max(done.report.nr_mms) as u64;
        for (report, why) in [(early, Why::Leaf), (done.report, Why::Phase)] {
            if report.nr_calls > 0 {
                self.count_calls(state, report.nr_calls, out);
                STATISTICS.why(why);
            }
        }
    }

    fn count_calls(&self, state: &mut State, nr_calls: usize, out: &mut Unmap) {
        out.nr_flush_calls += nr_calls as u64;
        state.counters.nr_flush_calls += nr_calls as u64;
    }

    /// The deferred batch, if the pages can join it and there is room, or a new one.
    fn open_batch(
        &self,
        state: &mut State,
        request: &UnmapRequest,
        defer: bool,
        out: &mut Unmap,
    ) -> Result<Deferred> {
        let nr_slots = state.slots.firsts_of(self.pgoffs).count();
        let nr_new = nr_slots * state.slots.nr_per_slot();
        let max_pending = self.store.limits().max_pending as usize;
        if defer && nr_new > max_pending {
            return Err(E2BIG);
        }
        let scope = Membership::check(state.membership.as_ref(), request.strategy)?;
        if let Some(deferred) = &state.deferred {
            let suits = deferred.suits(request, scope.as_ref());
            let has_room = state.nr_pending() + nr_new <= max_pending;
            state.counters.nr_flushed_full += u64::from(suits && !has_room);
            if !suits || !has_room {
                let why = if suits { Why::Full } else { Why::Other };
                out.nr_flush_calls += state.flush_deferred(why).nr_calls as u64;
            }
        }
        if let Some(deferred) = state.deferred.as_mut() {
            deferred.batch.reserve(nr_slots, GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(deferred) = state.deferred.take() {
            return Ok(deferred);
        }
        state.open_batch(scope, request, nr_slots, defer)
    }

    /// The peers: the core clears and flushes as it goes, and holds the pages until it has flushed.
    fn unmap_by_core(
        &self,
        state: &mut State,
        request: &UnmapRequest,
        out: &mut Unmap,
        unmap: impl FnOnce(&Self, &[usize]) -> usize,
    ) -> Result {
        Membership::check(state.membership.as_ref(), request.strategy)?;
        let nr_slots = state.slots.firsts_of(self.pgoffs).count();
        let nr_pages = nr_slots * state.slots.nr_per_slot();
        let mut taken = KVVec::with_capacity(nr_slots, GFP_KERNEL_ACCOUNT)?;
        let mut pgoffs = KVVec::with_capacity(nr_pages, GFP_KERNEL_ACCOUNT)?;
        let mut proof = self.proof(state, request)?;
        out.nr_flush_calls = state.flush_deferred(Why::Other).nr_calls as u64;
        for first in state.slots.firsts_of(self.pgoffs) {
            if let Some(page) = state.slots.take(first, Until::Flushed) {
                taken.push(page, GFP_KERNEL_ACCOUNT)?;
                for pgoff in first..first + state.slots.nr_per_slot() {
                    pgoffs.push(pgoff, GFP_KERNEL_ACCOUNT)?;
                }
            }
        }
        let nr_calls = unmap(self, &pgoffs);
        out.nr_pages = pgoffs.len() as u64;
        self.count_calls(state, nr_calls, out);
        if let Some(proof) = proof.take() {
            self.prove(proof, &pgoffs, taken, state);
        } else {
            taken
                .drain_all()
                .for_each(|page| state.release(page, request.free));
        }
        Ok(())
    }

    /// The kernel's own gather, one per mm.
    fn unmap_by_gather(
        &self,
        state: &mut State,
        request: &UnmapRequest,
        out: &mut Unmap,
    ) -> Result {
        #[cfg(CONFIG_RUST_TLB_FAULTS)]
        if request.break_context {
            self.gather_in_atomic_context()?;
        }
        let tables = match state.setup.empty_tables {
            EmptyTables::Keep => Tables::Keep,
            EmptyTables::Free | EmptyTables::FreeLater => Tables::Free,
        };
        // A table goes with a run that covers it: all that was asked for, populated or not.
        let whole = match tables {
            Tables::Free => Some(state.slots.whole(self.pgoffs, GFP_KERNEL_ACCOUNT)?),
            Tables::Keep => None,
        };
        let gather =
            |this: &Self, pgoffs: &[usize]| this.gather(whole.as_deref().unwrap_or(pgoffs), tables);
        self.unmap_by_core(state, request, out, gather)
    }

    /// A batch for [`Target::prove`], if that is needed.
    fn proof(&self, state: &mut State, request: &UnmapRequest) -> Result<Option<Deferred>> {
        if !state.setup.pfnmap {
            return Ok(None);
        }
        let request = UnmapRequest {
            strategy: strategy::BROADCAST,
            ..*request
        };
        state
            .open_batch(None, &request, self.pgoffs.len(), false)
            .map(Some)
    }

    /// Pages that are mapped without references come back through a batch alone: that the core has
    /// unmapped them is its word, and not to be had as a type. This walk finds nothing to clear,
    /// and flushes only what others owe.
    fn prove(
        &self,
        mut proof: Deferred,
        pgoffs: &[usize],
        mut taken: KVVec<DriverPage>,
        state: &mut State,
    ) {
        let mut staging = proof.batch.stage();
        let firsts = pgoffs.iter().step_by(state.slots.nr_per_slot());
        for (&pgoff, page) in firsts.zip(taken.drain_all()) {
            if staging.push(pgoff, page).is_err() {
                return pr_err!("no room for page {pgoff}\n");
            }
        }
        staging.unmap(&self.store.mapping().over(self.store));
        state.flush(proof, Why::End);
    }

    /// `zap_vma_range()` per page and VMA.
    fn zap(&self, pgoffs: &[usize]) -> usize {
        let (Some(&first), Some(&last)) = (pgoffs.first(), pgoffs.last()) else {
            return 0;
        };
        let mut nr_calls = 0;
        let rmap = self.store.mapping().lock();
        for vma in rmap.vmas(self.store, first, last) {
            for &pgoff in pgoffs {
                nr_calls += usize::from(vma.zap(pgoff, pgoff));
            }
        }
        nr_calls
    }

    /// `unmap_mapping_pages()` per contiguous run.
    fn unmap_mapping(&self, pgoffs: &[usize]) -> usize {
        let mut nr_calls = 0;
        for run in pgoffs.chunk_by(|a, b| a + 1 == *b) {
            self.store.mapping().unmap_mapping_pages(run[0], run.len());
            nr_calls += 1;
        }
        nr_calls
    }

    /// A gather for each address space: every run of every VMA, then one flush.
    fn gather(&self, pgoffs: &[usize], tables: Tables) -> usize {
        let (Some(&first), Some(&last)) = (pgoffs.first(), pgoffs.last()) else {
            return 0;
        };
        let rmap = self.store.mapping().lock();
        gather::for_each_mm(&rmap, self.store, first, last, |gather, vma| {
            let Some(window) = vma.window() else {
                return;
            };
            for run in pgoffs.chunk_by(|a, b| a + 1 == *b) {
                if let Some(range) = window.clip(run[0], run[run.len() - 1]) {
                    // It is in the VMA, and the VMA in the mm: there is no error.
                    let _ = gather.zap(vma, range, tables);
                }
            }
        })
    }

    /// Opens gathers, and zaps nothing, with a spinlock held and with IRQs off: the kernel has to
    /// complain of both.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    fn gather_in_atomic_context(&self) -> Result {
        let spinlock = KBox::pin_init(new_spinlock!(()), GFP_KERNEL_ACCOUNT)?;
        let last = self.store.limits().nr_pages as usize - 1;
        let rmap = self.store.mapping().lock();
        let vma = rmap.vmas(self.store, 0, last).next().ok_or(ENXIO)?;
        let held = spinlock.lock();
        Gather::with(vma.mm(), |_| {});
        drop(held);
        // The kernel complains once a second at most.
        fsleep(Delta::from_secs(2));
        let disabled = local_interrupt_disable();
        Gather::with(vma.mm(), |_| {});
        drop(disabled);
        Ok(())
    }
}
