// SPDX-License-Identifier: GPL-2.0

//! One step of the machine: who can take it, and what memory and hardware do in it.

use super::{
    machine::{Broken, Machine, Step, What},
    ring::{run_of, Access, BUSY_NUMBER},
    state::{
        Cached, Cpu, Place, State, Work, INIT, NONE, NR_FRAMES, NR_PAGES, NR_TABLES,
        PAGES_PER_TABLE, SWITCHING,
    },
    trace,
    witness::Witness,
};
use crate::{mm::tlb::ring::Run, page::PAGE_SHIFT};

/// Whether a step could be taken.
pub(super) type Taken = bool;

/// A step that is being taken: the state that it leads to, half made.
pub(super) struct Move<'a> {
    pub(super) on: &'a Machine,
    pub(super) state: State,
    pub(super) cpu: u8,
    said: Option<&'a mut String>,
}

impl<'a> Move<'a> {
    pub(super) fn take(
        on: &'a Machine,
        state: &State,
        step: Step,
        said: Option<&'a mut String>,
    ) -> Option<State> {
        if !can(on, state, step) {
            return None;
        }
        let mut this = Self {
            on,
            state: state.clone(),
            cpu: step.cpu,
            said,
        };
        if !this.step(step.what) {
            return None;
        }
        this.state.cache();
        Some(this.state)
    }

    fn step(&mut self, what: What) -> Taken {
        match what {
            What::Go if self.cpu().work != Work::None => self.go_on_with_work(),
            What::Go => self.go_on_with_program(),
            What::Drain => self.drain(),
            What::Interrupt(of) => self.interrupt(of),
            What::Switch(to) => self.switch(to),
            What::GoLazy => self.go_lazy(),
            What::Fault { mm, page } => self.fault(mm, page),
            What::Write { mm, page } => self.write(mm, page),
        }
    }

    pub(super) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(said) = &mut self.said {
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.push_str(&what());
        }
    }

    pub(super) fn saw(&self, witness: Witness) {
        self.on.witnesses.saw(witness);
    }

    pub(super) fn cpu(&mut self) -> &mut Cpu {
        &mut self.state.cpus[usize::from(self.cpu)]
    }

    pub(super) fn bit(&self) -> u8 {
        1 << self.cpu
    }

    // Memory.

    /// Whether all stores of the CPU are visible: what is serialising, locked or a full barrier
    /// waits until they are.
    pub(super) fn is_drained(&mut self) -> bool {
        self.cpu().stores.is_empty()
    }

    pub(super) fn store(&mut self, place: Place, value: u8) -> Taken {
        if !self.on.is_tso {
            self.make_visible(place, value);
            return true;
        }
        let stores = &mut self.cpu().stores;
        if stores.is_full() {
            return false;
        }
        stores.push(place, value);
        true
    }

    fn make_visible(&mut self, place: Place, value: u8) {
        match place {
            Place::LoadedMm => self.cpu().seen.mm = value,
            Place::IsLazy => self.cpu().seen.is_lazy = value != 0,
            Place::Tag(mm, slot) => {
                self.state.mms[usize::from(mm)].ring[usize::from(slot)].tag = value;
            }
            Place::Run(mm, slot, index) => {
                let slot = &mut self.state.mms[usize::from(mm)].ring[usize::from(slot)];
                slot.runs[usize::from(index)] = value;
            }
        }
    }

    /// A word of a ring, as this CPU sees it.
    fn load(&mut self, place: Place) -> u8 {
        if let Some(value) = self.cpu().stores.latest(place) {
            return value;
        }
        match place {
            Place::Tag(mm, slot) => self.state.mms[usize::from(mm)].ring[usize::from(slot)].tag,
            Place::Run(mm, slot, index) => {
                self.state.mms[usize::from(mm)].ring[usize::from(slot)].runs[usize::from(index)]
            }
            Place::LoadedMm | Place::IsLazy => unreachable!("no word of a ring"),
        }
    }

    fn drain(&mut self) -> Taken {
        let (place, value) = self.cpu().stores.pop();
        self.make_visible(place, value);
        self.say(|| format!("({} is visible)", trace::place(place, value)));
        true
    }

    /// One access of a function of the ring of `mm`. Returns the answer, if the CPU can go on.
    pub(super) fn access(&mut self, mm: u8, access: Access) -> Option<u8> {
        let of = if self.on.is_broken(Broken::RingIsCopied) {
            0
        } else {
            mm
        };
        match access {
            Access::LoadTag { slot, again } => {
                let tag = self.load(Place::Tag(of, slot));
                let again = if again { " again" } else { "" };
                self.say(|| format!("reads tag[{slot}]{again}: {}", trace::tag(tag)));
                Some(tag)
            }
            Access::LoadRun { slot, index } => {
                let run = self.load(Place::Run(of, slot, index));
                self.say(|| format!("reads run[{slot}][{index}]: {}", trace::run(run_of(run))));
                Some(run)
            }
            Access::Claim { slot, seen } => self.claim(Place::Tag(of, slot), seen),
            Access::Release { slot, tag } => {
                self.say(|| format!("stores tag[{slot}] = {tag}"));
                self.store(Place::Tag(of, slot), tag).then_some(0)
            }
            Access::StoreRun { slot, index, run } => {
                self.say(|| format!("stores run[{slot}][{index}] = {}", trace::run(run_of(run))));
                self.store(Place::Run(of, slot, index), run).then_some(0)
            }
            Access::Invalidate(run) => self.invalidate_run(run).then_some(0),
        }
    }

    fn claim(&mut self, tag: Place, seen: u8) -> Option<u8> {
        if !self.is_drained() {
            return None;
        }
        let is_seen = self.load(tag) == seen;
        if is_seen {
            self.make_visible(tag, BUSY_NUMBER);
            if seen != 0 {
                self.saw(Witness::SlotReused);
            }
        }
        let result = if is_seen { "claims" } else { "cannot claim" };
        self.say(|| format!("{result} {}", trace::place(tag, seen)));
        Some(is_seen.into())
    }

    // Hardware.

    /// Each INVLPG serialises. That all of a run are one step is for the number of states.
    fn invalidate_run(&mut self, run: Run) -> Taken {
        if !self.is_drained() {
            return false;
        }
        let per_stride = 1usize << (run.stride_shift() as usize - PAGE_SHIFT);
        let first = run.start() >> PAGE_SHIFT;
        for stride in 0..run.nr_strides() {
            let page = first + stride * per_stride;
            if page < NR_PAGES {
                self.invalidate(page as u8);
            }
        }
        true
    }

    /// INVLPG.
    pub(super) fn invalidate(&mut self, page: u8) {
        let drops_all = self.on.invlpg_drops_all;
        let cached = self.current();
        cached.frames[usize::from(page)] = 0;
        cached.writable[usize::from(page)] = 0;
        cached.dirty[usize::from(page)] = 0;
        cached.leaves &= !(1 << (usize::from(page) / PAGES_PER_TABLE));
        if drops_all {
            cached.tables = Default::default();
        } else {
            cached.tables[usize::from(page) / PAGES_PER_TABLE] = 0;
        }
        self.say(|| format!("INVLPG {}", trace::page(page)));
    }

    /// A write to CR3 that keeps nothing of what is loaded.
    pub(super) fn flush(&mut self) {
        *self.current() = Cached::default();
        self.say(|| "flushes everything".into());
    }

    fn current(&mut self) -> &mut Cached {
        let cpu = self.cpu();
        &mut cpu.cached[usize::from(cpu.asid)]
    }

    // What comes from elsewhere.

    fn fault(&mut self, mm: u8, page: u8) -> Taken {
        self.state.faults_left -= 1;
        self.state.map(mm, page);
        let frame = self.state.nr_frames - 1;
        let named = trace::frame_name(&self.state, frame.into());
        self.say(|| format!("a fault maps {} of mm{mm} to {named}", trace::page(page)));
        true
    }

    /// The hardware sets Dirty; or a fault makes the PTE writable, and dirty.
    fn write(&mut self, mm: u8, page: u8) -> Taken {
        let frame = self.state.pte(mm, page).map_or(NONE, |pte| *pte);
        let Some(of) = self.state.frames.get_mut(usize::from(frame)) else {
            return false;
        };
        let faults = !of.writable;
        (of.writable, of.dirty) = (true, true);
        self.state.writes_left -= 1;
        let how = if faults { ", by a fault" } else { "" };
        self.say(|| format!("{} of mm{mm} is written to{how}", trace::page(page)));
        true
    }

    fn go_lazy(&mut self) -> Taken {
        self.cpu().decisions_left -= 1;
        self.cpu().loaded.is_lazy = true;
        self.say(|| "runs a kernel thread: is_lazy = true".into());
        self.store(Place::IsLazy, 1)
    }

    /// `switch_mm_irqs_off()`.
    fn switch(&mut self, to: u8) -> Taken {
        self.cpu().decisions_left -= 1;
        let was = self.cpu().loaded;
        if was.mm == to {
            self.say(|| format!("runs mm{to} again"));
            return self.begin_return();
        }
        self.say(|| format!("switches to mm{to}"));
        self.begin_switch(to)
    }
}

/// Whether a step is one that could be tried: most cannot, and that is seen without a copy.
fn can(on: &Machine, state: &State, step: Step) -> bool {
    let cpu = || &state.cpus[usize::from(step.cpu)];
    match step.what {
        What::Go => {
            let program = &on.programs[usize::from(step.cpu)];
            cpu().work != Work::None || usize::from(cpu().task.at) < program.len()
        }
        What::Drain => !cpu().stores.is_empty(),
        What::Interrupt(of) => cpu().work == Work::None && cpu().asked_by & 1 << of != 0,
        What::Switch(to) => {
            is_scheduling(on, step, cpu()) && (cpu().loaded.mm != to || cpu().loaded.is_lazy)
        }
        What::GoLazy => {
            let loaded = cpu().loaded;
            is_scheduling(on, step, cpu()) && !loaded.is_lazy && loaded.mm != INIT
        }
        What::Fault { mm, page } => can_fault(state, mm, page),
        What::Write { mm, page } => state.writes_left > 0 && can_write(state, mm, page),
    }
}

/// The scheduler has a say between programs.
fn is_scheduling(on: &Machine, step: Step, cpu: &Cpu) -> bool {
    let program = &on.programs[usize::from(step.cpu)];
    let is_done = usize::from(cpu.task.at) == program.len();
    is_done && cpu.decisions_left > 0 && cpu.work == Work::None && cpu.loaded.mm != SWITCHING
}

fn can_fault(state: &State, mm: u8, page: u8) -> bool {
    let place = usize::from(page) / PAGES_PER_TABLE;
    let of = &state.mms[usize::from(mm)];
    let table = of.tables[place];
    let is_mapped = match state.tables.get(usize::from(table)) {
        Some(table) => table.ptes[usize::from(page) % PAGES_PER_TABLE] != NONE,
        None => usize::from(state.nr_tables) == NR_TABLES,
    };
    let is_full = usize::from(state.nr_frames) == NR_FRAMES;
    let is_large = of.leaves & 1 << place != 0;
    state.faults_left > 0 && of.locked_by == NONE && !is_mapped && !is_large && !is_full
}

/// Whether a write changes the PTE: it is clean; or it is read-only, and its lock is free.
fn can_write(state: &State, mm: u8, page: u8) -> bool {
    let of = &state.mms[usize::from(mm)];
    let table = of.tables[usize::from(page) / PAGES_PER_TABLE];
    let table = state.tables.get(usize::from(table));
    let frame = table.map_or(NONE, |table| {
        table.ptes[usize::from(page) % PAGES_PER_TABLE]
    });
    let frame = state.frames.get(usize::from(frame));
    frame.is_some_and(|frame| match frame.writable {
        true => !frame.dirty,
        false => of.locked_by == NONE,
    })
}
