// SPDX-License-Identifier: GPL-2.0

//! A driver that takes pages back by the kernel's own code: the walk, the batch, both phases and the
//! policies of `rust/kernel/mm/tlb/`, one call into the machine a step.
//!
//! What that code is at is known as for the [`ring`](super::ring): by the answers that it has had.

use super::{
    machine::{Broken, Machine},
    program::{Info, ALL},
    ring::{Access, Answers, Ran, Ring},
    state::{NONE, NR_MMS, NR_PAGES, NR_RUNS},
};
use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        parts::{Cleared, Part},
        place::Place,
        range::{PageRange, Pending},
        stale::{Proof, Stale},
        tlb::{
            batch::{Batch, Staging},
            broadcast::Broadcast,
            per_page::PerPage,
            policy::{self, sealed::Sealed, Flush, Rule, Touched},
            precise::Precise,
            ring::Run,
            ringed::Ringed,
            unflushed::Unflushed,
            unnoted::Unnoted,
            walk::{Mapping, Mappings, Permit, Unmap},
        },
        window::Window,
    },
    page::{PAGE_SHIFT, PAGE_SIZE},
};
use std::ops::Deref;

/// A call into the machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// The driver takes the frame of a page from where its fault handler looks. Answered with that.
    Take {
        mm: u8,
        page: u8,
    },
    /// Answered with whether there is a page table to lock.
    Lock(u8),
    Unlock(u8),
    /// Each changes a PTE if it maps the frame. Answered with what was there: [`Was`].
    Clear {
        mm: u8,
        page: u8,
        frame: u8,
    },
    Protect {
        mm: u8,
        page: u8,
        frame: u8,
    },
    /// `mm_tlb_flush_pending()`.
    IsPending(u8),
    /// `mm_note_tlb_flush_batched()`.
    NoteBatched(u8),
    /// `inc_mm_tlb_gen()`. Answered with the new generation.
    Bump(u8),
    /// Answered with whether there is a ring.
    FindRing(u8),
    Ring {
        mm: u8,
        access: Access,
    },
    /// Answered with nothing, as are all that follow.
    Mask(u8),
    Running(u8),
    Send(Info),
    /// The contents of a frame are saved.
    Save(u8),
    /// A frame is not used any more.
    Free(u8),
}

/// What was in a PTE, as bits of an answer.
pub(super) struct Was;

impl Was {
    pub(super) const CHANGED: u8 = 1;
    pub(super) const DIRTY: u8 = 2;
    pub(super) const WRITABLE: u8 = 4;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Broadcast,
    Precise,
    PerPage,
    Ringed,
    /// A control: no flush.
    Unflushed,
    /// A control: unknown to others.
    Unnoted,
}

/// What the driver does with its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Unmaps and frees them.
    Free,
    /// A control: frees them before the flush.
    FreeEarly,
    /// Unmaps and saves them; then frees them.
    Save,
    /// The same in two phases.
    SaveInTwoPhases,
    /// A control: saves them without the flush that a dirty PTE asks for.
    SaveUnflushed,
}

/// A driver: which pages of which address spaces it takes back, and how.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    pub(super) policy: Policy,
    pub(super) way: Way,
    pub(super) mms: Vec<u8>,
    pub(super) pages: Vec<u8>,
}

impl Driver {
    /// Runs all of it, or to the first call that there is no answer for.
    pub(super) fn run(&self, on: &Machine, answers: &[u8]) -> Ran<(), Call> {
        let calls = Calls {
            answers: Answers::new(answers),
            ring: on.ring(),
            ceiling: on.ceiling,
            ignores_pending: on.is_broken(Broken::PendingIsIgnored),
        };
        self.take_back(&calls);
        calls.answers.end(())
    }

    fn take_back<'c>(&self, calls: &'c Calls<'c>) {
        let policy = self.policy.make(calls);
        let batch = TakenBatch::with_policy(policy, self.pages.len(), GFP_KERNEL);
        let mut batch = batch.expect("the host has memory");
        self.unmap(&mut batch, calls);
        match self.way {
            Way::Free => {}
            Way::FreeEarly => return batch.drain_unflushed().for_each(drop),
            Way::Save | Way::SaveInTwoPhases => batch.flush_dirty().entries().for_each(save),
            Way::SaveUnflushed => batch.flush_dirty_left_out().entries().for_each(save),
        }
        batch.flush().drain().for_each(drop);
    }

    fn unmap<'c>(&self, batch: &mut TakenBatch<'c>, calls: &'c Calls<'c>) {
        let spaces = Spaces {
            mms: &self.mms,
            calls,
        };
        let staging = self.stage(batch, calls);
        if self.way == Way::SaveInTwoPhases {
            staging.write_protect(&spaces).flush().unmap(&spaces);
        } else {
            staging.unmap(&spaces);
        }
    }

    fn stage<'b, 'c>(
        &self,
        batch: &'b mut TakenBatch<'c>,
        calls: &'c Calls<'c>,
    ) -> Staging<'b, Taken<'c>, AnyPolicy<'c>> {
        let mut staging = batch.stage();
        for &page in &self.pages {
            let taken = Taken::take(calls, &self.mms, page);
            assert!(staging.push(page.into(), taken).is_ok(), "there is room");
        }
        staging
    }
}

fn save((_, taken): (usize, &Taken<'_>)) {
    taken.each_frame(Call::Save);
}

/// The machine, as somebody answers for it.
struct Calls<'a> {
    answers: Answers<'a, Call>,
    ring: Ring,
    ceiling: usize,
    ignores_pending: bool,
}

impl Calls<'_> {
    fn ask(&self, call: Call) -> u8 {
        self.answers.ask(call)
    }

    /// Bumps the generation, and says what for.
    fn publish(&self, mm: u8, runs: &[Run]) {
        let generation = self.ask(Call::Bump(mm));
        let ask = |access| self.ask(Call::Ring { mm, access });
        // That it gave up is right, too.
        let _ = self.ring.publish_asking(&ask, generation, runs);
    }
}

/// A page of the driver: its frame in each address space.
struct Taken<'c> {
    calls: &'c Calls<'c>,
    frames: [u8; NR_MMS],
}

impl<'c> Taken<'c> {
    fn take(calls: &'c Calls<'c>, mms: &[u8], page: u8) -> Self {
        let mut frames = [NONE; NR_MMS];
        for &mm in mms {
            frames[usize::from(mm)] = calls.ask(Call::Take { mm, page });
        }
        Self { calls, frames }
    }

    fn each_frame(&self, call: fn(u8) -> Call) {
        for &frame in self.frames.iter().filter(|frame| **frame != NONE) {
            self.calls.ask(call(frame));
        }
    }
}

impl Stale for Taken<'_> {
    fn nr_pages(&self) -> usize {
        1
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {}

    fn flushed(&mut self, _proof: Proof) {}
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.each_frame(Call::Free);
    }
}

type AnyPolicy<'c> = dyn Flush<Mm = Space> + 'c;
type TakenBatch<'c> = Batch<Taken<'c>, AnyPolicy<'c>>;

impl Policy {
    fn make<'c>(self, calls: &'c Calls<'c>) -> KBox<AnyPolicy<'c>> {
        fn boxed<'c>(policy: impl Flush<Mm = Space> + 'c) -> KBox<AnyPolicy<'c>> {
            let policy: Box<AnyPolicy<'c>> = Box::new(policy);
            policy.into()
        }
        fn new<'c, R: Rule<Below<'c>> + Default + 'c>(below: Below<'c>) -> KBox<AnyPolicy<'c>> {
            boxed(policy::Policy::<_, R>::new(below))
        }
        let below = Below(calls);
        match self {
            Self::Broadcast => new::<Broadcast>(below),
            Self::Precise => new::<Precise>(below),
            Self::PerPage => new::<PerPage>(below),
            Self::Unflushed => new::<Unflushed>(below),
            Self::Unnoted => boxed(policy::Policy::<_, Broadcast>::new(Unnoted(below))),
            Self::Ringed => {
                let rule = Ringed::new(GFP_KERNEL).expect("the host has memory");
                boxed(policy::Policy::with(below, rule))
            }
        }
    }
}

/// An address space, known by its place in memory, as in the kernel.
struct Space(u8);

static SPACES: [Space; NR_MMS] = [Space(0), Space(1)];

/// Address spaces live as long as the program.
struct Pin(&'static Space);

impl Deref for Pin {
    type Target = Space;

    fn deref(&self) -> &Space {
        self.0
    }
}

/// What is below a policy.
struct Below<'c>(&'c Calls<'c>);

impl Sealed for Below<'_> {}

impl policy::Machine for Below<'_> {
    type Mm = Space;
    type Pin = Pin;

    fn pin(mm: &Space) -> Pin {
        Pin(&SPACES[usize::from(mm.0)])
    }

    fn ceiling_pages(&self) -> usize {
        self.0.ceiling
    }

    /// As `tlb_batch_add_pending()`.
    fn add_pending(&mut self, mm: &Space, range: PageRange) {
        if self.0.ask(Call::FindRing(mm.0)) != 0 {
            self.0.publish(mm.0, &[run_of(range)]);
            self.0.ask(Call::Running(mm.0));
        } else {
            self.add_everything(mm);
        }
    }

    /// No driver here frees tables.
    fn add_pending_table(&mut self, mm: &Space, _range: PageRange) {
        self.add_everything(mm);
    }

    fn note_batched(&mut self, mm: &Space) {
        self.0.ask(Call::NoteBatched(mm.0));
    }

    /// As `tlb_batch_publish()`.
    fn publish(&mut self, mm: &Space, runs: &[Run]) {
        if self.0.ask(Call::FindRing(mm.0)) == 0 {
            return self.add_everything(mm);
        }
        for runs in runs.chunks(NR_RUNS) {
            self.0.publish(mm.0, runs);
        }
        self.0.ask(Call::Running(mm.0));
    }

    fn flush_pending(&mut self) {
        self.0.ask(Call::Send(Info::BATCH));
    }

    /// `flush_tlb_mm_range()`.
    fn flush_mm(&mut self, mm: &Space, range: Option<PageRange>) {
        let run = range.map_or(Run::FULL, run_of);
        if self.0.ask(Call::FindRing(mm.0)) != 0 {
            self.0.publish(mm.0, &[run]);
        } else {
            self.0.ask(Call::Bump(mm.0));
        }
        self.0.ask(Call::Mask(mm.0));
        self.0.ask(Call::Send(Info::range(mm.0, pages_of(range))));
    }
}

impl Below<'_> {
    /// `arch_tlbbatch_add_pending()`.
    fn add_everything(&mut self, mm: &Space) {
        self.0.ask(Call::Bump(mm.0));
        self.0.ask(Call::Mask(mm.0));
    }
}

fn run_of(range: PageRange) -> Run {
    Run::new(range.start(), range.end(), PAGE_SHIFT as u32, false)
}

/// Each bit is a page.
fn pages_of(range: Option<PageRange>) -> u8 {
    let Some(range) = range else {
        return ALL;
    };
    let pages = (0..NR_PAGES).filter(|page| range.contains(page * PAGE_SIZE));
    pages.fold(0, |all, page| all | 1 << page)
}

/// Address spaces that show the driver's file, page for page.
struct Spaces<'a> {
    mms: &'a [u8],
    calls: &'a Calls<'a>,
}

/// One of them.
struct Shown<'a> {
    mm: u8,
    calls: &'a Calls<'a>,
}

/// The lock of its page tables: there is one.
struct Locked<'a>(&'a Shown<'a>);

impl Sealed for Spaces<'_> {}

impl<'a> Mappings for Spaces<'a> {
    type Mapping = Shown<'a>;

    fn for_each(&self, _first: usize, _last: usize, mut visit: impl FnMut(&Shown<'a>)) {
        for &mm in self.mms {
            visit(&Shown {
                mm,
                calls: self.calls,
            });
        }
    }

    fn place(&self) -> Option<Place> {
        None
    }
}

impl Sealed for Shown<'_> {}

impl Mapping for Shown<'_> {
    type Mm = Space;
    type Table<'m>
        = Locked<'m>
    where
        Self: 'm;
    type Announced = ();

    fn mm(&self) -> &Space {
        &SPACES[usize::from(self.mm)]
    }

    fn window(&self) -> Option<Window> {
        Some(Window::new(PageRange::new(0, NR_PAGES * PAGE_SIZE)?, 0))
    }

    fn lock(&self, _addr: usize) -> Option<Locked<'_>> {
        (self.calls.ask(Call::Lock(self.mm)) != 0).then_some(Locked(self))
    }

    /// There are none.
    fn leaf(_table: &Locked<'_>) -> Option<PageRange> {
        None
    }

    fn announce(&self) {}

    fn is_announced(&self, _by: &()) -> bool {
        false
    }

    fn flush_now(&self, _range: PageRange) {}

    fn invalidating<R>(&self, _range: PageRange, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn flush_is_pending(&self) -> bool {
        !self.calls.ignores_pending && self.calls.ask(Call::IsPending(self.mm)) != 0
    }

    fn cond_resched(&self) {}

    fn trace_owed(&self, _pending: Pending, _why: Touched) {}
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.calls.ask(Call::Unlock(self.0.mm));
    }
}

impl Locked<'_> {
    /// Where `page` is mapped, and to which frame.
    fn at(&self, addr: usize, page: &Taken<'_>) -> (u8, u8, u8) {
        let Shown { mm, .. } = *self.0;
        (mm, (addr >> PAGE_SHIFT) as u8, page.frames[usize::from(mm)])
    }
}

impl<'c> Unmap<Taken<'c>> for Shown<'_> {
    fn clear(table: &mut Locked<'_>, part: Part<'_, Taken<'c>>, _permit: &Permit) -> Cleared {
        let (mm, page, frame) = table.at(part.pages.start(), part.entry);
        let was = table.0.calls.ask(Call::Clear { mm, page, frame });
        match was & Was::CHANGED {
            0 => Cleared::default(),
            _ => Cleared {
                nr: 1,
                nr_dirty: usize::from(was & Was::DIRTY != 0),
                nr_writable: usize::from(was & Was::WRITABLE != 0),
            },
        }
    }

    fn protect(table: &mut Locked<'_>, part: Part<'_, Taken<'c>>, _permit: &Permit) -> bool {
        let (mm, page, frame) = table.at(part.pages.start(), part.entry);
        table.0.calls.ask(Call::Protect { mm, page, frame }) != 0
    }
}
