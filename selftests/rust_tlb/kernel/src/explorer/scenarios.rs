// SPDX-License-Identifier: GPL-2.0

//! Small machines, and what runs on them: as the kernel does it.

use super::{
    machine::Machine,
    program::{Info, Op},
    state::{Cached, Context, Loaded, INIT, NONE, NR_PAGES},
};
use crate::{
    mm::tlb::ring::Run,
    page::{PAGE_SHIFT, PAGE_SIZE},
};

/// X, which is looked at, and who changes page tables.
pub(super) const X: usize = 0;
pub(super) const A: usize = 1;
pub(super) const B: usize = 2;

/// Pages, and the same as bits.
pub(super) const PAGE_A: u8 = 0;
pub(super) const PAGE_B: u8 = 1;
pub(super) const PAGE_C: u8 = 2;
/// In the kernel's half.
pub(super) const PAGE_K: u8 = 3;

pub(super) const fn bit(page: u8) -> u8 {
    1 << page
}

fn address(page: u8) -> usize {
    match page {
        PAGE_K => usize::MAX - PAGE_SIZE + 1 - PAGE_SIZE,
        _ => usize::from(page) * PAGE_SIZE,
    }
}

/// As the kernel's code makes it of a range.
pub(super) fn run_of(page: u8, stride_shift: u32, tables_freed: bool) -> Run {
    let start = address(page);
    Run::new(
        start,
        start + (1 << stride_shift),
        stride_shift,
        tables_freed,
    )
}

pub(super) fn run(page: u8) -> Run {
    run_of(page, PAGE_SHIFT as u32, false)
}

impl Machine {
    /// The CPU runs a kernel thread that has nothing to do with any address space.
    pub(super) fn kernel_thread(mut self, cpu: usize) -> Self {
        let of = &mut self.start.cpus[cpu];
        of.loaded = Loaded {
            mm: INIT,
            is_lazy: false,
        };
        of.seen = of.loaded;
        of.root = INIT;
        of.asid = 0;
        of.contexts[0].mm = INIT;
        of.cached[0] = Cached::default();
        self.start.mms[0].cpumask &= !(1 << cpu);
        self
    }

    /// The CPU runs mm1, and was in mm0 before: that is still cached. The mask of mm0 was trimmed.
    pub(super) fn elsewhere(mut self, cpu: usize) -> Self {
        let of = &mut self.start.cpus[cpu];
        of.loaded.mm = 1;
        of.seen = of.loaded;
        of.root = 1;
        of.asid = 1;
        of.next_asid = 0;
        of.contexts[1] = Context {
            mm: 1,
            generation: super::machine::FIRST,
        };
        self.start.mms[0].cpumask &= !(1 << cpu);
        self.start.mms[1].cpumask |= 1 << cpu;
        self.start.cache();
        self
    }

    /// It is in the mask of mm0 still.
    pub(super) fn untrimmed(mut self, cpu: usize) -> Self {
        self.start.mms[0].cpumask |= 1 << cpu;
        self
    }

    /// Nothing is mapped at a page, and nobody remembers that there was.
    pub(super) fn unmapped(mut self, mm: u8, page: u8) -> Self {
        let pte = self.start.pte(mm, page).expect("has a table");
        let frame = std::mem::replace(pte, NONE);
        for cpu in &mut self.start.cpus {
            for cached in &mut cpu.cached {
                cached.frames[usize::from(page)] &= !(1 << frame);
            }
        }
        self
    }

    /// The scheduler may decide so often.
    pub(super) fn decisions(mut self, cpu: usize, nr: u8) -> Self {
        self.start.cpus[cpu].decisions_left = nr;
        self
    }

    pub(super) fn faults(mut self, nr: u8) -> Self {
        self.start.faults_left = nr;
        self
    }

    /// A page is mapped writable, and may be written to so often, as any may that is mapped.
    pub(super) fn writable(mut self, mm: u8, page: u8, dirty: bool, nr_writes: u8) -> Self {
        let frame = *self.start.pte(mm, page).expect("has a table");
        let of = &mut self.start.frames[usize::from(frame)];
        (of.writable, of.dirty) = (true, dirty);
        self.start.writes_left = nr_writes;
        self.start.cache();
        self
    }

    pub(super) fn slots(mut self, nr: usize) -> Self {
        self.nr_slots = nr;
        self
    }

    pub(super) fn without_ring(mut self, mm: u8) -> Self {
        self.start.mms[usize::from(mm)].has_ring = false;
        self
    }

    pub(super) fn program(mut self, cpu: usize, ops: impl IntoIterator<Item = Op>) -> Self {
        self.programs[cpu].extend(ops);
        self
    }
}

/// Unmaps a page and defers the flush: what the walk does under the page-table lock.
pub(super) fn unmap(mm: u8, page: u8) -> Vec<Op> {
    vec![Op::Lock(mm), Op::Clear(mm, page), Op::Unlock(mm)]
}

/// A generation for a page, then the mask.
pub(super) fn publish(mm: u8, page: u8) -> Vec<Op> {
    publish_to(mm, page, Op::Mask(mm))
}

/// The same for a batch: of the mask, it asks who runs the address space.
pub(super) fn publish_batch(mm: u8, page: u8) -> Vec<Op> {
    publish_to(mm, page, Op::Running(mm))
}

fn publish_to(mm: u8, page: u8, cpus: Op) -> Vec<Op> {
    let publish = Op::Publish(mm, vec![run(page)]);
    vec![Op::Bump(mm, bit(page)), publish, cpus]
}

/// A batch of the policy `ring`, with one page.
pub(super) fn batch(mm: u8, page: u8) -> Vec<Op> {
    let end = [Op::Send(Info::BATCH), Op::Free];
    [unmap(mm, page), publish_batch(mm, page), end.into()].concat()
}

/// `flush_tlb_mm_range()` of one page, which publishes as well, and the unmap before it.
pub(super) fn munmap(mm: u8, page: u8) -> Vec<Op> {
    let end = [Op::Send(Info::range(mm, bit(page))), Op::Free];
    [unmap(mm, page), publish(mm, page), end.into()].concat()
}

/// The end of a munmap that takes a page table out, whose pages are `pages`.
pub(super) fn free_table(mm: u8, place: u8, pages: [u8; 2], published: Run) -> Vec<Op> {
    let mask = bit(pages[0]) | bit(pages[1]);
    let info = Info {
        tables_freed: true,
        ..Info::range(mm, mask)
    };
    vec![
        Op::Lock(mm),
        Op::Clear(mm, pages[0]),
        Op::Clear(mm, pages[1]),
        Op::Unlink(mm, place),
        Op::Unlock(mm),
        Op::Bump(mm, mask),
        Op::Publish(mm, vec![published]),
        Op::Mask(mm),
        Op::Send(info),
        Op::Free,
        Op::CallRcu,
        Op::FreeTables,
    ]
}

const _: () = assert!(NR_PAGES == PAGE_K as usize + 1);
