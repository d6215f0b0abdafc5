// SPDX-License-Identifier: GPL-2.0

//! A driver that takes pages back with their contents, as the device does with `UNMAP_WRITE_BACK`,
//! while the CPUs go on. The batch, the phases and the policies are the real ones; the walk over the
//! page tables is the model's.

use super::{
    machine::{Shared, MMS},
    memory::{Frame, Page},
    policies::AnyPolicy,
    world::{Cpu, MmId, Vpn, World},
};
use crate::{
    alloc::GFP_KERNEL,
    mm::tlb::{
        batch::{extend, Batch, Entry, Staging, Stale},
        range::{PageRange, Pending},
        two_phase::Walk,
    },
    page::PAGE_SIZE,
};
use std::collections::BTreeSet;

/// What happens elsewhere.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Read(Cpu, Vpn),
    Write(Cpu, Vpn),
    /// Writes where the CPU needs no walk, stale or not.
    WriteWhatIsCached(Cpu),
    Switch(Cpu, MmId),
    GoLazy(Cpu),
    /// mprotect of a page: read-only, or writable.
    BeginMprotect(MmId, Vpn, bool),
    EndMprotect(MmId),
}

impl Event {
    fn happen(&self, world: &mut World) {
        match *self {
            Event::Read(cpu, vpn) => _ = world.read(cpu, vpn),
            Event::Write(cpu, vpn) => _ = world.write(cpu, vpn),
            Event::WriteWhatIsCached(cpu) => world.write_what_is_cached(cpu),
            Event::Switch(cpu, mm) => world.switch(cpu, mm),
            Event::GoLazy(cpu) => world.go_lazy(cpu),
            Event::BeginMprotect(mm, vpn, writable) => world.begin_mprotect(mm, vpn, writable),
            Event::EndMprotect(mm) => world.end_mprotect(mm),
        }
    }
}

/// What happens elsewhere between one step of the driver and the next, in order.
pub(super) struct Meanwhile<'a> {
    world: &'a Shared,
    events: &'a mut dyn Iterator<Item = Vec<Event>>,
}

impl<'a> Meanwhile<'a> {
    pub(super) fn new(world: &'a Shared, events: &'a mut dyn Iterator<Item = Vec<Event>>) -> Self {
        Self { world, events }
    }

    fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        self.world.with(f)
    }

    fn pass(&mut self) {
        let events = self.events.next().unwrap_or_default();
        self.with(|w| events.iter().for_each(|event| event.happen(w)));
    }
}

/// A page in the batch.
pub(super) struct Taken {
    page: Page,
    frame: Frame,
}

impl Stale for Taken {}

pub(super) type ModelBatch = Batch<Taken, AnyPolicy>;

/// How pages are unmapped before they are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Clear everything. A write through a translation that was clean will fault.
    Cpu,
    /// In two phases. It may not.
    Nobody,
    /// In two phases, by what the PTEs say alone: the negative control.
    Ptes,
}

/// A walk over page tables.
#[derive(Clone, Copy)]
struct Walker {
    /// Write-protects what is writable and clean, instead of clearing it.
    protects: bool,
    /// Takes for clean only what no translation can be writable of.
    doubts: bool,
}

/// Takes the pages `vpns` of each of `mms` back: unmaps them, saves them, releases them.
pub(super) fn take_back(
    mut batch: ModelBatch,
    trust: Trust,
    pages: (&[MmId], &[Vpn]),
    meanwhile: &mut Meanwhile<'_>,
) -> ModelBatch {
    meanwhile.pass();
    unmap(&mut batch, trust, pages, meanwhile);
    for (_, taken) in batch.flush_dirty().entries() {
        meanwhile.pass();
        meanwhile.with(|w| w.memory.save(taken.page, taken.frame));
    }
    meanwhile.pass();
    let mut flushed = batch.flush();
    for (_, taken) in flushed.drain() {
        meanwhile.with(|w| w.leaving.remove(&taken.page));
    }
    flushed.into_empty()
}

fn unmap(
    batch: &mut ModelBatch,
    trust: Trust,
    (mms, vpns): (&[MmId], &[Vpn]),
    meanwhile: &mut Meanwhile<'_>,
) {
    let walker = |protects| Walker {
        protects,
        doubts: trust == Trust::Nobody,
    };
    let staging = stage(batch, meanwhile, mms, vpns);
    meanwhile.pass();
    if trust == Trust::Cpu {
        staging.commit_with(|entries, policy| walker(false).walk(entries, policy, meanwhile));
        return;
    }
    let protected =
        staging.write_protect_with(|entries, policy| walker(true).walk(entries, policy, meanwhile));
    let quiesced = protected.flush();
    meanwhile.pass();
    quiesced.unmap_with(|entries, policy| walker(false).walk(entries, policy, meanwhile));
}

/// Takes what is mapped of the pages out of where the driver's fault handler looks, and stages it.
fn stage<'b>(
    batch: &'b mut ModelBatch,
    meanwhile: &Meanwhile<'_>,
    mms: &[MmId],
    vpns: &[Vpn],
) -> Staging<'b, Taken, AnyPolicy> {
    batch.reserve(mms.len() * vpns.len(), GFP_KERNEL).unwrap();
    let mut staging = batch.stage();
    for page in mms
        .iter()
        .flat_map(|&mm| vpns.iter().map(move |&vpn| (mm, vpn)))
    {
        if let Some(frame) = meanwhile.with(|w| w.mapped(page.0, page.1)) {
            meanwhile.with(|w| w.leaving.insert(page));
            assert!(staging.push(page.1, Taken { page, frame }).is_ok());
        }
    }
    staging
}

impl Walker {
    /// Goes through the page tables of all address spaces that have one of `entries`.
    fn walk(
        self,
        entries: &[Entry<Taken>],
        policy: &mut AnyPolicy,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Walk {
        let pages = || entries.iter().map(|entry| entry.page.page);
        let mms: BTreeSet<MmId> = pages().map(|(mm, _)| mm).collect();
        let mut walk = Walk::default();
        for mm in mms {
            let vpns = pages().filter(|page| page.0 == mm).map(|(_, vpn)| vpn);
            meanwhile.with(|w| w.mms[mm].table.is_locked = true);
            if let Some(pending) = self.walk_table(mm, vpns, policy, &mut walk, meanwhile) {
                policy.record(&MMS[mm], pending);
            }
            meanwhile.with(|w| w.mms[mm].table.is_locked = false);
            meanwhile.pass();
        }
        walk
    }

    /// One page table, under its lock.
    fn walk_table(
        self,
        mm: MmId,
        vpns: impl Iterator<Item = Vpn>,
        policy: &mut AnyPolicy,
        walk: &mut Walk,
        meanwhile: &mut Meanwhile<'_>,
    ) -> Option<Pending> {
        let mut all = None;
        for vpn in vpns {
            if let Some(dirty) = meanwhile.with(|w| self.change(w, (mm, vpn), walk)) {
                let page = PageRange::of_page(vpn * PAGE_SIZE).unwrap();
                policy.cleared(&MMS[mm], page);
                extend(&mut all, Pending::new(page, 1).dirty(dirty));
            }
            meanwhile.pass();
        }
        all
    }

    /// Changes one PTE. Returns whether the page may be written to through what it was.
    fn change(self, world: &mut World, (mm, vpn): Page, walk: &mut Walk) -> Option<bool> {
        let pte = world.mms[mm].table.get(vpn)?;
        if self.protects && pte.writable && !pte.dirty {
            world.mms[mm].table.set_writable(vpn, false);
            walk.nr_protected += 1;
            return Some(false);
        }
        world.clear(mm, vpn);
        let is_unproven = pte.writable || world.flush_is_pending(mm);
        let dirty = pte.dirty || self.doubts && is_unproven;
        walk.nr_cleared += 1;
        walk.nr_dirty += usize::from(dirty);
        Some(dirty)
    }
}
