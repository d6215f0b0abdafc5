// SPDX-License-Identifier: GPL-2.0

//! An empty PTE is no proof that nobody reaches the page (H2): another CPU has cleared it, and has
//! yet to flush. That moment is held open: the thread that unmaps is stopped between two page tables.

use core::ffi::c_void;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use anyhow::Result;
use rustix::mm::{self, Advice};

use crate::abi::{self, strategy, SETUP_PFNMAP};
use crate::attempts::caught_every_time;
use crate::cpu;
use crate::device::{strategy_name, Device};
use crate::fault_knobs::{self, Turned};
use crate::interruption::{interrupting, Look};
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGE_SIZE};
use crate::page_user::{in_a_process, Fate, PageUser, Use};
use crate::selection::Selection;

crate::tests! {
    an_munmap_of_pages_that_is_not_flushed_is_flushed_for,
    an_munmap_of_pfns_that_is_not_flushed_is_flushed_for,
    a_madvise_that_is_not_flushed_is_flushed_for,
    who_ignores_what_others_owe_is_caught_every_time,
}

/// The pages of several page tables; the first and the last of them.
const NR_PAGES: u64 = 2048;
const FIRST: u64 = 0;
const LAST: u64 = NR_PAGES - 1;
/// What the pages hold.
const OLD: u64 = 0x5a5a_0001;

/// Who has yet to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Munmap,
    DontNeed,
}

impl Other {
    /// Takes the whole mapping out of the page tables.
    fn unmap(self, mapping: &Mapping) -> Result<()> {
        let (start, len): (*mut c_void, _) = (mapping.address(), NR_PAGES as usize * PAGE_SIZE);
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

/// A device whose pages are mapped, clean, and hold [`OLD`]: for dirty ones, the other flushes before
/// it goes on to its next page table.
fn clean(setup: u32) -> Result<(Device, Arc<Mapping>)> {
    let device = Device::open()?;
    device.setup(setup)?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(OLD, Relaxed));
    let all = Selection::run(FIRST, NR_PAGES);
    device.unmap(&all, strategy::BROADCAST, abi::UNMAP_WRITE_BACK)?;
    (0..NR_PAGES).for_each(|page| {
        mapping.word(page, 0).load(Relaxed);
    });
    Ok((device, Arc::new(mapping)))
}

/// Whether the other stands between its first and its last page table.
fn has_begun(device: &Device) -> Result<bool> {
    let is_mapped = |page| -> Result<bool> {
        let bits = device.accessed(page, 1, abi::ACCESSED_READ)?;
        Ok(bits.mapped != 0)
    };
    Ok(!is_mapped(FIRST)? && is_mapped(LAST)?)
}

/// The process: one thread uses the first page, another takes all of them out, and a third one, while
/// that stands still, has the device unmap the first page. Then nobody may use it any more.
fn unmap_what_is_owed(setup: u32, other: Other, strategy: u32) -> Result<Fate> {
    let (device, mapping) = clean(setup)?;
    cpu::pin_driver()?;
    let user = PageUser::start(&mapping, FIRST, Use::Read)?;
    let stillness = user.stillness()?;
    let was_resident = user.is_resident(&device)?;
    let mut fate = Ok(Fate::Untried);
    let look = || {
        fate = has_begun(&device).and_then(|begun| {
            if !begun {
                return Ok(Fate::Untried);
            }
            device.unmap(&Selection::run(FIRST, 1), strategy, 0)?;
            user.fate(was_resident, &stillness)
        });
        match fate {
            Ok(Fate::Untried) => Look::Again,
            _ => Look::Enough,
        }
    };
    interrupting(look, || other.unmap(&mapping))?;
    // Nothing is mapped there any more, or something else.
    core::mem::forget(mapping);
    fate
}

const BATCHES: [u32; 2] = [strategy::BROADCAST, strategy::PRECISE];
/// Of each kind. Few, since the rule that is broken is caught in each of its runs.
const NR_RUNS: u32 = 3;
const NR_BROKEN_RUNS: u32 = 10;

fn is_flushed_for(options: &Options, setup: u32, other: Other) -> Result<()> {
    for strategy in BATCHES {
        println!("# {}", strategy_name(strategy));
        caught_every_time(NR_RUNS * options.effort, || {
            let fate = in_a_process(|| unmap_what_is_owed(setup, other, strategy))?;
            Ok(fate.expect_gone())
        })?;
    }
    Ok(())
}

fn an_munmap_of_pages_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, 0, Other::Munmap)
}

fn an_munmap_of_pfns_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, SETUP_PFNMAP, Other::Munmap)
}

fn a_madvise_that_is_not_flushed_is_flushed_for(options: &Options) -> Result<()> {
    is_flushed_for(options, 0, Other::DontNeed)
}

fn who_ignores_what_others_owe_is_caught_every_time(_: &Options) -> Result<()> {
    if !fault_knobs::are_there() {
        return skip("the kernel was built without CONFIG_RUST_TLB_FAULTS");
    }
    let _ignoring = Turned::to(fault_knobs::IGNORE_PENDING, 1)?;
    for (setup, other) in [
        (0, Other::Munmap),
        (0, Other::DontNeed),
        (SETUP_PFNMAP, Other::Munmap),
    ] {
        println!("# {setup} {other:?}");
        caught_every_time(NR_BROKEN_RUNS, || {
            let body = || unmap_what_is_owed(setup, other, strategy::BROADCAST);
            Ok(in_a_process(body)?.expect_used())
        })?;
    }
    Ok(())
}
