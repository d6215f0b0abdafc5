// SPDX-License-Identifier: GPL-2.0

//! What CPUs do that change page tables, in steps. The order of the steps is the kernel's, in C and
//! in Rust; a wrong order is a wrong program.

use super::{
    driver::{Call, Driver, Was},
    machine::{Broken, Machine},
    moves::{Move, Taken},
    ring::Ran,
    state::{Life, Log, State, NONE, NR_PAGES, PAGES_PER_TABLE, SWITCHING, TAKEN},
    trace,
    witness::Witness,
};
use crate::mm::tlb::ring::Run;

/// All pages of an address space.
pub(super) const ALL: u8 = u8::MAX;

/// As `struct flush_tlb_info`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info {
    /// [`None`]: whatever is loaded, as a batch has it.
    pub(super) mm: Option<u8>,
    /// Each bit is a page: consecutive, or [`ALL`].
    pub(super) pages: u8,
    pub(super) tables_freed: bool,
    /// Ask also those in the mask that run something else, so that they leave it.
    pub(super) trims: bool,
}

impl Info {
    pub(super) const BATCH: Self = Self {
        mm: None,
        pages: ALL,
        tables_freed: false,
        trims: false,
    };

    pub(super) const fn range(mm: u8, pages: u8) -> Self {
        Self {
            mm: Some(mm),
            pages,
            tables_freed: false,
            trims: false,
        }
    }

    /// The pages, if they are not too many to be invalidated one by one.
    pub(super) fn pages(self, ceiling: usize) -> Option<u8> {
        (self.pages.count_ones() as usize <= ceiling).then_some(self.pages)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    /// The page-table lock of an address space.
    Lock(u8),
    Unlock(u8),
    /// `ptep_get_and_clear()`.
    Clear(u8, u8),
    /// `pmd_clear()` of a table at a place, if it is empty.
    Unlink(u8, u8),
    /// Puts a large page where there is no table.
    PutLeaf(u8, u8),
    /// The locks of the reverse map.
    LockRmap,
    UnlockRmap,
    /// mremap: what is mapped at a page is mapped at another one, and not there any more.
    Move(u8, u8, u8),
    /// Whatever is mapped at a page is not freed before this CPU unpins all.
    Pin(u8, u8),
    Unpin,
    /// Leaves out some steps unless something is mapped at a page.
    UnlessMapped(u8, u8, u8),
    /// `inc_mm_tlb_gen()`; the new generation is for these pages of those that the CPU has cleared.
    Bump(u8, u8),
    /// The same, unless nobody else has, since this CPU last did: the bug of 2021.
    BumpFirstTime(u8, u8),
    /// `publish()` of the last generation.
    Publish(u8, Vec<Run>),
    /// The same of the one that is expected to be the next.
    PublishNext(u8, Vec<Run>),
    /// `extend()` of the last generation.
    Extend(u8, Run),
    /// Asks the CPUs that are in `mm_cpumask()` now.
    Mask(u8),
    /// Asks those of them that run the address space now, or switch: `flush_ring_note_cpus()`.
    Running(u8),
    /// Asks them, and waits.
    Send(Info),
    /// What was cleared is not used any more.
    Free,
    /// `call_rcu()`.
    CallRcu,
    /// What `call_rcu()` calls.
    FreeTables,
    RcuLock,
    /// Reads which table is at a place, to walk it.
    Walk(u8, u8),
    RcuUnlock,
    /// The address space gets a ring.
    Enable(u8),
    /// What was cleared is for a flush that is shared.
    Share,
    /// Becomes the one who makes that flush; or waits for whoever does, and leaves out some steps.
    Join(u8),
    /// The end of that flush.
    Ended,
    /// `inc_tlb_flush_pending()` and `dec_tlb_flush_pending()`.
    BeginGather(u8),
    EndGather(u8),
    /// `flush_tlb_batched_pending()`: leaves out some steps unless others owe a flush.
    UnlessBatched(u8, u8),
    /// And that flush was made.
    EndBatched(u8),
    /// mprotect: whether a page may be written to.
    Mprotect(u8, u8, bool),
    /// munmap returns: a page is gone.
    Gone(u8, u8),
    /// A driver takes pages back: the kernel's own code.
    Drive(Driver),
}

impl Op {
    /// What is asked of other CPUs, by who is at this operation, and has come so far in it.
    pub(super) fn asks(&self, on: &Machine, log: &Log) -> Info {
        match self {
            Op::Send(info) => *info,
            Op::Drive(driver) => match driver.run(on, log.answers()) {
                Ran::Next(Call::Send(info)) => info,
                _ => unreachable!("only who sends has asked"),
            },
            _ => unreachable!("only who sends has asked"),
        }
    }
}

impl Move<'_> {
    pub(super) fn go_on_with_program(&mut self) -> Taken {
        let on = self.on;
        let at = usize::from(self.cpu().task.at);
        match &on.programs[usize::from(self.cpu)][at] {
            Op::Lock(mm) => self.lock(*mm) && self.next(),
            Op::Unlock(mm) => self.unlock(*mm) && self.next(),
            Op::Clear(mm, page) => self.clear(*mm, *page) && self.next(),
            Op::Unlink(mm, place) => self.unlink(*mm, *place) && self.next(),
            Op::PutLeaf(mm, place) => self.put_leaf(*mm, *place) && self.next(),
            Op::LockRmap => self.lock_rmap() && self.next(),
            Op::UnlockRmap => self.unlock_rmap() && self.next(),
            Op::Move(mm, from, to) => self.move_page(*mm, *from, *to) && self.next(),
            Op::Pin(mm, page) => self.pin(*mm, *page) && self.next(),
            Op::Unpin => self.unpin() && self.next(),
            Op::UnlessMapped(mm, page, nr) => self.unless_mapped(*mm, *page, *nr),
            Op::Bump(mm, pages) => self.bump(*mm, *pages) && self.next(),
            Op::BumpFirstTime(mm, pages) => self.bump_first_time(*mm, *pages) && self.next(),
            Op::Publish(mm, runs) => self.publish(*mm, runs, false),
            Op::PublishNext(mm, runs) => self.publish(*mm, runs, true),
            Op::Extend(mm, run) => self.extend(*mm, *run),
            Op::Mask(mm) => self.read_mask(*mm) && self.next(),
            Op::Running(mm) => !self.find_running(*mm) || self.next(),
            Op::Send(info) => self
                .send(*info)
                .is_some_and(|is_over| !is_over || self.next()),
            Op::Free => self.free() && self.next(),
            Op::CallRcu => self.call_rcu() && self.next(),
            Op::FreeTables => self.free_tables() && self.next(),
            Op::RcuLock => self.rcu_lock() && self.next(),
            Op::Walk(mm, place) => self.walk(*mm, *place) && self.next(),
            Op::RcuUnlock => self.rcu_unlock() && self.next(),
            Op::Enable(mm) => self.enable(*mm) && self.next(),
            Op::Share => self.share() && self.next(),
            Op::Join(nr_left_out) => self.join(*nr_left_out),
            Op::Ended => self.end_shared() && self.next(),
            Op::BeginGather(mm) => self.begin_gather(*mm) && self.next(),
            Op::EndGather(mm) => self.end_gather(*mm) && self.next(),
            Op::UnlessBatched(mm, nr) => self.unless_batched(*mm, *nr),
            Op::EndBatched(mm) => self.end_batched(*mm) && self.next(),
            Op::Mprotect(mm, page, writable) => self.mprotect(*mm, *page, *writable) && self.next(),
            Op::Gone(mm, page) => self.is_gone(*mm, *page) && self.next(),
            Op::Drive(driver) => self.drive(driver),
        }
    }

    fn next(&mut self) -> Taken {
        let task = &mut self.cpu().task;
        task.at += 1;
        task.stage = 0;
        task.log = Log::default();
        true
    }

    fn lock(&mut self, mm: u8) -> Taken {
        let cpu = self.cpu;
        let locked_by = &mut self.state.mms[usize::from(mm)].locked_by;
        if *locked_by != NONE {
            return false;
        }
        *locked_by = cpu;
        self.say(|| format!("locks the page table of mm{mm}"));
        self.is_drained()
    }

    fn unlock(&mut self, mm: u8) -> Taken {
        self.state.mms[usize::from(mm)].locked_by = NONE;
        self.say(|| "unlocks it".into());
        true
    }

    fn clear(&mut self, mm: u8, page: u8) -> Taken {
        let life = Life::Cleared(self.cpu);
        let was = self
            .state
            .pte(mm, page)
            .map(|pte| std::mem::replace(pte, NONE));
        if let Some(frame) = was.filter(|frame| *frame != NONE) {
            self.state.frames[usize::from(frame)].life = life;
        }
        self.say(|| format!("clears the PTE of {} in mm{mm}", trace::page(page)));
        self.is_drained()
    }

    fn unlink(&mut self, mm: u8, place: u8) -> Taken {
        let table = self.state.mms[usize::from(mm)].tables[usize::from(place)];
        let Some(contents) = self.state.tables.get_mut(usize::from(table)) else {
            return true;
        };
        if contents.ptes.iter().any(|pte| *pte != NONE) {
            self.say(|| format!("leaves table {table}, which is not empty"));
            return true;
        }
        contents.life = Life::Cleared(self.cpu);
        self.state.mms[usize::from(mm)].tables[usize::from(place)] = NONE;
        self.say(|| format!("takes table {table} out of mm{mm}"));
        self.is_drained()
    }

    /// Nothing if the table is still there.
    fn put_leaf(&mut self, mm: u8, place: u8) -> Taken {
        let of = &mut self.state.mms[usize::from(mm)];
        if of.tables[usize::from(place)] == NONE {
            of.leaves |= 1 << place;
            self.say(|| format!("maps a large page in mm{mm}"));
        }
        true
    }

    fn lock_rmap(&mut self) -> Taken {
        if self.state.rmap_locked_by != NONE {
            return false;
        }
        self.state.rmap_locked_by = self.cpu;
        self.say(|| "locks the reverse map".into());
        self.is_drained()
    }

    fn unlock_rmap(&mut self) -> Taken {
        self.state.rmap_locked_by = NONE;
        self.say(|| "unlocks the reverse map".into());
        true
    }

    fn move_page(&mut self, mm: u8, from: u8, to: u8) -> Taken {
        let was = self
            .state
            .pte(mm, from)
            .map(|pte| std::mem::replace(pte, NONE));
        let Some(frame) = was.filter(|frame| *frame != NONE) else {
            return true;
        };
        self.state.frames[usize::from(frame)].page = to;
        if let Some(pte) = self.state.pte(mm, to) {
            *pte = frame;
        }
        self.say(|| {
            format!(
                "moves {} to {} in mm{mm}",
                trace::page(from),
                trace::page(to)
            )
        });
        self.is_drained()
    }

    fn pin(&mut self, mm: u8, page: u8) -> Taken {
        let (bit, frame) = (self.bit(), self.state.pte(mm, page).map(|pte| *pte));
        if let Some(frame) = frame.filter(|frame| *frame != NONE) {
            self.state.frames[usize::from(frame)].pins |= bit;
        }
        self.say(|| format!("pins {} of mm{mm}", trace::page(page)));
        true
    }

    fn unpin(&mut self) -> Taken {
        let bit = self.bit();
        for frame in &mut self.state.frames {
            frame.pins &= !bit;
            if frame.pins == 0 && frame.life == Life::Released {
                frame.life = Life::Freed;
            }
        }
        self.say(|| "unpins what it has pinned".into());
        true
    }

    fn unless_mapped(&mut self, mm: u8, page: u8, nr_left_out: u8) -> Taken {
        let is_mapped = self.state.pte(mm, page).is_some_and(|pte| *pte != NONE);
        if !is_mapped {
            self.say(|| format!("finds nothing at {} of mm{mm}", trace::page(page)));
            self.cpu().task.at += nr_left_out;
        }
        self.next()
    }

    fn bump(&mut self, mm: u8, pages: u8) -> Taken {
        let of = &mut self.state.mms[usize::from(mm)];
        of.generation += 1;
        let generation = of.generation;
        self.cpu().task.generations[usize::from(mm)] = generation;
        self.revoke(mm, pages, generation);
        self.say(|| format!("generation of mm{mm} = {generation}"));
        self.is_drained()
    }

    /// Notes what a new generation is for.
    fn revoke(&mut self, mm: u8, pages: u8, generation: u8) {
        let mine = Life::Cleared(self.cpu);
        for frame in &mut self.state.frames {
            let is_meant = frame.mm == mm && pages & 1 << frame.page != 0;
            if is_meant && frame.life == mine && frame.revoked == 0 {
                frame.revoked = generation;
            }
        }
        for table in &mut self.state.tables {
            let first = usize::from(table.place).wrapping_mul(PAGES_PER_TABLE);
            let has = |page: usize| page < NR_PAGES && pages & 1 << page != 0;
            let is_meant = table.mm == mm && (first..first + PAGES_PER_TABLE).any(has);
            if is_meant && table.life == mine && table.revoked == 0 {
                table.revoked = generation;
            }
        }
    }

    fn bump_first_time(&mut self, mm: u8, pages: u8) -> Taken {
        let mine = self.cpu().task.generations[usize::from(mm)];
        if mine == self.state.mms[usize::from(mm)].generation {
            self.say(|| format!("leaves the generation of mm{mm} at {mine}"));
            return true;
        }
        self.bump(mm, pages)
    }

    fn publish(&mut self, mm: u8, runs: &[Run], ahead: bool) -> Taken {
        if !self.state.mms[usize::from(mm)].has_ring {
            self.say(|| format!("finds no ring of mm{mm}"));
            return self.next();
        }
        let current = self.state.mms[usize::from(mm)].generation;
        let task = &mut self.cpu().task;
        if ahead && task.stage == 0 {
            task.stage = 1;
            task.read = current + 1;
        }
        let generation = if ahead {
            task.read
        } else {
            task.generations[usize::from(mm)]
        };
        let ring = self.on.ring();
        let end = self.run_ring(mm, |answers| ring.publish(answers, generation, runs));
        match end {
            None => false,
            Some(Ran::Next(_)) => true,
            Some(Ran::Done(result)) => {
                if let Err(reason) = result {
                    self.saw(Witness::of_giving_up(reason));
                    self.say(|| format!("gives up: {reason:?}"));
                }
                self.next()
            }
        }
    }

    fn extend(&mut self, mm: u8, run: Run) -> Taken {
        let generation = self.cpu().task.generations[usize::from(mm)];
        let ring = self.on.ring();
        let end = self.run_ring(mm, |answers| ring.extend(answers, generation, run));
        match end {
            None => false,
            Some(Ran::Next(_)) => true,
            Some(Ran::Done(_)) => self.next(),
        }
    }

    /// One step of a function of the ring. [`None`] if the CPU has to wait for its own stores.
    fn run_ring<R>(&mut self, mm: u8, run: impl Fn(&[u8]) -> Ran<R>) -> Option<Ran<R>> {
        let log = self.cpu().task.log;
        let ran = run(log.answers());
        let Ran::Next(access) = ran else {
            return Some(ran);
        };
        let answer = self.access(mm, access)?;
        self.cpu().task.log.push(answer);
        let log = self.cpu().task.log;
        Some(run(log.answers()))
    }

    fn read_mask(&mut self, mm: u8) -> Taken {
        let mask = self.state.mms[usize::from(mm)].cpumask;
        self.cpu().task.mask |= mask;
        self.say(|| format!("reads the mask of mm{mm}: {}", trace::mask(mask)));
        true
    }

    /// A step a CPU of the mask. Returns whether that was the last.
    fn find_running(&mut self, mm: u8) -> bool {
        let cpumask = self.state.mms[usize::from(mm)].cpumask;
        let nr_cpus = self.on.nr_cpus as u8;
        let next = |from: u8| (from..nr_cpus).find(|cpu| cpumask & 1 << cpu != 0);
        let Some(target) = next(self.cpu().task.stage) else {
            return true;
        };
        let own = self.cpu().loaded.mm;
        let seen = self.state.cpus[usize::from(target)].seen.mm;
        let loaded = if target == self.cpu { own } else { seen };
        self.say(|| format!("{} has loaded {}", trace::name(target), trace::mm(loaded)));
        if self.may_use(loaded, mm) {
            self.cpu().task.mask |= 1 << target;
        } else {
            self.saw(Witness::RunsAnother);
        }
        self.cpu().task.stage = target + 1;
        next(target + 1).is_none()
    }

    /// Whether a CPU that has loaded this may use translations of `mm`.
    fn may_use(&mut self, loaded: u8, mm: u8) -> bool {
        if loaded == SWITCHING {
            self.saw(Witness::SwitchingAsked);
            return !self.on.is_broken(Broken::SwitchingIsNotAsked);
        }
        loaded == mm
    }

    // on_each_cpu_cond_mask()

    /// Two stages a CPU, one for itself, and one to wait. Returns whether that was the last;
    /// [`None`] if it has to wait.
    fn send(&mut self, info: Info) -> Option<bool> {
        let nr_cpus = self.on.nr_cpus as u8;
        while self.cpu().task.stage < 2 * nr_cpus {
            let (target, half) = (self.cpu().task.stage / 2, self.cpu().task.stage % 2);
            if self.cpu().task.mask & 1 << target != 0 && target != self.cpu {
                return self.ask(info, target, half == 1).then_some(false);
            }
            self.cpu().task.stage += 2;
        }
        if self.cpu().task.stage == 2 * nr_cpus {
            self.cpu().task.stage += 1;
            return self.flush_at_home(info).then_some(false);
        }
        let bit = self.bit();
        if self.state.cpus.iter().any(|cpu| cpu.asked_by & bit != 0) {
            return None;
        }
        self.cpu().task.mask = 0;
        self.say(|| "has been answered by all".into());
        Some(true)
    }

    /// `should_flush_tlb()` for one CPU: reads `loaded_mm`, and then `is_lazy`.
    fn ask(&mut self, info: Info, target: u8, has_read_loaded: bool) -> Taken {
        let seen = self.state.cpus[usize::from(target)].seen;
        if info.tables_freed {
            self.cpu().task.stage += 2;
            return self.queue(target);
        }
        if !has_read_loaded {
            let task = &mut self.cpu().task;
            task.stage += 1;
            task.read = seen.mm;
            self.say(|| format!("{} has loaded {}", trace::name(target), trace::mm(seen.mm)));
            return true;
        }
        self.cpu().task.stage += 1;
        let loaded = std::mem::take(&mut self.cpu().task.read);
        if seen.is_lazy {
            self.saw(Witness::LazySkipped);
            self.say(|| format!("{} is lazy", trace::name(target)));
            return true;
        }
        if !self.should_flush(info, loaded) {
            return true;
        }
        self.queue(target)
    }

    fn should_flush(&mut self, info: Info, loaded: u8) -> bool {
        let Some(mm) = info.mm else {
            return true;
        };
        self.may_use(loaded, mm) || info.trims
    }

    fn queue(&mut self, target: u8) -> Taken {
        let bit = self.bit();
        self.state.cpus[usize::from(target)].asked_by |= bit;
        self.say(|| format!("sends an IPI to {}", trace::name(target)));
        self.is_drained()
    }

    fn flush_at_home(&mut self, info: Info) -> Taken {
        let bit = self.bit();
        let loaded = self.cpu().loaded;
        let is_meant = self.cpu().task.mask & bit != 0;
        let is_asked = !loaded.is_lazy && self.should_flush(info, loaded.mm);
        if !is_meant || !(is_asked || info.tables_freed) {
            return true;
        }
        self.cpu().asked_by |= bit;
        let me = self.cpu;
        self.interrupt(me)
    }

    // Ends.

    fn free(&mut self) -> Taken {
        let mine = Life::Cleared(self.cpu);
        let frames = self.state.frames.iter_mut();
        frames.filter(|frame| frame.life == mine).for_each(|frame| {
            frame.life = match frame.pins {
                0 => Life::Freed,
                _ => Life::Released,
            };
        });
        self.say(|| "frees the pages".into());
        true
    }

    fn call_rcu(&mut self) -> Taken {
        let cpus = self.state.cpus.iter().enumerate();
        let readers = cpus
            .filter(|(_, cpu)| cpu.task.in_rcu)
            .fold(0, |all, (number, _)| all | 1 << number);
        for table in self.my_tables() {
            self.state.tables[table].readers = readers;
        }
        self.say(|| "call_rcu()".into());
        true
    }

    fn my_tables(&self) -> Vec<usize> {
        let mine = Life::Cleared(self.cpu);
        let tables = self.state.tables.iter().enumerate();
        let tables = tables.filter(|(_, table)| table.life == mine);
        tables.map(|(number, _)| number).collect()
    }

    fn free_tables(&mut self) -> Taken {
        for table in self.my_tables() {
            let table = &mut self.state.tables[table];
            if table.readers != 0 && !self.on.is_broken(Broken::NoGracePeriod) {
                return false;
            }
            table.life = Life::Freed;
        }
        self.say(|| "frees the page tables".into());
        true
    }

    fn rcu_lock(&mut self) -> Taken {
        self.cpu().task.in_rcu = true;
        self.cpu().task.read = NONE;
        self.say(|| "rcu_read_lock()".into());
        true
    }

    fn walk(&mut self, mm: u8, place: u8) -> Taken {
        let table = self.state.mms[usize::from(mm)].tables[usize::from(place)];
        self.cpu().task.read = table;
        self.say(|| format!("walks to table {table}"));
        true
    }

    fn rcu_unlock(&mut self) -> Taken {
        let bit = self.bit();
        self.cpu().task.in_rcu = false;
        self.cpu().task.read = 0;
        for table in &mut self.state.tables {
            table.readers &= !bit;
        }
        self.say(|| "rcu_read_unlock()".into());
        true
    }

    fn enable(&mut self, mm: u8) -> Taken {
        self.state.mms[usize::from(mm)].has_ring = true;
        self.say(|| format!("gives mm{mm} a ring"));
        true
    }

    fn share(&mut self) -> Taken {
        self.state.shared_flush.owed |= self.bit();
        self.say(|| "leaves the flush to whoever makes it".into());
        true
    }

    fn join(&mut self, nr_left_out: u8) -> Taken {
        let bit = self.bit();
        let does_not_wait = self.on.is_broken(Broken::FlushingIsFlushed);
        let shared = &mut self.state.shared_flush;
        if shared.taken & bit != 0 && !does_not_wait || shared.owed & bit != 0 && shared.taken != 0
        {
            return false;
        }
        if shared.owed & bit != 0 {
            shared.taken = std::mem::take(&mut shared.owed);
            self.say(|| "takes the flush upon itself".into());
            return self.next();
        }
        self.say(|| "finds its flush made".into());
        self.cpu().task.at += nr_left_out;
        self.next()
    }

    fn end_shared(&mut self) -> Taken {
        self.state.shared_flush.taken = 0;
        self.say(|| "ends the flush".into());
        true
    }

    fn begin_gather(&mut self, mm: u8) -> Taken {
        self.state.mms[usize::from(mm)].nr_gathers += 1;
        self.say(|| format!("inc_tlb_flush_pending() of mm{mm}"));
        self.is_drained()
    }

    fn end_gather(&mut self, mm: u8) -> Taken {
        self.state.mms[usize::from(mm)].nr_gathers -= 1;
        self.say(|| format!("dec_tlb_flush_pending() of mm{mm}"));
        self.is_drained()
    }

    fn unless_batched(&mut self, mm: u8, nr_left_out: u8) -> Taken {
        if !self.state.mms[usize::from(mm)].batched {
            self.say(|| format!("sees that nobody owes mm{mm} a flush"));
            self.cpu().task.at += nr_left_out;
        }
        self.next()
    }

    fn end_batched(&mut self, mm: u8) -> Taken {
        self.state.mms[usize::from(mm)].batched = false;
        self.is_drained()
    }

    /// Dirty stays.
    fn mprotect(&mut self, mm: u8, page: u8, writable: bool) -> Taken {
        let frame = self.state.pte(mm, page).map_or(NONE, |pte| *pte);
        if let Some(of) = self.state.frames.get_mut(usize::from(frame)) {
            of.writable = writable;
        }
        let how = if writable { "writable" } else { "read-only" };
        self.say(|| format!("makes {} of mm{mm} {how}", trace::page(page)));
        self.is_drained()
    }

    fn is_gone(&mut self, mm: u8, page: u8) -> Taken {
        self.state.mms[usize::from(mm)].gone |= 1 << page;
        self.say(|| format!("munmap of {} returns", trace::page(page)));
        true
    }

    // A driver, which goes on by the kernel's own code.

    /// One call of it into the machine.
    fn drive(&mut self, driver: &Driver) -> Taken {
        let on = self.on;
        let log = self.cpu().task.log;
        let Ran::Next(call) = driver.run(on, log.answers()) else {
            return self.next();
        };
        match self.call(call) {
            Called::Waits => return false,
            Called::GoesOn => return true,
            Called::Answered(answer) => self.cpu().task.log.push(answer),
        }
        let log = self.cpu().task.log;
        match driver.run(on, log.answers()) {
            Ran::Next(_) => true,
            Ran::Done(()) => self.next(),
        }
    }

    fn call(&mut self, call: Call) -> Called {
        let answer = match call {
            Call::Take { mm, page } => Some(self.take_frame(mm, page)),
            Call::Lock(mm) if !self.has_tables(mm) => Some(0),
            Call::Lock(mm) => self.lock(mm).then_some(1),
            Call::Unlock(mm) => self.unlock(mm).then_some(0),
            Call::Clear { mm, page, frame } => self.clear_frame(mm, page, frame),
            Call::Protect { mm, page, frame } => self.protect_frame(mm, page, frame),
            Call::IsPending(mm) => Some((self.state.mms[usize::from(mm)].nr_gathers > 0).into()),
            Call::NoteBatched(mm) => self.note_batched(mm).then_some(0),
            Call::Bump(mm) => self
                .bump(mm, ALL)
                .then(|| self.cpu().task.generations[usize::from(mm)]),
            Call::FindRing(mm) => Some(self.state.mms[usize::from(mm)].has_ring.into()),
            Call::Ring { mm, access } => self.access(mm, access),
            Call::Mask(mm) => self.read_mask(mm).then_some(0),
            Call::Running(mm) if !self.find_running(mm) => return Called::GoesOn,
            Call::Running(_) => {
                self.cpu().task.stage = 0;
                Some(0)
            }
            Call::Send(info) => match self.send(info) {
                Some(false) => return Called::GoesOn,
                sent => sent.map(|_| self.cpu().task.stage = 0).map(|()| 0),
            },
            Call::Save(frame) => self.save(frame).then_some(0),
            Call::Free(frame) => self.free_frame(frame).then_some(0),
        };
        answer.map_or(Called::Waits, Called::Answered)
    }

    fn has_tables(&self, mm: u8) -> bool {
        let tables = &self.state.mms[usize::from(mm)].tables;
        tables.iter().any(|table| *table != NONE)
    }

    /// The last that was mapped there, mapped or not.
    fn take_frame(&mut self, mm: u8, page: u8) -> u8 {
        let is_there = |state: &State, frame: usize| {
            let of = &state.frames[frame];
            let is_free = of.life == Life::Freed || of.pins & TAKEN != 0;
            of.mm == mm && of.page == page && !is_free
        };
        let mut frames = (0..usize::from(self.state.nr_frames)).rev();
        let Some(frame) = frames.find(|&frame| is_there(&self.state, frame)) else {
            return NONE;
        };
        self.state.frames[frame].pins |= TAKEN;
        self.say(|| format!("takes {} of mm{mm}", trace::page(page)));
        frame as u8
    }

    /// Whether a page is mapped to this very frame.
    fn is_mapped(&mut self, mm: u8, page: u8, frame: u8) -> bool {
        frame != NONE && self.state.pte(mm, page).is_some_and(|pte| *pte == frame)
    }

    fn clear_frame(&mut self, mm: u8, page: u8, frame: u8) -> Option<u8> {
        if !self.is_mapped(mm, page, frame) {
            self.say(|| format!("finds no PTE of {} in mm{mm}", trace::page(page)));
            return Some(0);
        }
        let of = &mut self.state.frames[usize::from(frame)];
        let bit = |is_set: bool, bit| if is_set { bit } else { 0 };
        let was = Was::CHANGED | bit(of.dirty, Was::DIRTY) | bit(of.writable, Was::WRITABLE);
        (of.writable, of.dirty) = (false, false);
        self.clear(mm, page).then_some(was)
    }

    fn protect_frame(&mut self, mm: u8, page: u8, frame: u8) -> Option<u8> {
        let is_mapped = self.is_mapped(mm, page, frame);
        let of = self.state.frames.get_mut(usize::from(frame));
        let Some(of) = of.filter(|of| is_mapped && of.writable && !of.dirty) else {
            return Some(0);
        };
        of.writable = false;
        self.say(|| format!("write-protects {} in mm{mm}", trace::page(page)));
        self.is_drained().then_some(Was::CHANGED)
    }

    fn note_batched(&mut self, mm: u8) -> Taken {
        self.state.mms[usize::from(mm)].batched = true;
        self.say(|| format!("notes that mm{mm} is owed a flush"));
        true
    }

    fn save(&mut self, frame: u8) -> Taken {
        self.state.frames[usize::from(frame)].saved = true;
        self.say(|| format!("saves frame {frame}"));
        true
    }

    fn free_frame(&mut self, frame: u8) -> Taken {
        let of = &mut self.state.frames[usize::from(frame)];
        of.pins &= !TAKEN;
        of.life = Life::Freed;
        self.say(|| format!("frees frame {frame}"));
        true
    }
}

/// How a call into the machine went.
enum Called {
    /// Not at all: it has to wait.
    Waits,
    /// It was one step of more.
    GoesOn,
    Answered(u8),
}
