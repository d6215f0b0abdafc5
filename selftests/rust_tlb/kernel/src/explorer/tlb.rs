// SPDX-License-Identifier: GPL-2.0

//! What `arch/x86/mm/tlb.c` does with interrupts off, in steps: a step is at most one access to
//! what others change.

use super::{
    machine::{Broken, FIRST},
    moves::{Move, Taken},
    program::{Info, Op},
    ring::Ran,
    state::{Cached, Context, Log, Place, Work, INIT, NR_ASIDS, NR_PAGES, SWITCHING},
    trace,
    witness::Witness,
};
use crate::mm::tlb::ring::Doubt;

/// Stages of a flush, and of a return from lazy mode, beside the first.
const RING: u8 = 1;
const FULL: u8 = 2;
const READ_AGAIN: u8 = 3;
/// And one per page of an exact range.
const RANGE: u8 = 4;

impl Move<'_> {
    fn set(&mut self, work: Work) -> Taken {
        self.cpu().work = work;
        true
    }

    pub(super) fn go_on_with_work(&mut self) -> Taken {
        match self.cpu().work {
            Work::None => false,
            Work::Switch {
                to,
                stage,
                generation,
            } => self.go_on_switching(to, stage, generation),
            Work::Return { stage, generation } => self.go_on_returning(stage, generation),
            Work::Flush {
                of,
                stage,
                generation,
            } => self.go_on_flushing(of, stage, generation),
            Work::Leave { of, stage } => self.go_on_leaving(of, stage),
        }
    }

    // switch_mm_irqs_off()

    pub(super) fn begin_switch(&mut self, to: u8) -> Taken {
        let first = if self.on.is_broken(Broken::MaskAfterGeneration) {
            1
        } else {
            0
        };
        self.say_switching()
            && self.set(Work::Switch {
                to,
                stage: first,
                generation: FIRST,
            })
    }

    fn say_switching(&mut self) -> Taken {
        let was_lazy = std::mem::take(&mut self.cpu().loaded.is_lazy);
        self.cpu().loaded.mm = SWITCHING;
        self.say(|| "loaded_mm = SWITCHING".into());
        (!was_lazy || self.store(Place::IsLazy, 0)) && self.store(Place::LoadedMm, SWITCHING)
    }

    fn go_on_switching(&mut self, to: u8, stage: u8, generation: u8) -> Taken {
        let swapped = self.on.is_broken(Broken::MaskAfterGeneration);
        let next = |stage, generation| Work::Switch {
            to,
            stage,
            generation,
        };
        match stage {
            0 => self.join_mask(to) && self.set(next(if swapped { 2 } else { 1 }, generation)),
            1 => {
                let generation = self.read_generation(to);
                self.set(next(if swapped { 0 } else { 2 }, generation))
            }
            2 => self.load_cr3(to, generation) && self.set(next(3, generation)),
            _ => self.finish_loading(to) && self.set(Work::None),
        }
    }

    /// A locked operation, or a barrier if the CPU is in the mask.
    fn join_mask(&mut self, to: u8) -> Taken {
        let bit = self.bit();
        let mm = &mut self.state.mms[usize::from(to)];
        let was_in = mm.cpumask & bit != 0;
        mm.cpumask |= bit;
        let needs_no_barrier = was_in && self.on.is_broken(Broken::NoBarrierOnSwitch);
        self.say(|| format!("is in the mask of mm{to}"));
        needs_no_barrier || self.is_drained()
    }

    fn read_generation(&mut self, mm: u8) -> u8 {
        let generation = match mm {
            INIT => FIRST,
            _ => self.state.mms[usize::from(mm)].generation,
        };
        self.say(|| format!("reads the generation of mm{mm}: {generation}"));
        generation
    }

    /// `choose_new_asid()`, and what follows from that.
    fn load_cr3(&mut self, to: u8, generation: u8) -> Taken {
        if !self.is_drained() {
            return false;
        }
        let (asid, must_flush) = self.choose_asid(to, generation);
        let cpu = self.cpu();
        cpu.root = to;
        cpu.asid = asid;
        if must_flush {
            cpu.contexts[usize::from(asid)] = Context { mm: to, generation };
            cpu.cached[usize::from(asid)] = Cached::default();
            self.saw(Witness::SwitchFlushed);
        } else {
            self.saw(Witness::SwitchKept);
        }
        let how = if must_flush { "flushed" } else { "kept" };
        self.say(|| format!("CR3 = {}, ASID {asid}, {how}", trace::mm(to)));
        true
    }

    fn choose_asid(&mut self, to: u8, generation: u8) -> (u8, bool) {
        if !self.on.has_pcid {
            return (0, true);
        }
        let mut contexts = self.cpu().contexts.iter();
        if let Some(asid) = contexts.position(|context| context.mm == to) {
            let is_behind = self.cpu().contexts[asid].generation < generation;
            return (asid as u8, is_behind);
        }
        let cpu = self.cpu();
        let asid = cpu.next_asid;
        cpu.next_asid = (asid + 1) % NR_ASIDS as u8;
        if cpu.contexts[usize::from(asid)].mm <= INIT {
            self.saw(Witness::AsidReused);
        }
        (asid, true)
    }

    fn finish_loading(&mut self, to: u8) -> Taken {
        self.cpu().loaded.mm = to;
        self.say(|| format!("loaded_mm = {}", trace::mm(to)));
        self.store(Place::LoadedMm, to)
    }

    pub(super) fn begin_return(&mut self) -> Taken {
        self.cpu().loaded.is_lazy = false;
        self.say(|| "is_lazy = false".into());
        self.store(Place::IsLazy, 0)
            && self.set(Work::Return {
                stage: 0,
                generation: 0,
            })
    }

    fn go_on_returning(&mut self, stage: u8, generation: u8) -> Taken {
        match stage {
            0 => self.look_after_lazy(),
            RING => self.return_by_ring(generation),
            _ => {
                self.is_drained() && {
                    self.flush();
                    self.end_return(generation)
                }
            }
        }
    }

    fn look_after_lazy(&mut self) -> Taken {
        if !self.is_drained() && !self.on.is_broken(Broken::NoBarrierOnReturn) {
            return false;
        }
        let mm = self.cpu().loaded.mm;
        let generation = self.read_generation(mm);
        if self.context().generation == generation {
            return self.set(Work::None);
        }
        let stage = self.ring_or_full(mm);
        self.set(Work::Return { stage, generation })
    }

    fn return_by_ring(&mut self, generation: u8) -> Taken {
        let limit = self.on.lazy_limit;
        match self.catch_up(generation, limit) {
            None => false,
            Some(Ran::Next(_)) => true,
            Some(Ran::Done(Ok(_))) => {
                self.saw(Witness::ExactReturn);
                self.end_return(generation)
            }
            Some(Ran::Done(Err(_))) => self.set(Work::Return {
                stage: FULL,
                generation,
            }),
        }
    }

    fn end_return(&mut self, generation: u8) -> Taken {
        self.is_now_at(generation);
        self.set(Work::None)
    }

    // flush_tlb_func()

    /// An IPI arrives; or the CPU that flushes does so at home.
    pub(super) fn interrupt(&mut self, of: u8) -> Taken {
        let (info, generation) = self.asked(of);
        let loaded = self.cpu().loaded;
        if of != self.cpu {
            self.say(|| format!("IPI of {}", trace::name(of)));
        }
        if of != self.cpu && self.is_publishing() {
            self.saw(Witness::InterruptedPublisher);
        }
        match info.mm {
            Some(mm) if mm != loaded.mm => return self.trim(of, mm),
            _ if loaded.mm == INIT => return self.acknowledge(of),
            _ if loaded.is_lazy => return self.begin_leaving(of),
            _ => {}
        }
        if generation != 0 && generation <= self.context().generation {
            self.saw(Witness::UpToDate);
            self.say(|| "has nothing to do".into());
            return self.acknowledge(of);
        }
        self.set(Work::Flush {
            of,
            stage: 0,
            generation: 0,
        })
    }

    /// What the CPU `of` asks for, and by which generation: none if it is a batch.
    fn asked(&mut self, of: u8) -> (Info, u8) {
        let task = &self.state.cpus[usize::from(of)].task;
        let op = &self.on.programs[usize::from(of)][usize::from(task.at)];
        let info = op.asks(self.on, &task.log);
        let generation = info.mm.map_or(0, |mm| task.generations[usize::from(mm)]);
        (info, generation)
    }

    /// Whether the CPU is in the middle of `publish()`.
    fn is_publishing(&mut self) -> bool {
        let (at, nr) = (self.cpu().task.at, self.cpu().task.log.nr);
        let op = self.on.programs[usize::from(self.cpu)].get(usize::from(at));
        nr > 0 && matches!(op, Some(Op::Publish(..)))
    }

    fn acknowledge(&mut self, of: u8) -> Taken {
        self.cpu().asked_by &= !(1 << of);
        self.cpu().work = Work::None;
        true
    }

    fn trim(&mut self, of: u8, mm: u8) -> Taken {
        let bit = self.bit();
        self.state.mms[usize::from(mm)].cpumask &= !bit;
        self.saw(Witness::Trimmed);
        self.say(|| format!("is not in the mask of mm{mm} any more"));
        self.is_drained() && self.acknowledge(of)
    }

    fn begin_leaving(&mut self, of: u8) -> Taken {
        self.saw(Witness::LeftLazy);
        self.say_switching() && self.set(Work::Leave { of, stage: 0 })
    }

    fn go_on_leaving(&mut self, of: u8, stage: u8) -> Taken {
        match stage {
            0 => self.load_cr3(INIT, FIRST) && self.set(Work::Leave { of, stage: 1 }),
            _ => self.finish_loading(INIT) && self.acknowledge(of),
        }
    }

    fn go_on_flushing(&mut self, of: u8, stage: u8, generation: u8) -> Taken {
        match stage {
            0 => self.choose_how_to_flush(of),
            RING => self.flush_by_ring(of, generation),
            FULL => {
                self.is_drained() && {
                    self.flush();
                    self.end_flush(of, generation)
                }
            }
            READ_AGAIN => {
                let mm = self.cpu().loaded.mm;
                let later = self.read_generation(mm);
                self.end_flush(of, later)
            }
            _ => self.is_drained() && self.flush_range(of, stage, generation),
        }
    }

    fn choose_how_to_flush(&mut self, of: u8) -> Taken {
        let mm = self.cpu().loaded.mm;
        let generation = self.read_generation(mm);
        let local = self.context().generation;
        if local == generation {
            return self.acknowledge(of);
        }
        let (info, asked) = self.asked(of);
        let is_range = info.pages(self.on.ceiling).is_some();
        let is_next = asked == local + 1 && asked == generation;
        let stage = if is_range && is_next {
            RANGE
        } else {
            self.ring_or_full(mm)
        };
        self.set(Work::Flush {
            of,
            stage,
            generation,
        })
    }

    /// One page of the range; at its end, the flush is over.
    fn flush_range(&mut self, of: u8, stage: u8, generation: u8) -> Taken {
        let (info, _) = self.asked(of);
        let pages = info.pages(self.on.ceiling).unwrap_or(0);
        let rest = (stage - RANGE)..NR_PAGES as u8;
        let mut rest = rest.filter(|page| pages & 1 << page != 0);
        if let Some(page) = rest.next() {
            self.invalidate(page);
        }
        match rest.next() {
            Some(page) => self.set(Work::Flush {
                of,
                stage: RANGE + page,
                generation,
            }),
            None => {
                self.saw(Witness::ExactRange);
                self.end_flush(of, generation)
            }
        }
    }

    fn flush_by_ring(&mut self, of: u8, generation: u8) -> Taken {
        let limit = self.on.ceiling;
        let stage = match self.catch_up(generation, limit) {
            None => return false,
            Some(Ran::Next(_)) => return true,
            Some(Ran::Done(Ok(_))) => {
                self.saw(Witness::ExactInterrupt);
                if !self.on.is_broken(Broken::LocalIsReadAgain) {
                    return self.end_flush(of, generation);
                }
                READ_AGAIN
            }
            Some(Ran::Done(Err(_))) => FULL,
        };
        self.set(Work::Flush {
            of,
            stage,
            generation,
        })
    }

    fn end_flush(&mut self, of: u8, generation: u8) -> Taken {
        self.is_now_at(generation);
        self.acknowledge(of)
    }

    // Of both.

    fn context(&mut self) -> &mut Context {
        let cpu = self.cpu();
        &mut cpu.contexts[usize::from(cpu.asid)]
    }

    fn is_now_at(&mut self, generation: u8) {
        self.context().generation = generation;
        self.say(|| format!("is at generation {generation}"));
    }

    fn ring_or_full(&mut self, mm: u8) -> u8 {
        if self.state.mms[usize::from(mm)].has_ring {
            return RING;
        }
        self.saw(Witness::NoRing);
        FULL
    }

    /// One step of the ring's `catch_up()`. [`None`] if the CPU has to wait for its own stores.
    fn catch_up(&mut self, target: u8, limit: usize) -> Option<Ran<Result<usize, Doubt>>> {
        let local = self.context().generation;
        let mm = self.cpu().loaded.mm;
        let ring = self.on.ring();
        let log = self.cpu().work_log;
        let mut ran = ring.catch_up(log.answers(), local, target, limit);
        if let Ran::Next(access) = ran {
            let answer = self.access(mm, access)?;
            self.cpu().work_log.push(answer);
            let log = self.cpu().work_log;
            ran = ring.catch_up(log.answers(), local, target, limit);
        }
        if let Ran::Done(result) = ran {
            self.cpu().work_log = Log::default();
            self.saw_result(target - local, result);
        }
        Some(ran)
    }

    fn saw_result(&mut self, nr_behind: u8, result: Result<usize, Doubt>) {
        match result {
            Ok(_) => self.saw(Witness::CaughtUp(nr_behind)),
            Err(doubt) => {
                self.saw(Witness::of_doubt(doubt));
                self.say(|| format!("doubts: {doubt:?}"));
            }
        }
    }
}
