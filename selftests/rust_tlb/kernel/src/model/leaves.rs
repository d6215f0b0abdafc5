// SPDX-License-Identifier: GPL-2.0

//! Leaves, which map all that a page table would: the order in which others are told, one is cleared,
//! the policy is told, and what is owed is flushed. Each step writes a log.

use crate::{
    alloc::{KBox, GFP_KERNEL},
    mm::{
        parts::{Cleared, Part},
        place::Place,
        range::{PageRange, Pending},
        stale::{Proof, Stale},
        tlb::{
            batch::Batch,
            policy::{sealed::Sealed, Flush, Kind, Record, Report, Touched, MAX_MMS},
            walk::{Mapping, Mappings, Permit, Unmap},
        },
        window::{Window, PTRS_PER_PTE},
    },
    page::PAGE_SIZE,
};
use std::cell::{Cell, RefCell};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Others in this address space are told ...
    Announce(usize),
    /// ... until now.
    Retract(usize),
    Clear(usize),
    /// With so many entries, and whether they count as written to.
    Record(usize, PageRange, usize, bool),
    FlushNow(usize),
    Unlock(usize),
    Flush,
}
use Step::{Announce, Clear, FlushNow, Retract, Unlock};

type Log = RefCell<Vec<Step>>;

/// Page tables' worth of the file that each address space shows, by a leaf each.
const NR_LEAVES: usize = 2;

fn leaf(nr: usize) -> PageRange {
    let span = PTRS_PER_PTE * PAGE_SIZE;
    PageRange::new(nr * span, (nr + 1) * span).unwrap()
}

/// An address space, by its number.
struct Mm(usize);

/// A page of the file; a leaf maps it, unless it is a stranger.
struct Page {
    is_stranger: bool,
}

impl Stale for Page {
    fn nr_pages(&self) -> usize {
        1
    }

    fn unmapped(&mut self, _from: Place, _pgoff: usize, _proof: Proof) {}

    fn flushed(&mut self, _proof: Proof) {}
}

/// A mapping.
struct Space<'l> {
    mm: Mm,
    are_there: [Cell<bool>; NR_LEAVES],
    dirty: bool,
    log: &'l Log,
}

struct Spaces<'l>(Vec<Space<'l>>);

impl<'l> Spaces<'l> {
    fn new(log: &'l Log, mms: impl IntoIterator<Item = usize>) -> Self {
        let space = |mm| Space {
            mm: Mm(mm),
            are_there: [const { Cell::new(true) }; NR_LEAVES],
            dirty: false,
            log,
        };
        Self(mms.into_iter().map(space).collect())
    }
}

/// A leaf that was there when it was locked.
struct Locked<'m> {
    space: &'m Space<'m>,
    nr: usize,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.space.log(Unlock(self.space.mm.0));
    }
}

struct Told<'l> {
    mm: usize,
    log: &'l Log,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.log.borrow_mut().push(Retract(self.mm));
    }
}

impl Space<'_> {
    fn log(&self, step: Step) {
        self.log.borrow_mut().push(step);
    }
}

impl Sealed for Spaces<'_> {}

impl<'l> Mappings for Spaces<'l> {
    type Mapping = Space<'l>;

    fn for_each(&self, _first: usize, _last: usize, visit: impl FnMut(&Space<'l>)) {
        self.0.iter().for_each(visit);
    }

    fn place(&self) -> Option<Place> {
        None
    }
}

impl Sealed for Space<'_> {}

impl<'l> Mapping for Space<'l> {
    type Mm = Mm;
    type Table<'m>
        = Locked<'m>
    where
        Self: 'm;
    type Announced = Told<'l>;

    fn mm(&self) -> &Mm {
        &self.mm
    }

    fn window(&self) -> Option<Window> {
        Some(Window::new(leaf(0).union(leaf(NR_LEAVES - 1)), 0))
    }

    fn lock(&self, addr: usize) -> Option<Locked<'_>> {
        let nr = addr / (PTRS_PER_PTE * PAGE_SIZE);
        self.are_there[nr].get().then(|| Locked { space: self, nr })
    }

    fn leaf(table: &Locked<'_>) -> Option<PageRange> {
        Some(leaf(table.nr))
    }

    fn announce(&self) -> Told<'l> {
        self.log(Announce(self.mm.0));
        Told {
            mm: self.mm.0,
            log: self.log,
        }
    }

    fn is_announced(&self, by: &Told<'l>) -> bool {
        by.mm == self.mm.0
    }

    fn flush_now(&self, _range: PageRange) {
        self.log(FlushNow(self.mm.0));
    }

    fn invalidating<R>(&self, _range: PageRange, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn flush_is_pending(&self) -> bool {
        false
    }

    fn cond_resched(&self) {}

    fn trace_owed(&self, _pending: Pending, _why: Touched) {}
}

impl Unmap<Page> for Space<'_> {
    fn clear(table: &mut Locked<'_>, part: Part<'_, Page>, _permit: &Permit) -> Cleared {
        let Locked { space, nr } = *table;
        if part.entry.is_stranger {
            return Cleared::default();
        }
        if space.are_there[nr].replace(false) {
            space.log(Clear(space.mm.0));
        }
        let nr = part.pages.span_pages();
        Cleared {
            nr,
            nr_dirty: if space.dirty { nr } else { 0 },
            nr_writable: nr,
        }
    }

    fn protect(_table: &mut Locked<'_>, _part: Part<'_, Page>, _permit: &Permit) -> bool {
        false
    }
}

/// A policy that flushes by a line in the log.
struct Lines<'l> {
    log: &'l Log,
    owed: Report,
}

impl Sealed for Lines<'_> {}

impl Record for Lines<'_> {
    type Mm = Mm;

    fn record(&mut self, mm: &Mm, pending: Pending) {
        self.owed.nr_ptes += pending.nr_pages();
        self.owed.nr_mms += 1;
        self.owed.dirty |= pending.is_dirty();
        self.log.borrow_mut().push(Step::Record(
            mm.0,
            pending.range(),
            pending.nr_pages(),
            pending.is_dirty(),
        ));
    }

    fn record_table(&mut self, _mm: &Mm, _range: PageRange) {}
}

impl Flush for Lines<'_> {
    fn kind(&self) -> Kind {
        Kind::Broadcast
    }

    fn owed(&self) -> Report {
        self.owed
    }

    fn flush(&mut self) -> Report {
        let mut report = core::mem::take(&mut self.owed);
        if report.nr_mms > 0 {
            self.log.borrow_mut().push(Step::Flush);
            report.nr_calls = 1;
        }
        report
    }
}

type Pages<'l> = Batch<Page, Lines<'l>>;

fn batch(log: &Log) -> Pages<'_> {
    let owed = Report::default();
    let policy = KBox::new(Lines { log, owed }, GFP_KERNEL).unwrap();
    Batch::with_policy(policy, 2 * PTRS_PER_PTE, GFP_KERNEL).unwrap()
}

/// Unmaps pages `pgoffs`.
fn unmap<const N: usize>(batch: &mut Pages<'_>, spaces: &Spaces<'_>, pgoffs: [usize; N]) -> usize {
    let mut staging = batch.stage();
    for pgoff in pgoffs {
        let page = Page { is_stranger: false };
        assert!(staging.push(pgoff, page).is_ok());
    }
    staging.unmap(spaces)
}

fn record(mm: usize, nr: usize) -> Step {
    Step::Record(mm, leaf(nr), 1, false)
}

/// Whoever changes mappings is told before the leaf is cleared, and until it is flushed; the policy
/// before it is unlocked, of all that went. The caller has nothing left to flush.
#[test]
fn a_leaf_is_flushed_at_the_end_of_the_call() {
    let log = &Log::default();
    let spaces = Spaces::new(log, [0, 1]);
    let mut batch = batch(log);
    assert_eq!(unmap(&mut batch, &spaces, [5, 7, 511]), 2);
    let expected = [
        Announce(0),
        Clear(0),
        record(0, 0),
        Unlock(0),
        Announce(1),
        Clear(1),
        record(1, 0),
        Unlock(1),
        Step::Flush,
        Retract(0),
        Retract(1),
    ];
    assert_eq!(*log.borrow(), expected);
    assert_eq!(batch.nr_entries(), 3);
    let early = batch.flushed_early();
    assert_eq!((early.nr_ptes, early.nr_mms, early.nr_calls), (2, 2, 1));
    assert_eq!(batch.flush().report(), Report::default());
    assert_eq!(log.borrow().len(), expected.len());
}

/// Who does not ask what was flushed early is told by the flush.
#[test]
fn the_report_of_the_flush_has_it_all() {
    let log = &Log::default();
    let spaces = Spaces::new(log, [0]);
    let mut batch = batch(log);
    unmap(&mut batch, &spaces, [5]);
    let report = batch.flush().report();
    assert_eq!((report.nr_ptes, report.nr_mms, report.nr_calls), (1, 1, 1));
}

#[test]
fn an_address_space_is_told_once() {
    let log = &Log::default();
    let spaces = Spaces::new(log, [0, 0]);
    let mut batch = batch(log);
    assert_eq!(unmap(&mut batch, &spaces, [5, PTRS_PER_PTE + 5]), 4);
    let count = |step| log.borrow().iter().filter(|s| **s == step).count();
    assert_eq!((count(Announce(0)), count(Retract(0))), (1, 1));
    assert_eq!((count(Clear(0)), count(Step::Flush)), (4, 1));
}

/// Those that there is no room for are flushed before they are unlocked.
#[test]
fn more_than_can_be_told_are_flushed_at_once() {
    let log = &Log::default();
    let spaces = Spaces::new(log, 0..MAX_MMS + 1);
    let mut batch = batch(log);
    assert_eq!(unmap(&mut batch, &spaces, [5]), MAX_MMS + 1);
    let steps = log.borrow();
    let last = steps
        .iter()
        .position(|step| *step == Clear(MAX_MMS))
        .unwrap();
    let expected = [
        Clear(MAX_MMS),
        record(MAX_MMS, 0),
        FlushNow(MAX_MMS),
        Unlock(MAX_MMS),
        Step::Flush,
    ];
    assert_eq!(steps[last..last + expected.len()], expected);
    assert!(!steps.contains(&Announce(MAX_MMS)));
}

#[test]
fn what_a_leaf_does_not_map_leaves_it_alone() {
    let log = &Log::default();
    let spaces = Spaces::new(log, [0]);
    let mut batch = batch(log);
    let mut staging = batch.stage();
    assert!(staging.push(5, Page { is_stranger: true }).is_ok());
    assert_eq!(staging.unmap(&spaces), 0);
    assert_eq!(*log.borrow(), [Announce(0), Unlock(0), Retract(0)]);
}

/// A CPU that is not trusted could write to it until the flush, and not after the first phase.
#[test]
fn the_first_of_two_phases_clears_and_flushes_it() {
    let log = &Log::default();
    let spaces = Spaces::new(log, [0]);
    let mut batch = batch(log);
    let mut staging = batch.stage();
    assert!(staging.push(5, Page { is_stranger: false }).is_ok());
    let protected = staging.write_protect(&spaces);
    let steps = [
        Announce(0),
        Clear(0),
        Step::Record(0, leaf(0), 1, true),
        Unlock(0),
        Step::Flush,
        Retract(0),
    ];
    assert_eq!(*log.borrow(), steps);
    let phases = protected.flush().unmap(&spaces);
    assert_eq!((phases.nr_ptes, phases.nr_protected), (1, 0));
    assert_eq!(*log.borrow(), steps);
    assert_eq!(batch.flush_dirty().report().nr_calls, 0);
}

/// The dirty bit of a leaf is that of each of its pages.
#[test]
fn a_dirty_leaf_is_flushed_before_contents_are_saved() {
    let log = &Log::default();
    let mut spaces = Spaces::new(log, [0]);
    spaces.0[0].dirty = true;
    let mut batch = batch(log);
    unmap(&mut batch, &spaces, [5, 6]);
    assert!(log.borrow().contains(&Step::Record(0, leaf(0), 1, true)));
    assert_eq!(batch.flush_dirty().report().nr_calls, 0, "flushed already");
    assert!(batch.flushed_early().dirty);
}

/// The control.
#[test]
fn a_leaf_that_is_left_to_later_shows() {
    let log = &Log::default();
    let spaces = Spaces::new(log, [0]);
    let mut batch = batch(log);
    batch.defer_leaves();
    unmap(&mut batch, &spaces, [5]);
    let expected = [Announce(0), Clear(0), record(0, 0), Unlock(0), Retract(0)];
    assert_eq!(*log.borrow(), expected);
    assert_eq!(batch.flush().report().nr_calls, 1);
}
