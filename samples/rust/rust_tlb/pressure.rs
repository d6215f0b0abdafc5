// SPDX-License-Identifier: GPL-2.0

//! Memory pressure: one shrinker for all open files, which it goes around. If it is a cgroup that
//! memory is short in, only the files that were opened in it are looked at: it pays for them.

use crate::{
    open_files,
    store::{
        Store,
        NR_RECLAIMABLE, //
    }, //
};
use kernel::{
    alloc::flags::GFP_KERNEL,
    mm::shrinker::{
        self,
        Payer,
        Shrink,
        Shrinker,
        Wanted, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock,
        Arc,
        ArcBorrow, //
    }, //
};

global_lock! {
    // SAFETY: The module initialises it before it registers the shrinker.
    pub(crate) unsafe(uninit) static SHRINKER: Mutex<Option<Shrinker<Pressure>>> = None;
}

/// Takes the shrinker out when it is dropped.
pub(crate) struct Registration(());

impl Registration {
    pub(crate) fn new() -> Result<Self> {
        let next = Atomic::new(0);
        let pressure = Arc::new(Pressure { next }, GFP_KERNEL)?;
        let shrinker = Shrinker::register(c"rust-tlb", pressure)?;
        *SHRINKER.lock() = Some(shrinker);
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // It waits for its functions, which lock this: so not under the lock.
        let shrinker = SHRINKER.lock().take();
        drop(shrinker);
    }
}

/// There is something again that `payer` pays for.
pub(crate) fn tell(payer: &Payer) {
    if let Some(shrinker) = &*SHRINKER.lock() {
        shrinker.tell(payer);
    }
}

/// Goes around the open files.
pub(crate) struct Pressure {
    /// The address of the file that comes next.
    next: Atomic<usize>,
}

impl Pressure {
    /// Frees pages of the files from address `from` to `to`, until `nr_to_scan` are freed.
    fn scan_from(
        &self,
        from: usize,
        to: usize,
        wanted: &Wanted<'_>,
        nr_to_scan: usize,
    ) -> Option<usize> {
        let mut nr_freed = 0;
        self.next.store(from, Relaxed);
        while nr_freed < nr_to_scan {
            let from = self.next.load(Relaxed);
            let is_wanted = |store: &Arc<Store>| store.nr_wanted(wanted) > 0;
            let Some((address, store)) = open_files::try_next(from, is_wanted)? else {
                break;
            };
            if address > to {
                break;
            }
            self.next.store(address.wrapping_add(1), Relaxed);
            let store = store.as_arc_borrow();
            nr_freed += Store::shrink(store, nr_to_scan - nr_freed).unwrap_or(0);
        }
        Some(nr_freed)
    }
}

impl Shrink for Pressure {
    fn count(_: ArcBorrow<'_, Self>, wanted: &Wanted<'_>) -> usize {
        if NR_RECLAIMABLE.load(Relaxed) == 0 {
            return 0;
        }
        open_files::try_sum(|store| store.nr_wanted(wanted)).unwrap_or(0)
    }

    fn scan(this: ArcBorrow<'_, Self>, wanted: &Wanted<'_>) -> Option<usize> {
        let start = this.next.load(Relaxed);
        let nr_to_scan = wanted.nr_to_scan();
        let nr_freed = this.scan_from(start, usize::MAX, wanted, nr_to_scan)?;
        // Around, to where it began.
        let nr_left = nr_to_scan.saturating_sub(nr_freed);
        let rest = this.scan_from(0, start, wanted, nr_left).unwrap_or(0);
        shrinker::account_reclaimed_pages(nr_freed + rest);
        // All of them locked: there is no point in asking again.
        (nr_freed + rest > 0).then_some(nr_freed + rest)
    }
}
