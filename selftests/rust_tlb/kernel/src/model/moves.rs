// SPDX-License-Identifier: GPL-2.0

//! The real move, on a model of the machine: pages go from one mapping of a process to another one,
//! and somebody takes them meanwhile, by the address at which he finds them, and flushes that alone.

use super::{
    ids::{Cpu, Vpn},
    machine::{ModelMm, Shared, MMS},
    memory::Frame,
    policies::{precise, AnyPolicy},
    world::World,
};
use crate::{
    alloc::GFP_KERNEL,
    mm::{
        pte::{Look, PageState, Pte},
        range::{PageRange, Pending},
        tlb::{
            force_flush::Reasons,
            moves::{move_pages, Done, Move, Moved, Permit, When},
            policy::{sealed::Sealed, Touched},
            walk::Mapping,
        },
        window::{Window, PTRS_PER_PTE},
    },
    page::PAGE_SHIFT,
    prelude::*,
};
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
};

const NR_CPUS: usize = 3;
const NR_PAGES: usize = 2 * PTRS_PER_PTE + 5;
const CEILING: usize = 6;
/// Where the old mapping begins, and the new one, in pages; not alike in their tables, or alike.
const OLD: Vpn = 0;
const NEW: Vpn = 8 * PTRS_PER_PTE;
const SKEW: usize = 17;

#[derive(Clone, Debug)]
enum Event {
    /// By the old address of a page, or the new one, as long as no fault is needed.
    Read(Cpu, usize, bool),
    /// The driver takes a page out of wherever it is mapped, and flushes that address.
    Take(usize),
}

/// All that a move meets.
struct Place {
    world: Shared,
    skew: usize,
    events: RefCell<std::vec::IntoIter<Event>>,
    is_rmap_locked: Cell<bool>,
    pins: RefCell<BTreeMap<Frame, usize>>,
    /// Taken, and free as soon as nobody pins them.
    taken: RefCell<BTreeSet<Frame>>,
    free: RefCell<BTreeSet<Frame>>,
    nr_stale: Cell<usize>,
    /// Pages that somebody else has locked.
    locked: BTreeSet<Frame>,
    has_tables: Cell<bool>,
    nr_unmapped_unlocked: Cell<usize>,
    nr_settled: Cell<usize>,
    /// Rounds that there were when each pin went.
    unpinned: RefCell<Vec<usize>>,
}

impl Place {
    /// CPU 1 and 2 have used all pages by their old addresses.
    fn new(skew: usize, events: &[Event]) -> Self {
        let mut world = World::new(NR_CPUS, 1, CEILING);
        for pgoff in 0..NR_PAGES {
            world.touch(1, OLD + pgoff);
            world.touch(2, OLD + pgoff);
        }
        // Whoever faults waits for the mmap_lock.
        let vpns = (0..NR_PAGES).flat_map(|p| [OLD + p, NEW + skew + p]);
        world.leaving = vpns.map(|vpn| (0, vpn)).collect();
        Self {
            world: Shared::new(world),
            skew,
            events: RefCell::new(Vec::from(events).into_iter()),
            is_rmap_locked: Cell::new(false),
            pins: RefCell::default(),
            taken: RefCell::default(),
            free: RefCell::default(),
            nr_stale: Cell::new(0),
            locked: BTreeSet::new(),
            has_tables: Cell::new(true),
            nr_unmapped_unlocked: Cell::new(0),
            nr_settled: Cell::new(0),
            unpinned: RefCell::default(),
        }
    }

    fn vpn(&self, pgoff: usize, new: bool) -> Vpn {
        pgoff + if new { NEW + self.skew } else { OLD }
    }

    fn read(&self, cpu: Cpu, vpn: Vpn) {
        let frame = self.world.with(|w| w.read(cpu, vpn));
        let is_free = frame.is_some_and(|frame| self.free.borrow().contains(&frame));
        self.nr_stale
            .set(self.nr_stale.get() + usize::from(is_free));
    }

    fn take(&self, pgoff: usize) {
        for new in [false, true] {
            let vpn = self.vpn(pgoff, new);
            let cleared = self.world.with(|w| w.mms[0].table.clear(vpn));
            if let Some(pte) = cleared {
                self.world
                    .with(|w| w.flush_mm(0, PageRange::of_page(vpn << PAGE_SHIFT)));
                self.taken.borrow_mut().insert(pte.frame);
            }
        }
        self.free_what_is_taken();
    }

    fn free_what_is_taken(&self) {
        let pins = self.pins.borrow();
        let is_free = |frame: &Frame| pins.get(frame).is_none_or(|nr| *nr == 0);
        let mut taken = self.taken.borrow_mut();
        let free: Vec<Frame> = taken.iter().copied().filter(is_free).collect();
        taken.retain(|frame| !is_free(frame));
        self.free.borrow_mut().extend(free);
    }

    fn happen(&self, event: &Event) {
        match *event {
            Event::Read(cpu, pgoff, new) => self.read(cpu, self.vpn(pgoff, new)),
            Event::Take(_) if self.is_rmap_locked.get() => {}
            Event::Take(pgoff) => self.take(pgoff),
        }
    }

    /// The next step is about to be taken.
    fn pass(&self) {
        let event = self.events.borrow_mut().next();
        event.iter().for_each(|event| self.happen(event));
    }

    fn rounds(&self) -> usize {
        self.world.with(|w| w.counts.rounds)
    }

    /// All that was not done yet happens now; then everything is used that can be.
    fn finish(&self) -> usize {
        while let Some(event) = { self.events.borrow_mut().next() } {
            self.happen(&event);
        }
        for (cpu, pgoff) in (0..NR_CPUS).flat_map(|c| (0..NR_PAGES).map(move |p| (c, p))) {
            self.read(cpu, self.vpn(pgoff, false));
            self.read(cpu, self.vpn(pgoff, true));
        }
        self.nr_stale.get()
    }
}

/// One of the two mappings.
struct Side<'p> {
    place: &'p Place,
    new: bool,
    reasons: Reasons,
}

impl<'p> Side<'p> {
    fn pair(place: &'p Place) -> [Self; 2] {
        [false, true].map(|new| Self {
            place,
            new,
            reasons: Reasons::default(),
        })
    }
}

/// The rmap, and a page table.
struct Locked<'m>(&'m Place);

impl<'m> Locked<'m> {
    fn lock(place: &'m Place) -> Self {
        place.is_rmap_locked.set(true);
        Self(place)
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.is_rmap_locked.set(false);
        self.0.pass();
    }
}

/// Of both places of a page table.
struct Whole<'m> {
    locked: Locked<'m>,
    old: Vpn,
    new: Vpn,
}

struct Pinned<'m>(&'m Place, Frame);

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        *self.0.pins.borrow_mut().get_mut(&self.1).unwrap() -= 1;
        self.0.unpinned.borrow_mut().push(self.0.rounds());
        self.0.free_what_is_taken();
    }
}

impl Sealed for Side<'_> {}

impl Mapping for Side<'_> {
    type Mm = ModelMm;
    type Table<'m>
        = Locked<'m>
    where
        Self: 'm;
    type Announced = ();

    fn mm(&self) -> &ModelMm {
        &MMS[0]
    }

    fn window(&self) -> Option<Window> {
        let start = self.place.vpn(0, self.new) << PAGE_SHIFT;
        Some(Window::new(
            PageRange::new(start, start + (NR_PAGES << PAGE_SHIFT))?,
            0,
        ))
    }

    fn lock(&self, _addr: usize) -> Option<Locked<'_>> {
        self.place.pass();
        Some(Locked::lock(self.place))
    }

    /// There are none.
    fn leaf(_table: &Locked<'_>) -> Option<PageRange> {
        None
    }

    fn announce(&self) {}

    fn is_announced(&self, _by: &()) -> bool {
        false
    }

    fn flush_now(&self, range: PageRange) {
        assert!(self.place.is_rmap_locked.get());
        self.place.world.with(|w| w.flush_mm(0, Some(range)));
    }

    fn invalidating<R>(&self, _range: PageRange, f: impl FnOnce() -> R) -> R {
        f()
    }

    fn flush_is_pending(&self) -> bool {
        false
    }

    fn cond_resched(&self) {
        self.place.pass();
    }

    fn trace_owed(&self, _pending: Pending, _why: Touched) {}
}

fn pte_of<'t>(place: &Place, vpn: Vpn) -> Option<Pte<'t>> {
    let pte = place.world.with(|w| w.mms[0].table.get(vpn));
    Some(pte.map_or(Pte::new(0, false, false), |pte| {
        Pte::new(pte.frame as usize, true, pte.dirty)
    }))
}

/// What the real one does.
fn move_one(place: &Place, old: Vpn, new: Vpn) -> bool {
    if !place.is_rmap_locked.get() {
        place
            .nr_unmapped_unlocked
            .set(place.nr_unmapped_unlocked.get() + 1);
    }
    place.world.with(|w| {
        let table = &mut w.mms[0].table;
        if table.get(new).is_some() {
            return false;
        }
        let pte = table.clear(old);
        pte.iter()
            .for_each(|pte| table.map(new, pte.frame, pte.dirty));
        pte.is_some()
    })
}

impl<'p> Move for Side<'p> {
    type Pin = Pinned<'p>;
    type Bracket<'m>
        = ()
    where
        Self: 'm;
    type Nested<'m>
        = &'m Place
    where
        Self: 'm;
    type Whole<'m>
        = Whole<'m>
    where
        Self: 'm;

    fn check(&self, to: &Self) -> Result {
        match std::ptr::eq(self.place, to.place) {
            true => Ok(()),
            false => Err(EINVAL),
        }
    }

    fn bracket(&self, _range: PageRange) {}

    fn prepare(&self, _addr: usize, table: bool) -> Result {
        self.place.pass();
        match table && !self.place.has_tables.get() {
            true => Err(ENOMEM),
            false => Ok(()),
        }
    }

    fn split_leaf(&self, _addr: usize) {}

    fn lock_beside<'m>(&'m self, _addr: usize, old: &'m Locked<'_>) -> Option<&'m Place> {
        Some(old.0)
    }

    fn lock_whole<'m>(&'m self, old: usize, _to: &'m Self, new: usize) -> Option<Whole<'m>> {
        Some(Whole {
            locked: Locked::lock(self.place),
            old: old >> PAGE_SHIFT,
            new: new >> PAGE_SHIFT,
        })
    }

    fn pte<'t>(table: &'t Locked<'_>, addr: usize) -> Option<Pte<'t>> {
        pte_of(table.0, addr >> PAGE_SHIFT)
    }

    fn pte_of_whole<'t>(whole: &'t Whole<'_>, index: usize) -> Option<Pte<'t>> {
        pte_of(whole.locked.0, whole.old + index)
    }

    fn pin(&self, pte: Pte<'_>) -> Option<Pinned<'p>> {
        let frame = pte.pfn() as Frame;
        *self.place.pins.borrow_mut().entry(frame).or_default() += 1;
        Some(Pinned(self.place, frame))
    }

    fn move_pte(
        from: &Locked<'_>,
        old: usize,
        _to: &mut &Place,
        new: usize,
        _permit: &Permit,
    ) -> bool {
        move_one(from.0, old >> PAGE_SHIFT, new >> PAGE_SHIFT)
    }

    fn move_whole(whole: &mut Whole<'_>, _permit: &Permit) {
        for index in 0..PTRS_PER_PTE {
            move_one(whole.locked.0, whole.old + index, whole.new + index);
        }
    }

    fn settle_others(&self) {
        self.place.nr_settled.set(self.place.nr_settled.get() + 1);
    }

    fn look(&self, pte: Pte<'_>) -> Look {
        match self.place.locked.contains(&(pte.pfn() as Frame)) {
            true => Look::Locked,
            false => Look::Page(PageState::default()),
        }
    }

    fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    fn trace_moved(&self, _old: PageRange, _new: usize, _nr_ptes: usize, _nr_flushed: usize) {}
}

fn begin<'m>(
    place: &Place,
    [from, to]: &'m [Side<'m>; 2],
    pgoffs: &[usize],
    when: When,
) -> Moved<'m, Side<'m>, AnyPolicy> {
    move_pages(from, to, pgoffs, when, precise(&place.world), GFP_KERNEL).unwrap()
}

/// Moves all pages, with `events` meanwhile. Returns how often a free page was used, and what the
/// move did.
fn move_all(skew: usize, when: When, events: &[Event]) -> (usize, Done) {
    let place = Place::new(skew, events);
    let sides = Side::pair(&place);
    let pgoffs: Vec<usize> = (0..NR_PAGES).collect();
    let moved = begin(&place, &sides, &pgoffs, when);
    place.pass();
    let (done, _) = moved.flush();
    assert_eq!(place.nr_unmapped_unlocked.get(), 0);
    assert_eq!(place.nr_settled.get(), 1, "once per move");
    (place.finish(), done)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0..NR_CPUS, 0..NR_PAGES, any::<bool>()).prop_map(|(c, p, n)| Event::Read(c, p, n)),
        1 => (0..NR_PAGES).prop_map(Event::Take),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn no_free_page_is_reached(events in prop::collection::vec(event(), 1..40)) {
        for when in [When::Locked, When::Deferred] {
            for skew in [0, SKEW] {
                prop_assert_eq!(move_all(skew, when, &events).0, 0);
            }
        }
    }
}

/// A page is taken between its move and the flush, and used by its old address.
fn taken_meanwhile() -> Vec<Event> {
    // While the first table is made, locked, and unlocked; then it has moved.
    let wait = vec![Event::Read(0, 9, false); 4];
    [wait, vec![Event::Take(3), Event::Read(1, 3, false)]].concat()
}

#[test]
fn without_pins_a_free_page_is_reached() {
    for skew in [0, SKEW] {
        assert_ne!(move_all(skew, When::Unpinned, &taken_meanwhile()).0, 0);
        assert_eq!(move_all(skew, When::Deferred, &taken_meanwhile()).0, 0);
        assert_eq!(move_all(skew, When::Locked, &taken_meanwhile()).0, 0);
    }
}

/// Whoever takes a page after the move flushes its new address.
#[test]
fn a_flush_of_the_new_addresses_leaves_the_old_ones() {
    // So late that nothing is left to wait for.
    let mut late = vec![Event::Read(0, 9, false); 40];
    late.push(Event::Take(3));
    // Of few pages: above the ceiling, a flush of anything flushes all.
    let few = |when| {
        let place = Place::new(SKEW, &late);
        let sides = Side::pair(&place);
        begin(&place, &sides, &[2, 3, 4], when).flush();
        place.finish()
    };
    assert_ne!(few(When::NewOnly), 0);
    assert_eq!(few(When::Deferred), 0);
    assert_eq!(few(When::Locked), 0);
}

#[test]
fn rounds_are_one_per_move_or_one_per_table() {
    for (skew, when, rounds, nr_tables) in [
        (0, When::Locked, 3, 2),
        (0, When::Deferred, 1, 2),
        (SKEW, When::Locked, 5, 0),
        (SKEW, When::Deferred, 1, 0),
    ] {
        let place = Place::new(skew, &[]);
        let before = place.rounds();
        let sides = Side::pair(&place);
        let pgoffs: Vec<usize> = (0..NR_PAGES).collect();
        let moved = begin(&place, &sides, &pgoffs, when);
        let nr_pinned = if when == When::Deferred { NR_PAGES } else { 0 };
        assert_eq!(moved.nr_pinned(), nr_pinned);
        let (done, report) = moved.flush();
        assert_eq!(place.rounds() - before, rounds, "{skew}, {when:?}");
        assert_eq!(done.nr_locked_flushes + report.nr_calls, rounds);
        assert_eq!((done.nr_ptes, done.nr_tables), (NR_PAGES, nr_tables));
        assert!(!done.is_cut_short);
    }
}

/// To move it would owe a flush: upper entries may be cached that lead to it from its old addresses.
#[test]
fn a_table_that_maps_nothing_stays() {
    for when in [When::Locked, When::Deferred] {
        let place = Place::new(0, &[]);
        (0..PTRS_PER_PTE).for_each(|pgoff| place.take(pgoff));
        let before = place.rounds();
        let sides = Side::pair(&place);
        let pgoffs: Vec<usize> = (0..PTRS_PER_PTE).collect();
        let (done, _) = begin(&place, &sides, &pgoffs, when).flush();
        assert_eq!((done.nr_ptes, done.nr_tables), (0, 0), "{when:?}");
        assert_eq!(place.rounds(), before);
    }
}

/// Whichever way it ends, it flushes the old addresses, and lets go of the pages only then.
#[test]
fn a_dropped_move_flushes_first() {
    for is_dropped in [true, false] {
        let place = Place::new(SKEW, &[]);
        let sides = Side::pair(&place);
        let before = place.rounds();
        let moved = begin(&place, &sides, &[3, 4], When::Deferred);
        assert_eq!(place.rounds(), before);
        place.take(3);
        assert!(place.free.borrow().is_empty(), "it is pinned");
        if is_dropped {
            drop(moved);
        } else {
            moved.flush();
        }
        assert_eq!(*place.unpinned.borrow(), [before + 2; 2]);
        assert_eq!(place.free.borrow().len(), 1);
        assert_eq!(place.finish(), 0);
    }
}

/// What somebody else has locked is flushed at once; so is a whole table, for one such page.
#[test]
fn what_is_not_known_is_flushed_under_the_lock() {
    for (skew, pgoffs, nr_pinned) in [
        (SKEW, vec![3, 4, 5], 2),
        (0, (0..PTRS_PER_PTE).collect(), 4),
    ] {
        let mut place = Place::new(skew, &[]);
        let frame = place.world.with(|w| w.mms[0].table.get(4).unwrap().frame);
        place.locked.insert(frame);
        let sides = Side::pair(&place);
        let before = place.rounds();
        let moved = begin(&place, &sides, &pgoffs, When::Deferred);
        assert_eq!(place.rounds(), before + 1);
        assert_eq!(moved.nr_pinned(), nr_pinned);
        let (done, _) = moved.flush();
        assert_eq!(done.nr_locked_flushes, 1);
        assert_eq!(done.reasons, [0, 1, 0, 0, 0]);
    }
}

#[test]
fn a_move_without_memory_for_tables_is_cut_short() {
    let place = Place::new(SKEW, &[]);
    place.has_tables.set(false);
    let sides = Side::pair(&place);
    let (done, report) = begin(&place, &sides, &[3, 4], When::Deferred).flush();
    assert!(done.is_cut_short);
    assert_eq!((done.nr_ptes, report.nr_calls), (0, 0));
}

#[test]
fn what_is_not_shown_is_refused() {
    let place = Place::new(SKEW, &[]);
    let [from, to] = &Side::pair(&place);
    for pgoffs in [&[][..], &[NR_PAGES], &[3, NR_PAGES]] {
        let policy = precise(&place.world);
        let refused = move_pages(from, to, pgoffs, When::Locked, policy, GFP_KERNEL);
        assert!(matches!(refused, Err(EINVAL)));
    }
    let other = Place::new(SKEW, &[]);
    let [_, elsewhere] = &Side::pair(&other);
    let policy = precise(&place.world);
    assert!(move_pages(from, elsewhere, &[3], When::Locked, policy, GFP_KERNEL).is_err());
}
