// SPDX-License-Identifier: GPL-2.0

//! The model's address spaces, as the real walk sees them: each shows the same file, page for page.

use super::{
    events::Meanwhile,
    ids::MmId,
    machine::{ModelMm, MMS},
    memory::{Frame, Page},
};
use crate::{
    mm::{
        parts::{Cleared, Part},
        place::Place,
        range::{PageRange, Pending},
        stale::{Proof, Stale},
        tlb::{
            policy::{sealed::Sealed, Touched},
            walk::{Mapping, Mappings, Permit, Unmap},
        },
        window::{Window, PTRS_PER_PTE},
    },
    page::PAGE_SHIFT,
};

/// Page tables of an address space. They share a lock.
const NR_TABLES: usize = 3;

/// A page in a batch.
pub(super) struct Taken {
    pub(super) page: Page,
    pub(super) frame: Frame,
}

impl Stale for Taken {
    fn nr_pages(&self) -> usize {
        1
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {}

    fn flushed(&mut self, _proof: Proof) {}
}

/// Some address spaces, in which other things go on.
pub(super) struct Processes<'a> {
    pub(super) mms: &'a [MmId],
    pub(super) meanwhile: &'a Meanwhile,
}

/// One of them.
pub(super) struct Process<'a> {
    mm: MmId,
    meanwhile: &'a Meanwhile,
}

/// The lock of its page table.
pub(super) struct Locked<'a>(&'a Process<'a>);

impl Sealed for Processes<'_> {}

impl<'a> Mappings for Processes<'a> {
    type Mapping = Process<'a>;

    fn for_each(&self, _first: usize, _last: usize, mut visit: impl FnMut(&Process<'a>)) {
        for &mm in self.mms {
            visit(&Process {
                mm,
                meanwhile: self.meanwhile,
            });
        }
    }

    fn place(&self) -> Option<Place> {
        None
    }
}

impl Sealed for Process<'_> {}

impl Mapping for Process<'_> {
    type Mm = ModelMm;
    type Table<'m>
        = Locked<'m>
    where
        Self: 'm;
    type Announced = ();

    fn mm(&self) -> &ModelMm {
        &MMS[self.mm]
    }

    fn window(&self) -> Option<Window> {
        let nr_pages = NR_TABLES * PTRS_PER_PTE;
        Some(Window::new(PageRange::new(0, nr_pages << PAGE_SHIFT)?, 0))
    }

    fn lock(&self, _addr: usize) -> Option<Locked<'_>> {
        self.meanwhile.pass();
        let is_there = self.meanwhile.with(|w| {
            let table = &mut w.mms[self.mm].table;
            table.is_locked = !table.is_empty();
            table.is_locked
        });
        is_there.then_some(Locked(self))
    }

    /// There are none here: see `leaves`.
    fn leaf(_table: &Locked<'_>) -> Option<PageRange> {
        None
    }

    fn announce(&self) {}

    fn is_announced(&self, _by: &()) -> bool {
        false
    }

    fn flush_now(&self, range: PageRange) {
        self.meanwhile.with(|w| w.flush_mm(self.mm, Some(range)));
    }

    fn invalidating<R>(&self, _range: PageRange, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn flush_is_pending(&self) -> bool {
        self.meanwhile.with(|w| w.flush_is_pending(self.mm))
    }

    fn cond_resched(&self) {
        self.meanwhile.pass();
    }

    fn trace_owed(&self, _pending: Pending, _why: Touched) {}
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Process { mm, meanwhile } = self.0;
        meanwhile.with(|w| w.mms[*mm].table.is_locked = false);
        meanwhile.pass();
    }
}

impl Locked<'_> {
    /// One page at a time: so are the model's entries.
    fn clear(&self, pages: PageRange, frame: Frame) -> Cleared {
        let Process { mm, meanwhile } = self.0;
        let vpn = pages.start() >> PAGE_SHIFT;
        let pte = meanwhile.with(|w| {
            let table = &mut w.mms[*mm].table;
            table.get(vpn).filter(|pte| pte.frame == frame)?;
            table.clear(vpn)
        });
        meanwhile.pass();
        pte.map_or(Cleared::default(), |pte| Cleared {
            nr: 1,
            nr_dirty: usize::from(pte.dirty),
            nr_writable: usize::from(pte.writable),
        })
    }

    fn protect(&self, addr: usize, frame: Frame) -> bool {
        let Process { mm, meanwhile } = self.0;
        let vpn = addr >> PAGE_SHIFT;
        let is_protected = meanwhile.with(|w| {
            let table = &mut w.mms[*mm].table;
            let pte = table.get(vpn).filter(|pte| pte.frame == frame);
            let protects = pte.is_some_and(|pte| pte.writable && !pte.dirty);
            if protects {
                table.set_writable(vpn, false);
            }
            protects
        });
        meanwhile.pass();
        is_protected
    }
}

impl Unmap<Taken> for Process<'_> {
    fn clear(table: &mut Locked<'_>, part: Part<'_, Taken>, _permit: &Permit) -> Cleared {
        table.clear(part.pages, part.entry.frame)
    }

    fn protect(table: &mut Locked<'_>, part: Part<'_, Taken>, _permit: &Permit) -> bool {
        table.protect(part.pages.start(), part.entry.frame)
    }
}

impl Unmap<Frame> for Process<'_> {
    fn clear(table: &mut Locked<'_>, part: Part<'_, Frame>, _permit: &Permit) -> Cleared {
        table.clear(part.pages, *part.entry)
    }

    fn protect(table: &mut Locked<'_>, part: Part<'_, Frame>, _permit: &Permit) -> bool {
        table.protect(part.pages.start(), *part.entry)
    }
}
