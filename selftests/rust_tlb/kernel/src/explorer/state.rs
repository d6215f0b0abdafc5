// SPDX-License-Identifier: GPL-2.0

//! A state of the machine: plain bytes, so that it is cheap to copy and to compare.

/// CPUs, at most.
pub(super) const NR_CPUS: usize = 3;
pub(super) const NR_MMS: usize = 2;
pub(super) const NR_ASIDS: usize = 2;
/// Pages of an address space. The last is in the kernel's half, as an LDT is.
pub(super) const NR_PAGES: usize = 4;
/// Page tables of an address space, as places for them.
pub(super) const NR_PLACES: usize = 2;
pub(super) const PAGES_PER_TABLE: usize = NR_PAGES / NR_PLACES;
/// Frames of memory. Each is mapped once: what would be a reuse of one is a use of one that was freed.
pub(super) const NR_FRAMES: usize = 12;
pub(super) const NR_TABLES: usize = 6;
/// Of a ring, at most.
pub(super) const NR_SLOTS: usize = 4;
pub(super) const NR_RUNS: usize = 2;

/// `init_mm`, where an address space's number is meant.
pub(super) const INIT: u8 = 2;
/// `LOADED_MM_SWITCHING`.
pub(super) const SWITCHING: u8 = 3;
/// No page, table, or owner.
pub(super) const NONE: u8 = u8::MAX;

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) cpus: [Cpu; NR_CPUS],
    pub(super) mms: [Mm; NR_MMS],
    pub(super) frames: [Frame; NR_FRAMES],
    pub(super) tables: [Table; NR_TABLES],
    pub(super) nr_frames: u8,
    pub(super) nr_tables: u8,
    /// Page faults, and first writes through a PTE, that may still happen.
    pub(super) faults_left: u8,
    pub(super) writes_left: u8,
    pub(super) shared_flush: SharedFlush,
    /// Who holds the locks of the reverse map.
    pub(super) rmap_locked_by: u8,
}

/// A flush that several share: `kernel::mm::tlb::scope`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct SharedFlush {
    /// CPUs whose pages no flush has been begun for.
    pub(super) owed: u8,
    /// CPUs whose pages are being flushed.
    pub(super) taken: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mm {
    pub(super) generation: u8,
    /// `mm_cpumask()`.
    pub(super) cpumask: u8,
    /// Who holds the page-table lock.
    pub(super) locked_by: u8,
    /// Those who have changed PTEs, or are about to, and have yet to flush: `tlb_flush_pending`.
    pub(super) nr_gathers: u8,
    /// Others owe a flush: `tlb_flush_batched`.
    pub(super) batched: bool,
    /// Pages whose process was told that they are gone: each bit is one.
    pub(super) gone: u8,
    pub(super) tables: [u8; NR_PLACES],
    /// Places where there is no table, but a large page: each bit is one.
    pub(super) leaves: u8,
    pub(super) has_ring: bool,
    pub(super) ring: [Slot; NR_SLOTS],
}

/// Words are numbers here: see `ring::number_of()`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) tag: u8,
    pub(super) runs: [u8; NR_RUNS],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Life {
    #[default]
    Mapped,
    /// Not mapped any more, by this CPU's doing, which has yet to free it.
    Cleared(u8),
    /// Nor is it anybody's, but somebody pins it.
    Released,
    Freed,
}

/// The driver has taken a frame from where its fault handler looks. No CPU's number.
pub(super) const TAKEN: u8 = 1 << 7;

/// A page's frame.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub(super) mm: u8,
    pub(super) page: u8,
    pub(super) life: Life,
    /// The generation that revoked it; 0: none has.
    pub(super) revoked: u8,
    /// CPUs that pin it; and [`TAKEN`].
    pub(super) pins: u8,
    /// What is in its PTE.
    pub(super) writable: bool,
    pub(super) dirty: bool,
    /// Its contents were saved: what is written now is lost.
    pub(super) saved: bool,
}

/// A page table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Table {
    pub(super) mm: u8,
    pub(super) place: u8,
    pub(super) life: Life,
    pub(super) revoked: u8,
    /// CPUs that may still walk it in software: those in RCU sections when its grace period began.
    pub(super) readers: u8,
    pub(super) ptes: [u8; PAGES_PER_TABLE],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Cpu {
    /// `loaded_mm` and `is_lazy`, as others see them.
    pub(super) seen: Loaded,
    /// As this CPU has stored them.
    pub(super) loaded: Loaded,
    /// CR3: whose page tables, and under which PCID.
    pub(super) root: u8,
    pub(super) asid: u8,
    pub(super) contexts: [Context; NR_ASIDS],
    pub(super) next_asid: u8,
    pub(super) cached: [Cached; NR_ASIDS],
    pub(super) stores: Stores,
    /// CPUs whose IPI is under way, or being handled.
    pub(super) asked_by: u8,
    /// What is done with interrupts off.
    pub(super) work: Work,
    pub(super) work_log: Log,
    pub(super) task: Task,
    /// How often the scheduler may still decide here.
    pub(super) decisions_left: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Loaded {
    pub(super) mm: u8,
    pub(super) is_lazy: bool,
}

/// `cpu_tlbstate.ctxs[]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Context {
    pub(super) mm: u8,
    pub(super) generation: u8,
}

/// What a CPU may have cached under a PCID: each bit is a frame or a table.
///
/// A CPU may cache, at any time, whatever it finds on its way from CR3, and may drop it again. No
/// step of the kernel depends on what is cached. So nothing is lost if every state has all that
/// could be cached in it: one translation that must not be there is a fault in each case.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Cached {
    pub(super) frames: [u16; NR_PAGES],
    /// Those of them whose PTE was writable; and dirty, too.
    pub(super) writable: [u16; NR_PAGES],
    pub(super) dirty: [u16; NR_PAGES],
    /// Paging-structure entries.
    pub(super) tables: [u8; NR_PLACES],
    /// Translations of large pages: each bit is a place.
    pub(super) leaves: u8,
}

/// Stores that others do not see yet, in order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Stores {
    pub(super) nr: u8,
    pub(super) stores: [(Place, u8); 4],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Place {
    #[default]
    LoadedMm,
    IsLazy,
    /// Of which address space's ring, and in which slot.
    Tag(u8, u8),
    /// And which run.
    Run(u8, u8, u8),
}

impl Stores {
    pub(super) fn is_empty(&self) -> bool {
        self.nr == 0
    }

    pub(super) fn is_full(&self) -> bool {
        usize::from(self.nr) == self.stores.len()
    }

    pub(super) fn push(&mut self, place: Place, value: u8) {
        self.stores[usize::from(self.nr)] = (place, value);
        self.nr += 1;
    }

    pub(super) fn pop(&mut self) -> (Place, u8) {
        let first = self.stores[0];
        self.stores.rotate_left(1);
        self.nr -= 1;
        self.stores[usize::from(self.nr)] = Default::default();
        first
    }

    /// The latest value that was stored to `place`, if it is still here.
    pub(super) fn latest(&self, place: Place) -> Option<u8> {
        let here = &self.stores[..usize::from(self.nr)];
        let latest = here.iter().rfind(|(to, _)| *to == place);
        latest.map(|(_, value)| *value)
    }
}

/// What a CPU does with interrupts off. A `stage` counts the steps of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Work {
    #[default]
    None,
    /// `switch_mm_irqs_off()` to another address space.
    Switch { to: u8, stage: u8, generation: u8 },
    /// `switch_mm_irqs_off()` back from lazy mode, to what is loaded.
    Return { stage: u8, generation: u8 },
    /// `flush_tlb_func()`, as the CPU `of` asked for.
    Flush { of: u8, stage: u8, generation: u8 },
    /// The same, on a lazy CPU: it goes to `init_mm`.
    Leave { of: u8, stage: u8 },
}

/// What a CPU does as its task.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Task {
    /// At which step of its program.
    pub(super) at: u8,
    /// At which step of that step.
    pub(super) stage: u8,
    /// The last generation that it made, of each address space.
    pub(super) generations: [u8; NR_MMS],
    /// CPUs that it has to ask.
    pub(super) mask: u8,
    /// What it last read.
    pub(super) read: u8,
    pub(super) in_rcu: bool,
    pub(super) log: Log,
}

/// What a function of the ring was answered so far.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Log {
    pub(super) nr: u8,
    pub(super) answers: [u8; 40],
}

impl Default for Log {
    fn default() -> Self {
        Self {
            nr: 0,
            answers: [0; 40],
        }
    }
}

impl Log {
    pub(super) fn push(&mut self, answer: u8) {
        self.answers[usize::from(self.nr)] = answer;
        self.nr += 1;
    }

    pub(super) fn answers(&self) -> &[u8] {
        &self.answers[..usize::from(self.nr)]
    }
}
