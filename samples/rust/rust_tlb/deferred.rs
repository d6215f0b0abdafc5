// SPDX-License-Identifier: GPL-2.0

//! A batch of the device: pages whose flush is owed, and what is to become of them.

#[cfg(CONFIG_RUST_TLB_FAULTS)]
use crate::broken_tables::BrokenTables;
use crate::{
    membership::OpenScope,
    request::{
        UnmapRequest,
        WriteBack, //
    },
    strategy::BatchOfPages, //
};
use kernel::{
    mm::tlb::{
        self,
        owed::{
            OwedCount,
            Owing, //
        }, //
    },
    prelude::*,
    sync::Arc,
    task::Pid,
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// A batch, and what is to become of its pages.
pub(crate) struct Deferred {
    pub(crate) batch: BatchOfPages,
    pub(crate) strategy: u32,
    /// Whose flush it waits for, if it is not its own.
    pub(crate) scope: Option<Arc<OpenScope>>,
    pub(crate) free: bool,
    pub(crate) write_back: WriteBack,
    /// If it was deferred: when, and who unmapped its first page.
    pub(crate) since: Option<(Instant<Monotonic>, Pid)>,
    /// Until its pages are flushed, and settled, if others can look before.
    _owing: Option<Owing<Arc<OwedCount>>>,
    /// Rules that are broken when its tables are taken out.
    #[cfg(CONFIG_RUST_TLB_FAULTS)]
    pub(crate) broken: BrokenTables,
}

impl Deferred {
    /// Of an empty `batch`, which is in `scope`, or on its own. If its flush may be left to later, `owed`
    /// is given: that counts it until it is gone.
    pub(crate) fn new(
        batch: BatchOfPages,
        scope: Option<Arc<OpenScope>>,
        request: &UnmapRequest,
        owed: Option<Arc<OwedCount>>,
    ) -> Self {
        Self {
            batch,
            strategy: request.strategy,
            scope,
            free: request.free,
            write_back: request.write_back,
            since: None,
            _owing: owed.map(Owing::new),
            #[cfg(CONFIG_RUST_TLB_FAULTS)]
            broken: request.broken_tables,
        }
    }

    /// Its flush is left to later.
    pub(crate) fn defer(mut self) -> Self {
        self.since
            .get_or_insert_with(|| (Instant::now(), current!().pid()));
        self
    }

    /// Tells those who watch that the current task waits for the flush of page `pgoff`.
    pub(crate) fn note_hit(&self, pgoff: usize) {
        if let Some((_, owner)) = self.since {
            tlb::trace::pending_hit(pgoff, owner);
        }
    }

    /// Returns whether the pages of `request` can join this batch.
    pub(crate) fn suits(&self, request: &UnmapRequest, scope: Option<&Arc<OpenScope>>) -> bool {
        self.strategy == request.strategy
            && self.free == request.free
            && self.write_back == request.write_back
            && match (&self.scope, scope) {
                (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
                (ours, theirs) => ours.is_none() && theirs.is_none(),
            }
    }

    pub(crate) fn nr_entries(&self) -> usize {
        self.batch.nr_entries()
    }

    /// Returns whether its scope has flushed all that it owes.
    pub(crate) fn is_flushed(&self) -> bool {
        self.scope.is_some() && self.batch.owed().nr_mms == 0
    }
}
