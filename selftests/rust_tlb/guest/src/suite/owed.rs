// SPDX-License-Identifier: GPL-2.0

//! An empty PTE is no proof that nobody reaches the page (H2): another CPU has cleared it, and has
//! yet to flush. That moment is held open: the thread that unmaps is stopped between two page tables.
//!
//! H2 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::ffi::c_void;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use anyhow::Result;
use rustix::mm::{self, Advice};

use crate::abi::{self, strategy, SETUP_BUNDLES, SETUP_PFNMAP};
use crate::attempts::caught_every_time;
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::fault_knobs::{self, Turned};
use crate::interruption::{interrupting, Look};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};
use crate::page_user::{in_a_process, Fate, PageUser, Use};
use crate::selection::Selection;

crate::tests! {
    an_munmap_of_pages_that_is_not_flushed_is_flushed_for,
    an_munmap_of_pfns_that_is_not_flushed_is_flushed_for,
    a_madvise_that_is_not_flushed_is_flushed_for,
    a_page_of_a_folio_that_is_not_flushed_is_flushed_for,
    a_folio_of_pfns_that_is_not_flushed_is_flushed_for,
    who_ignores_what_others_owe_is_caught_every_time,
}

/// The pages of two page tables, and the last of them.
const NR_PAGES: u64 = 1024;
const LAST: u64 = NR_PAGES - 1;
/// The last of the first page table, and of a folio that is in no other.
const END_OF_TABLE: u64 = PAGES_PER_TABLE - 1;
/// What the pages hold.
const OLD: u64 = 0x5a5a_0001;

/// Who has yet to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Munmap,
    DontNeed,
}

impl Other {
    /// Takes the mapping out of the page tables, from page `first` on.
    fn unmap(self, mapping: &Mapping, first: u64) -> Result<()> {
        let start: *mut c_void = mapping
            .address()
            .wrapping_byte_add(first as usize * PAGE_SIZE);
        let len = (NR_PAGES - first) as usize * PAGE_SIZE;
        // SAFETY: The pages are those of the device, in a process that exists for this test alone:
        // whoever uses them afterwards is expected to fault.
        unsafe {
            match self {
                Self::Munmap => mm::munmap(start, len)?,
                Self::DontNeed => mm::madvise(start, len, Advice::LinuxDontNeed)?,
            }
        }
        Ok(())
    }
}

/// What is taken out by two.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// `SETUP_*`.
    setup: u32,
    /// In folios of so many pages, as a power of two.
    folio_order: u32,
    other: Other,
    /// The page from which on the other takes out all, and whose folio the batch takes out.
    first: u64,
}

impl Case {
    const fn new(setup: u32, other: Other) -> Self {
        Self {
            setup,
            folio_order: 0,
            other,
            first: 0,
        }
    }

    const fn of_folios(self, first: u64) -> Self {
        Self {
            folio_order: 2,
            first,
            ..self
        }
    }
}

/// A device whose pages are mapped, clean, and hold [`OLD`]: for dirty ones, the other flushes before
/// it goes on to its next page table.
fn clean(case: Case) -> Result<(Device, Arc<Mapping>)> {
    let device = Device::open()?;
    device.setup_folios(case.setup, case.folio_order)?;
    let mapping = Mapping::of_tables(&device, NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Relaxed));
    let all = Selection::run(0, NR_PAGES);
    device.unmap(&all, strategy::BROADCAST, abi::UNMAP_WRITE_BACK)?;
    (0..NR_PAGES).for_each(|page| {
        mapping.word(page, 0).load(Relaxed);
    });
    Ok((device, Arc::new(mapping)))
}

/// Whether the other stands between its first and its last page table.
fn has_begun(device: &Device, first: u64) -> Result<bool> {
    let is_mapped = |page| -> Result<bool> {
        let bits = device.accessed(page, 1, abi::ACCESSED_READ)?;
        Ok(bits.mapped != 0)
    };
    Ok(!is_mapped(first)? && is_mapped(LAST)?)
}

/// The process: one thread uses the first page of those that another one takes out, and a third one,
/// while that stands still, has the device unmap the first page. Then nobody may use it any more.
fn unmap_what_is_owed(case: Case, strategy: u32) -> Result<Fate> {
    let (device, mapping) = clean(case)?;
    let Case { other, first, .. } = case;
    cpu::pin_driver()?;
    let user = PageUser::start(&mapping, first, Use::Read)?;
    let stillness = user.stillness()?;
    let was_resident = user.is_resident(&device)?;
    let mut fate = Ok(Fate::Untried);
    let look = || {
        fate = has_begun(&device, first).and_then(|begun| {
            if !begun {
                return Ok(Fate::Untried);
            }
            device.unmap(&Selection::run(first, 1), strategy, 0)?;
            user.fate(was_resident, &stillness)
        });
        match fate {
            Ok(Fate::Untried) => Look::Again,
            _ => Look::Enough,
        }
    };
    interrupting(look, || other.unmap(&mapping, first))?;
    // Nothing is mapped there any more, or something else.
    core::mem::forget(mapping);
    fate
}

const BATCHES: [u32; 2] = [strategy::BROADCAST, strategy::PRECISE];
/// Of each kind. Few, since the rule that is broken is caught in each of its runs.
const NR_RUNS: u32 = 3;
const NR_BROKEN_RUNS: u32 = 10;

fn is_flushed_for(options: &Options, case: Case) -> Result<()> {
    for strategy in BATCHES {
        println!("# {}", strategy_name(strategy));
        caught_every_time(NR_RUNS * options.effort, || {
            let fate = in_a_process(|| unmap_what_is_owed(case, strategy))?;
            Ok(fate.expect_gone())
        })?;
    }
    Ok(())
}

const MUNMAP: Case = Case::new(0, Other::Munmap);
const MUNMAP_OF_PFNS: Case = Case::new(SETUP_PFNMAP, Other::Munmap);
const DONT_NEED: Case = Case::new(0, Other::DontNeed);
/// Of the folio three pages are there, and the last one is not.
const END_OF_A_FOLIO: Case = DONT_NEED.of_folios(END_OF_TABLE);
/// Of the bundle none is.
const BUNDLE: Case = Case::new(SETUP_PFNMAP | SETUP_BUNDLES, Other::Munmap).of_folios(0);

fn an_munmap_of_pages_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, MUNMAP)
}

fn an_munmap_of_pfns_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, MUNMAP_OF_PFNS)
}

fn a_madvise_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, DONT_NEED)
}

fn a_page_of_a_folio_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, END_OF_A_FOLIO)
}

fn a_folio_of_pfns_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, MUNMAP_OF_PFNS.of_folios(0))?;
    is_flushed_for(options, BUNDLE)
}

fn who_ignores_what_others_owe_is_caught_every_time(_: &Options) -> Result<()> {
    if !fault_knobs::are_there() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    let _ignoring = Turned::to(fault_knobs::IGNORE_PENDING, 1)?;
    // The batch flushes for the rest of the folio: everything, if it is a broadcast.
    for (case, strategy) in [
        (MUNMAP, strategy::BROADCAST),
        (DONT_NEED, strategy::BROADCAST),
        (MUNMAP_OF_PFNS, strategy::BROADCAST),
        (END_OF_A_FOLIO, strategy::PRECISE),
        (BUNDLE, strategy::BROADCAST),
    ] {
        println!("# {case:?}");
        caught_every_time(NR_BROKEN_RUNS, || {
            let body = || unmap_what_is_owed(case, strategy);
            Ok(in_a_process(body)?.expect_used())
        })?;
    }
    Ok(())
}
