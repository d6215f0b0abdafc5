// SPDX-License-Identifier: GPL-2.0

//! The machine: what it is made of, what can happen on it, and what must hold.

use super::{
    moves::Move,
    program::Op,
    ring,
    search::System,
    state::{
        Cached, Context, Cpu, Frame, Life, Loaded, Mm, SharedFlush, Slot, State, Stores, Table,
        Task, Work, INIT, NONE, NR_ASIDS, NR_CPUS, NR_FRAMES, NR_MMS, NR_PAGES, NR_PLACES,
        NR_TABLES, PAGES_PER_TABLE,
    },
    witness::Witnesses,
};
use crate::mm::tlb::ring::Rule;

/// Something that can be tried: by which CPU, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) cpu: u8,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Go on with what the CPU is at.
    Go,
    /// The CPU's oldest store becomes visible.
    Drain,
    /// The IPI of this CPU arrives.
    Interrupt(u8),
    /// The scheduler runs a task of this address space.
    Switch(u8),
    /// The scheduler runs a kernel thread.
    GoLazy,
    /// A page fault, on no CPU in particular.
    Fault { mm: u8, page: u8 },
    /// A first write through a PTE, on no CPU in particular: by the hardware's walk, or by a fault.
    Write { mm: u8, page: u8 },
}

/// What of the kernel is broken, beside what is wrong in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Nothing,
    Ring(Rule),
    /// A CPU takes a generation for its own that it has read later than what it invalidated.
    LocalIsReadAgain,
    /// A CPU that is switching is not asked.
    SwitchingIsNotAsked,
    /// A CPU that switches reads the generation, and then is in the mask.
    MaskAfterGeneration,
    /// A CPU that returns from lazy mode does not order that with the generation.
    NoBarrierOnReturn,
    /// A CPU that switches does not order that with the generation.
    NoBarrierOnSwitch,
    /// A child has the ring of its parent.
    RingIsCopied,
    /// Those who find their flush taken do not wait for its end.
    FlushingIsFlushed,
    /// Page tables are freed at the end of a flush, and not of a grace period.
    NoGracePeriod,
    /// A walk that finds no PTE does not ask whether somebody has yet to flush it.
    PendingIsIgnored,
}

/// A machine and what runs on it.
pub(super) struct Machine {
    pub(super) nr_cpus: usize,
    pub(super) has_pcid: bool,
    /// Whether an INVLPG drops all paging-structure entries (Intel), or those of its address only
    /// (AMD, with EFER.TCE).
    pub(super) invlpg_drops_all: bool,
    /// Whether stores become visible late, as on x86.
    pub(super) is_tso: bool,
    /// Whether a CPU looks at the PTE before it writes through a translation that is writable and
    /// clean, as the architecture promises.
    pub(super) keeps_promise: bool,
    /// The most pages that are invalidated one by one; the same for a return from lazy mode.
    pub(super) ceiling: usize,
    pub(super) lazy_limit: usize,
    pub(super) nr_slots: usize,
    pub(super) programs: [Vec<Op>; NR_CPUS],
    pub(super) start: State,
    pub(super) steps: Vec<Step>,
    pub(super) broken: Broken,
    pub(super) witnesses: Witnesses,
}

/// The generation that everything starts from.
pub(super) const FIRST: u8 = 1;

impl Machine {
    /// All CPUs run address space 0, which has a ring, and may have cached all of it. Nothing runs.
    pub(super) fn new(nr_cpus: usize) -> Self {
        let mut machine = Self {
            nr_cpus,
            has_pcid: true,
            invlpg_drops_all: true,
            is_tso: true,
            keeps_promise: true,
            ceiling: 3,
            lazy_limit: 3,
            nr_slots: 2,
            programs: Default::default(),
            start: start(nr_cpus),
            steps: Vec::new(),
            broken: Broken::Nothing,
            witnesses: Witnesses::default(),
        };
        machine.lay_out_steps();
        machine
    }

    fn lay_out_steps(&mut self) {
        let whats = |cpu: u8| {
            let others = (0..self.nr_cpus as u8).filter(move |other| *other != cpu);
            [What::Go, What::Drain, What::GoLazy]
                .into_iter()
                .chain(others.map(What::Interrupt))
                .chain((0..NR_MMS as u8).map(What::Switch))
        };
        let of_cpus = (0..self.nr_cpus as u8).flat_map(|cpu| {
            let whats: Vec<What> = whats(cpu).collect();
            whats.into_iter().map(move |what| Step { cpu, what })
        });
        let pages =
            (0..NR_MMS as u8).flat_map(|mm| (0..NR_PAGES as u8).map(move |page| (mm, page)));
        let of_none = pages.flat_map(|(mm, page)| {
            [What::Fault { mm, page }, What::Write { mm, page }]
                .map(|what| Step { cpu: NONE, what })
        });
        self.steps = of_cpus.chain(of_none).collect();
    }

    pub(super) fn ring(&self) -> ring::Ring {
        ring::Ring {
            nr_slots: self.nr_slots,
            broken: match self.broken {
                Broken::Ring(rule) => Some(rule),
                _ => None,
            },
        }
    }

    pub(super) fn is_broken(&self, how: Broken) -> bool {
        self.broken == how
    }
}

fn start(nr_cpus: usize) -> State {
    let mut state = State {
        cpus: [cpu(); NR_CPUS],
        mms: [0, 1].map(|mm| Mm {
            generation: FIRST,
            cpumask: if mm == 0 { (1 << nr_cpus) - 1 } else { 0 },
            locked_by: NONE,
            nr_gathers: 0,
            batched: false,
            gone: 0,
            tables: [0, 1].map(|place| mm * NR_PLACES as u8 + place),
            leaves: 0,
            has_ring: true,
            ring: [Slot::default(); super::state::NR_SLOTS],
        }),
        frames: [Frame::default(); NR_FRAMES],
        tables: [empty_table(NONE, NONE); NR_TABLES],
        nr_frames: 0,
        nr_tables: (NR_MMS * NR_PLACES) as u8,
        faults_left: 0,
        writes_left: 0,
        shared_flush: SharedFlush::default(),
        rmap_locked_by: NONE,
    };
    for mm in 0..NR_MMS as u8 {
        for place in 0..NR_PLACES as u8 {
            state.tables[usize::from(mm) * NR_PLACES + usize::from(place)] = empty_table(mm, place);
        }
        for page in 0..NR_PAGES as u8 {
            state.map(mm, page);
        }
    }
    state.cache();
    state
}

fn cpu() -> Cpu {
    let loaded = Loaded {
        mm: 0,
        is_lazy: false,
    };
    let mut contexts = [Context {
        mm: NONE,
        generation: 0,
    }; NR_ASIDS];
    contexts[0] = Context {
        mm: 0,
        generation: FIRST,
    };
    Cpu {
        seen: loaded,
        loaded,
        root: 0,
        asid: 0,
        contexts,
        next_asid: 1,
        cached: [Cached::default(); NR_ASIDS],
        stores: Stores::default(),
        asked_by: 0,
        work: Work::None,
        work_log: Default::default(),
        task: Task::default(),
        decisions_left: 0,
    }
}

fn empty_table(mm: u8, place: u8) -> Table {
    Table {
        mm,
        place,
        life: Life::Mapped,
        revoked: 0,
        readers: 0,
        ptes: [NONE; PAGES_PER_TABLE],
    }
}

impl State {
    /// Maps a page to a fresh frame, in a fresh table if it has none.
    pub(super) fn map(&mut self, mm: u8, page: u8) {
        let place = usize::from(page) / PAGES_PER_TABLE;
        let mut table = self.mms[usize::from(mm)].tables[place];
        if table == NONE {
            table = self.nr_tables;
            self.nr_tables += 1;
            self.tables[usize::from(table)] = empty_table(mm, place as u8);
            self.mms[usize::from(mm)].tables[place] = table;
        }
        let frame = self.nr_frames;
        self.nr_frames += 1;
        self.frames[usize::from(frame)] = Frame {
            mm,
            page,
            ..Frame::default()
        };
        self.tables[usize::from(table)].ptes[usize::from(page) % PAGES_PER_TABLE] = frame;
    }

    /// The frame that a page is mapped to, and where that is written.
    pub(super) fn pte(&mut self, mm: u8, page: u8) -> Option<&mut u8> {
        let place = usize::from(page) / PAGES_PER_TABLE;
        let table = self.mms[usize::from(mm)].tables[place];
        let table = self.tables.get_mut(usize::from(table))?;
        Some(&mut table.ptes[usize::from(page) % PAGES_PER_TABLE])
    }

    /// Each CPU caches what it can find.
    pub(super) fn cache(&mut self) {
        for cpu in &mut self.cpus {
            if cpu.root == INIT {
                continue;
            }
            let cached = &mut cpu.cached[usize::from(cpu.asid)];
            cached.leaves |= self.mms[usize::from(cpu.root)].leaves;
            for (place, tables) in cached.tables.iter_mut().enumerate() {
                let table = self.mms[usize::from(cpu.root)].tables[place];
                if table != NONE {
                    *tables |= 1 << table;
                }
                for walked in bits(u16::from(*tables)) {
                    let table = &self.tables[walked];
                    for (index, frame) in table.ptes.iter().enumerate() {
                        let Some(of) = self.frames.get(usize::from(*frame)) else {
                            continue;
                        };
                        let page = place * PAGES_PER_TABLE + index;
                        cached.frames[page] |= 1 << frame;
                        cached.writable[page] |= u16::from(of.writable) << frame;
                        cached.dirty[page] |= u16::from(of.writable && of.dirty) << frame;
                    }
                }
            }
        }
    }
}

/// The numbers of the bits that are set.
pub(super) fn bits(mask: u16) -> impl Iterator<Item = usize> {
    (0..16).filter(move |bit| mask & 1 << bit != 0)
}

impl System for Machine {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        self.start.clone()
    }

    fn steps(&self) -> &[Step] {
        &self.steps
    }

    fn take(&self, state: &State, step: Step, said: Option<&mut String>) -> Option<State> {
        Move::take(self, state, step, said)
    }

    fn broken(&self, state: &State) -> Option<String> {
        super::check::broken(state, self.nr_cpus, self.keeps_promise)
    }

    fn broken_at_end(&self, state: &State) -> Option<String> {
        let waits = |cpu: usize| usize::from(state.cpus[cpu].task.at) < self.programs[cpu].len();
        let waiting = (0..self.nr_cpus).find(|&cpu| waits(cpu))?;
        Some(format!(
            "{} waits for ever",
            super::trace::name(waiting as u8)
        ))
    }
}
