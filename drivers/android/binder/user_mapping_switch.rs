// SPDX-License-Identifier: GPL-2.0

//! For comparison: debugfs, `rust_binder/by_page`. Other than 0, a scan takes pages out one by one,
//! with a shootdown for each, as it does without `CONFIG_RUST_TLB`.
//!
//! For tests, kernels with `CONFIG_RUST_TLB_FAULTS` have more files there:
//!
//! - `fault` breaks a rule: 1, pages are freed before their flush, which is left to the next scan;
//!   2, a page is inserted without a look at what is owed.
//! - `hold`, other than 0, holds scans open that owe a flush, until it is 0 again, ten seconds at
//!   most; `nr_held` is for how many pages such a scan owes it now.

use super::PageBatch;
use kernel::{
    debugfs::{
        Scope,
        ScopedDir, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

static BY_PAGE: Atomic<u32> = Atomic::new(0);

pub(super) fn is_by_page() -> bool {
    BY_PAGE.load(Relaxed) != 0
}

/// The files, until they are dropped.
pub(crate) type Switch = Pin<KBox<Scope<()>>>;

pub(crate) fn offer() -> Result<Switch> {
    let scope = Scope::dir((), c"rust_binder", |(), dir| {
        dir.read_write_file(c"by_page", &BY_PAGE);
        faults::offer(dir);
    });
    KBox::pin_init(scope, GFP_KERNEL)
}

pub(super) use faults::{
    end,
    owed_is_ignored, //
};

#[cfg(not(CONFIG_RUST_TLB_FAULTS))]
mod faults {
    use super::*;

    pub(super) fn offer(_: &ScopedDir<'_, '_>) {}

    pub(in super::super) fn owed_is_ignored() -> bool {
        false
    }

    /// The end of a scan.
    pub(in super::super) fn end(
        batch: PageBatch,
        flush: impl FnOnce(PageBatch) -> PageBatch,
    ) -> PageBatch {
        flush(batch)
    }
}

#[cfg(CONFIG_RUST_TLB_FAULTS)]
mod faults {
    use super::*;
    use kernel::time::{
        delay::fsleep,
        Delta, //
    };

    const UNFLUSHED: u32 = 1;
    const OWED_IS_IGNORED: u32 = 2;

    static FAULT: Atomic<u32> = Atomic::new(0);
    static HOLD: Atomic<u32> = Atomic::new(0);
    static NR_HELD: Atomic<u32> = Atomic::new(0);

    const MAX_NR_MS_HELD: usize = 10_000;

    pub(super) fn offer(dir: &ScopedDir<'_, '_>) {
        dir.read_write_file(c"fault", &FAULT);
        dir.read_write_file(c"hold", &HOLD);
        dir.read_only_file(c"nr_held", &NR_HELD);
    }

    pub(in super::super) fn owed_is_ignored() -> bool {
        FAULT.load(Relaxed) == OWED_IS_IGNORED
    }

    /// The end of a scan.
    pub(in super::super) fn end(
        mut batch: PageBatch,
        flush: impl FnOnce(PageBatch) -> PageBatch,
    ) -> PageBatch {
        hold(batch.nr_entries());
        if FAULT.load(Relaxed) != UNFLUSHED {
            return flush(batch);
        }
        batch.drain_unflushed().for_each(drop);
        batch
    }

    /// Sleeps while it is told to. One scan has the batch, and so one is here.
    fn hold(nr_pages: usize) {
        if nr_pages == 0 {
            return;
        }
        let is_held = |_: &usize| HOLD.load(Relaxed) != 0;
        for _ in (0..MAX_NR_MS_HELD).take_while(is_held) {
            NR_HELD.store(nr_pages as u32, Relaxed);
            fsleep(Delta::from_millis(1));
        }
        NR_HELD.store(0, Relaxed);
    }
}
