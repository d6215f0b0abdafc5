// SPDX-License-Identifier: GPL-2.0

//! CPUs with TLBs, and address spaces with page tables and generations: what x86 does (see
//! `arch/x86/mm/tlb.c`), one step at a time.
//!
//! A TLB keeps the translations of an address space while another one is loaded, as with PCID, and
//! drops them only as the generations say. So a missing generation shows, which no emulator
//! without PCID can show.

use super::{
    ids::{Cpu, MmId, Vpn},
    memory::{Memory, Page},
    page_table::{PageTable, Pte},
};
use crate::{mm::range::PageRange, page::PAGE_SHIFT};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Default)]
pub(super) struct Mm {
    pub(super) table: PageTable,
    tlb_gen: u64,
    cpumask: BTreeSet<Cpu>,
    batched: bool,
    /// Someone changed PTEs, and has yet to flush them: `mm_tlb_flush_pending()`.
    flush_is_pending: bool,
}

/// What a CPU has cached of one address space.
#[derive(Clone, Default)]
struct Cached {
    entries: BTreeMap<Vpn, Pte>,
    tlb_gen: u64,
}

#[derive(Clone, Default)]
struct CpuState {
    loaded: MmId,
    is_lazy: bool,
    cached: BTreeMap<MmId, Cached>,
}

impl CpuState {
    fn has(&self, mm: MmId, vpn: Vpn) -> bool {
        let cached = self.cached.get(&mm);
        cached.is_some_and(|cached| cached.entries.contains_key(&vpn))
    }
}

/// How often the machine was asked for what, and what went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rounds: usize,
    pub(super) ipis: usize,
    /// Translations that a CPU had after munmap said that they are gone.
    pub(super) left_by_munmap: usize,
}

pub(super) struct World {
    pub(super) mms: Vec<Mm>,
    cpus: Vec<CpuState>,
    pub(super) memory: Memory,
    /// Pages that the driver is taking back: a fault on one of them waits.
    pub(super) leaving: BTreeSet<Page>,
    pub(super) ceiling_pages: usize,
    /// Whether generations go up. The control of the properties: they must not hold without.
    pub(super) bumps: bool,
    /// Whether CPUs look at the PTE before they write through a translation that is writable and
    /// clean, as the architecture promises.
    pub(super) keeps_promise: bool,
    pub(super) counts: Counts,
}

impl World {
    /// Every CPU runs address space 0.
    pub(super) fn new(nr_cpus: usize, nr_mms: usize, ceiling_pages: usize) -> Self {
        let mut world = Self {
            mms: vec![Mm::default(); nr_mms],
            cpus: vec![CpuState::default(); nr_cpus],
            memory: Memory::default(),
            leaving: BTreeSet::new(),
            ceiling_pages,
            bumps: true,
            keeps_promise: true,
            counts: Counts::default(),
        };
        world.mms[0].cpumask = (0..nr_cpus).collect();
        world
    }

    /// `switch_mm_irqs_off()`: into the mask first, then the generation, then the TLB.
    pub(super) fn switch(&mut self, cpu: Cpu, mm: MmId) {
        self.mms[mm].cpumask.insert(cpu);
        self.cpus[cpu].loaded = mm;
        self.cpus[cpu].is_lazy = false;
        self.catch_up(cpu);
    }

    /// A kernel thread runs: the address space stays loaded, and gets no IPIs.
    pub(super) fn go_lazy(&mut self, cpu: Cpu) {
        self.cpus[cpu].is_lazy = true;
    }

    /// User space runs again. Returns whose.
    pub(super) fn resume(&mut self, cpu: Cpu) -> MmId {
        if std::mem::take(&mut self.cpus[cpu].is_lazy) {
            self.catch_up(cpu);
        }
        self.cpus[cpu].loaded
    }

    /// What `cpu` has in its TLB of `mm`.
    pub(super) fn entries(&mut self, cpu: Cpu, mm: MmId) -> &mut BTreeMap<Vpn, Pte> {
        &mut self.cpus[cpu].cached.entry(mm).or_default().entries
    }

    fn catch_up(&mut self, cpu: Cpu) {
        let mm = self.cpus[cpu].loaded;
        let tlb_gen = self.mms[mm].tlb_gen;
        let cached = self.cpus[cpu].cached.entry(mm).or_default();
        if cached.tlb_gen != tlb_gen {
            *cached = Cached {
                entries: BTreeMap::new(),
                tlb_gen,
            };
        }
    }

    /// The first half of an mprotect of one page: what is in the TLBs stays, for now.
    pub(super) fn begin_mprotect(&mut self, mm: MmId, vpn: Vpn, writable: bool) {
        if !self.mms[mm].table.is_locked {
            self.mms[mm].flush_is_pending = true;
            self.mms[mm].table.set_writable(vpn, writable);
        }
    }

    /// The first half of a munmap of one page: `flush_tlb_batched_pending()`, then the PTE.
    pub(super) fn begin_munmap(&mut self, mm: MmId, vpn: Vpn) {
        if !self.mms[mm].table.is_locked {
            if self.take_batched(mm) {
                self.flush_mm(mm, None);
            }
            let was_mapped = self.mms[mm].table.clear(vpn).is_some();
            self.mms[mm].flush_is_pending |= was_mapped;
        }
    }

    /// Both halves of a munmap. The process may rely on it now.
    pub(super) fn munmap(&mut self, mm: MmId, vpn: Vpn) {
        if !self.mms[mm].table.is_locked {
            self.begin_munmap(mm, vpn);
            self.end_flush(mm);
            let left = |cpu: &&CpuState| cpu.has(mm, vpn) && cpu.loaded == mm && !cpu.is_lazy;
            self.counts.left_by_munmap += self.cpus.iter().filter(left).count();
        }
    }

    /// The second half of an mprotect or a munmap: the flush.
    pub(super) fn end_flush(&mut self, mm: MmId) {
        if self.flush_is_pending(mm) {
            self.flush_mm(mm, None);
            self.mms[mm].flush_is_pending = false;
        }
    }

    pub(super) fn flush_is_pending(&self, mm: MmId) -> bool {
        self.mms[mm].flush_is_pending
    }

    /// How many writes were lost so far.
    pub(super) fn lost_writes(&self) -> usize {
        self.memory.lost()
    }

    /// `inc_mm_tlb_gen()`, then `mm_cpumask()`.
    pub(super) fn add_pending(&mut self, mm: MmId) -> BTreeSet<Cpu> {
        self.mms[mm].tlb_gen += u64::from(self.bumps);
        self.mms[mm].cpumask.clone()
    }

    pub(super) fn note_batched(&mut self, mm: MmId) {
        self.mms[mm].batched = true;
    }

    pub(super) fn take_batched(&mut self, mm: MmId) -> bool {
        std::mem::take(&mut self.mms[mm].batched)
    }

    /// `arch_tlbbatch_flush()`: all of what is loaded, on each CPU of the mask that is not lazy.
    pub(super) fn flush_all(&mut self, mask: &BTreeSet<Cpu>) {
        self.counts.rounds += 1;
        for &cpu in mask {
            if self.cpus[cpu].is_lazy {
                continue;
            }
            self.counts.ipis += 1;
            let mm = self.cpus[cpu].loaded;
            let tlb_gen = self.mms[mm].tlb_gen;
            self.cpus[cpu].cached.insert(
                mm,
                Cached {
                    entries: BTreeMap::new(),
                    tlb_gen,
                },
            );
        }
    }

    /// `flush_tlb_mm_range()`: on each CPU that has the address space loaded and is not lazy.
    pub(super) fn flush_mm(&mut self, mm: MmId, range: Option<PageRange>) {
        self.counts.rounds += 1;
        let mask = self.add_pending(mm);
        let range = range.filter(|r| r.span_pages() <= self.ceiling_pages);
        for cpu in mask {
            if self.cpus[cpu].is_lazy || self.cpus[cpu].loaded != mm {
                continue;
            }
            self.counts.ipis += 1;
            self.flush_local(cpu, mm, range);
        }
    }

    /// `flush_tlb_func()`: partial only if exactly one generation was missed.
    fn flush_local(&mut self, cpu: Cpu, mm: MmId, range: Option<PageRange>) {
        let tlb_gen = self.mms[mm].tlb_gen;
        let cached = self.cpus[cpu].cached.entry(mm).or_default();
        match range {
            Some(range) if cached.tlb_gen + 1 == tlb_gen => {
                cached
                    .entries
                    .retain(|vpn, _| !range.contains(vpn << PAGE_SHIFT));
            }
            _ => cached.entries.clear(),
        }
        cached.tlb_gen = tlb_gen;
    }
}
