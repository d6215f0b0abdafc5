// SPDX-License-Identifier: GPL-2.0

//! CPUs with TLBs, and address spaces with page tables and generations: what x86 does (see
//! `arch/x86/mm/tlb.c`), one step at a time.
//!
//! A TLB keeps the translations of an address space while another one is loaded, as with PCID, and
//! drops them only as the generations say. So a missing generation shows, which no emulator
//! without PCID can show.

use crate::{mm::tlb::range::PageRange, page::PAGE_SHIFT};
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Cpu = usize;
pub(super) type MmId = usize;
/// A page's number in an address space.
pub(super) type Vpn = usize;
/// A page of memory, never reused, so that a stale translation is one to a frame that was released.
pub(super) type Frame = u64;

#[derive(Clone, Default)]
struct Mm {
    table: BTreeMap<Vpn, Frame>,
    tlb_gen: u64,
    cpumask: BTreeSet<Cpu>,
    batched: bool,
}

/// What a CPU has cached of one address space.
#[derive(Clone, Default)]
struct Cached {
    entries: BTreeMap<Vpn, Frame>,
    tlb_gen: u64,
}

#[derive(Clone, Default)]
struct CpuState {
    loaded: MmId,
    is_lazy: bool,
    cached: BTreeMap<MmId, Cached>,
}

/// How often the machine was asked for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) rounds: usize,
    pub(super) ipis: usize,
}

pub(super) struct World {
    mms: Vec<Mm>,
    cpus: Vec<CpuState>,
    next_frame: Frame,
    pub(super) ceiling_pages: usize,
    /// Whether generations go up. The control of the properties: they must not hold without.
    pub(super) bumps: bool,
    pub(super) counts: Counts,
}

impl World {
    /// Every CPU runs address space 0.
    pub(super) fn new(nr_cpus: usize, nr_mms: usize, ceiling_pages: usize) -> Self {
        let mut world = Self {
            mms: vec![Mm::default(); nr_mms],
            cpus: vec![CpuState::default(); nr_cpus],
            next_frame: 1,
            ceiling_pages,
            bumps: true,
            counts: Counts::default(),
        };
        world.mms[0].cpumask = (0..nr_cpus).collect();
        world
    }

    /// Touches a page: through the TLB if it is there, else by a walk, else by a fault that maps a
    /// fresh frame. Returns the frame.
    pub(super) fn touch(&mut self, cpu: Cpu, vpn: Vpn) -> Frame {
        self.resume(cpu);
        let mm = self.cpus[cpu].loaded;
        let next_frame = &mut self.next_frame;
        let cached = self.cpus[cpu].cached.entry(mm).or_default();
        *cached.entries.entry(vpn).or_insert_with(|| {
            *self.mms[mm].table.entry(vpn).or_insert_with(|| {
                *next_frame += 1;
                *next_frame
            })
        })
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

    fn resume(&mut self, cpu: Cpu) {
        if std::mem::take(&mut self.cpus[cpu].is_lazy) {
            self.catch_up(cpu);
        }
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

    /// Clears a PTE.
    pub(super) fn clear(&mut self, mm: MmId, vpn: Vpn) -> Option<Frame> {
        self.mms[mm].table.remove(&vpn)
    }

    pub(super) fn mapped(&self, mm: MmId, vpn: Vpn) -> Option<Frame> {
        self.mms[mm].table.get(&vpn).copied()
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
