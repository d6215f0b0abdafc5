// SPDX-License-Identifier: GPL-2.0

//! Leaves of folios, in mappings of pages with references: the kernel accounts them, and whoever takes
//! one out has to undo that.

use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use super::{all, expect_filled, expect_fresh, expect_leaves, fill, whole};
use crate::abi::{self, strategy};
use crate::child::Child;
use crate::cpu;
use crate::device::{
    strategy_name, Device, BATCH_STRATEGIES, DEFERRING_STRATEGIES, REAL_STRATEGIES,
};
use crate::huge_pages::{Resident, Setting};
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::memory_use::MemoryUse;
use crate::oracle::Oracle;
use crate::page_holder::PageHolder;
use crate::selection::Selection;
use crate::watcher::Access;

/// Pages by which the accounts of this process change by themselves: code that is used for the first
/// time. A leaf that is not accounted right is twice as many.
const NOISE_PAGES: i64 = PAGES_PER_TABLE as i64 / 2;

/// An open file of folios of 2 MiB whose mappings may have leaves, with other flags of `SETUP`.
fn device(setup: u32) -> Result<Device> {
    let device = Device::open()?;
    device.setup_folios(abi::SETUP_HUGE | setup, abi::SETUP_MAX_FOLIO_ORDER)?;
    Ok(device)
}

/// A device, and a mapping of so many leaves, of which none is there yet.
fn mapped(nr_leaves: u64) -> Result<(Device, Mapping)> {
    let device = device(0)?;
    let mapping = Mapping::of_tables(&device, nr_leaves * PAGES_PER_TABLE)?;
    mapping.want_huge(true)?;
    Ok((device, mapping))
}

/// Of `mapping`, so many leaves are mapped, and nothing else.
fn expect_resident(mapping: &Mapping, nr_leaves: u64) -> Result<()> {
    let nr_pages = nr_leaves * PAGES_PER_TABLE;
    let (found, nr_by_leaves) = (Resident::of(mapping)?, nr_pages);
    let expected = Resident {
        nr_pages,
        nr_by_leaves,
    };
    ensure!(found == expected, "not {nr_leaves} leaves: {found:?}");
    Ok(())
}

/// Nothing of the device's is left, nor has anybody else a reference to what was.
fn expect_all_freed(device: &Device) -> Result<()> {
    let counters = device.counters()?;
    let found = (counters.nr_pages_held, counters.nr_shared);
    ensure!(found == (0, 0), "{counters:?}");
    Ok(())
}

/// One fault maps all of it, which counts as so many pages.
pub fn a_fault_maps_a_folio(_: &Options) -> Result<()> {
    const NR: u64 = 4;
    let (device, mapping) = mapped(NR)?;
    expect_resident(&mapping, 0)?;
    let before = MemoryUse::read()?;
    for nr in 0..NR {
        fill(&mapping, [nr * PAGES_PER_TABLE + 7]);
        expect_resident(&mapping, nr + 1)?;
    }
    let grown = MemoryUse::read()?.file_rss - before.file_rss;
    let expected = (NR * PAGES_PER_TABLE) as i64;
    ensure!(
        (grown - expected).abs() <= NOISE_PAGES,
        "{grown} pages, not {expected}"
    );
    fill(&mapping, 0..NR * PAGES_PER_TABLE);
    expect_filled(&mapping, 0..NR * PAGES_PER_TABLE)?;
    expect_leaves(&device, NR)?;
    let counters = device.counters()?;
    let found = (counters.nr_faults, counters.nr_pages_held);
    ensure!(found == (0, NR * PAGES_PER_TABLE), "{counters:?}");
    Ok(())
}

/// Nothing of it is accounted then, and it is taken out like any other.
pub fn a_folio_is_mapped_by_frame_numbers_too(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        let device = device(abi::SETUP_PFNMAP)?;
        let mapping = Mapping::of_tables(&device, 2 * PAGES_PER_TABLE)?;
        fill(&mapping, 0..2 * PAGES_PER_TABLE);
        expect_leaves(&device, 2)?;
        expect_resident(&mapping, 0)?;
        let one = Selection::run(PAGES_PER_TABLE + 3, 1);
        let reply = device.unmap(&one, strategy, abi::UNMAP_FREE)?;
        let found = (reply.nr_pages, reply.nr_ptes, reply.nr_flush_calls);
        ensure!(found == (PAGES_PER_TABLE, 1, 1), "{reply:?}");
        expect_filled(&mapping, whole())?;
        expect_fresh(&mapping, PAGES_PER_TABLE..2 * PAGES_PER_TABLE)?;
        expect_leaves(&device, 3)?;
        let both = Selection::run(0, 2 * PAGES_PER_TABLE);
        device.unmap(&both, strategy, abi::UNMAP_FREE)?;
        expect_all_freed(&device)?;
    }
    Ok(())
}

/// The kernel's setting is for mappings of pages with references, and not for those of frame numbers.
pub fn the_switch_decides(_: &Options) -> Result<()> {
    for (switch, wanted, flags, is_leaf) in [
        ("always", None, 0, true),
        ("always", Some(false), 0, false),
        ("madvise", None, 0, false),
        ("madvise", Some(true), 0, true),
        ("never", Some(true), 0, false),
        ("never", None, abi::SETUP_PFNMAP, true),
    ] {
        let _setting = Setting::set("enabled", switch)?;
        let device = device(flags)?;
        let mapping = Mapping::of_tables(&device, PAGES_PER_TABLE)?;
        if let Some(wanted) = wanted {
            mapping.want_huge(wanted)?;
        }
        fill(&mapping, whole());
        expect_filled(&mapping, whole())?;
        let nr_leaves = device.counters()?.nr_huge_faults;
        ensure!(
            nr_leaves == u64::from(is_leaf),
            "{switch}, wanted: {wanted:?}, {flags:#x}: {nr_leaves} leaves"
        );
        device.unmap(&all(), strategy::BROADCAST, abi::UNMAP_FREE)?;
        expect_all_freed(&device)?;
    }
    Ok(())
}

/// Of folios that are smaller there is no leaf.
pub fn a_setup_that_makes_no_leaf_is_refused(_: &Options) -> Result<()> {
    const HUGE: u32 = abi::SETUP_HUGE;
    for (flags, folio_order) in [
        (HUGE, 0),
        (HUGE, 4),
        (HUGE, 8),
        (HUGE | abi::SETUP_PFNMAP, 4),
        (HUGE | abi::SETUP_NOTIFY, 9),
        (HUGE | abi::SETUP_NOTIFY | abi::SETUP_PFNMAP, 9),
    ] {
        let answer = Device::open()?.setup_folios(flags, folio_order);
        ensure!(
            answer == Err(Errno::INVAL),
            "flags {flags:#x}, order {folio_order}: {answer:?}"
        );
    }
    Ok(())
}

/// Afterwards there is nothing, in no account, and another one is mapped as a whole. For a batch it is
/// one entry, and one flush, whichever of its pages is named.
pub fn every_strategy_takes_a_folio(_: &Options) -> Result<()> {
    let before = MemoryUse::read()?;
    for strategy in REAL_STRATEGIES {
        let name = strategy_name(strategy);
        let (device, mapping) = mapped(1)?;
        for (round, pages) in [(1, all()), (2, Selection::run(5, 1)), (3, all())] {
            expect_fresh(&mapping, whole())?;
            fill(&mapping, whole());
            expect_leaves(&device, round)?;
            expect_resident(&mapping, 1)?;
            let reply = device.unmap(&pages, strategy, abi::UNMAP_FREE)?;
            ensure!(reply.nr_pages == PAGES_PER_TABLE, "{name}: {reply:?}");
            if BATCH_STRATEGIES.contains(&strategy) {
                let found = (reply.nr_ptes, reply.nr_mms, reply.nr_flush_calls);
                ensure!(found == (1, 1, 1), "{name}: {reply:?}");
            }
            expect_resident(&mapping, 0).context(name)?;
            expect_all_freed(&device).context(name)?;
        }
    }
    let after = MemoryUse::read()?;
    println!("# {before:?}\n# {after:?}");
    let kept = after.file_rss - before.file_rss;
    ensure!(
        kept.abs() <= NOISE_PAGES,
        "{kept} pages are still accounted"
    );
    // One of them would be all that a leaf maps.
    let mapped = after.mapped - before.mapped;
    ensure!(
        mapped < PAGES_PER_TABLE as i64,
        "{mapped} pages count as mapped"
    );
    Ok(())
}

/// Each process maps it by a fault of its own, and a batch takes it out of all.
pub fn a_fork_leaves_a_folio_behind(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        fill(&mapping, whole());
        Child::fork(|| {
            expect_resident(&mapping, 0)?;
            expect_filled(&mapping, whole())?;
            expect_resident(&mapping, 1)?;
            expect_leaves(&device, 2)?;
            let reply = device.unmap(&all(), strategy, abi::UNMAP_FREE)?;
            let found = (reply.nr_pages, reply.nr_ptes, reply.nr_mms);
            ensure!(found == (PAGES_PER_TABLE, 2, 2), "{reply:?}");
            expect_resident(&mapping, 0)?;
            expect_all_freed(&device)?;
            expect_fresh(&mapping, whole())
        })?
        .join()?;
        expect_resident(&mapping, 0)?;
        expect_fresh(&mapping, whole())?;
        expect_leaves(&device, 4)?;
    }
    Ok(())
}

/// With a leaf that was written to, the flush comes first; of two phases the first takes it.
pub fn contents_of_a_folio_are_saved(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        for flags in [0, abi::UNMAP_TWO_PHASE] {
            let (device, mapping) = mapped(1)?;
            fill(&mapping, whole());
            let flags = abi::UNMAP_WRITE_BACK | flags;
            let reply = device.unmap(&Selection::run(3, 9), strategy, flags)?;
            let found = (reply.nr_ptes, reply.nr_protected, reply.nr_flush_calls);
            ensure!(found == (1, 0, 1), "{reply:?}");
            expect_resident(&mapping, 0)?;
            expect_filled(&mapping, whole())?;
            expect_leaves(&device, 2)?;
            let counters = device.counters()?;
            ensure!(counters.nr_shared == 0, "{counters:?}");
        }
    }
    Ok(())
}

/// By one page of it, to which somebody came by way of the leaf.
pub fn a_folio_that_is_held_is_not_used_again(_: &Options) -> Result<()> {
    for strategy in BATCH_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        fill(&mapping, whole());
        let holder = PageHolder::take(&mapping)?;
        expect_leaves(&device, 1)?;
        expect_resident(&mapping, 1)?;
        device.unmap(&all(), strategy, 0)?;
        let counters = device.counters()?;
        let found = (counters.nr_shared, counters.nr_recycled);
        ensure!(found == (PAGES_PER_TABLE, 0), "{counters:?}");
        expect_fresh(&mapping, whole())?;
        drop(holder);
    }
    Ok(())
}

/// What takes a part of a leaf, or leaves it in parts.
type Split = fn(&Device, &mut Mapping) -> Result<()>;

const SPLITS: [(&str, Split); 6] = [
    ("munmap", |_, mapping| Ok(mapping.bury_part(0, 9)?)),
    ("MADV_DONTNEED", |_, mapping| {
        Ok(mapping.dont_need_part(100, 1)?)
    }),
    ("mprotect", |_, mapping| {
        Ok(mapping.protect_part(0, 9, MprotectFlags::READ)?)
    }),
    ("mremap", |_, mapping| {
        Ok(mapping.relocate_askew(PAGES_PER_TABLE)?)
    }),
    ("a write to what was read-only", |_, mapping| {
        mapping.protect(MprotectFlags::READ)?;
        mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
        fill(mapping, [0]);
        Ok(())
    }),
    ("a move by the device", |device, mapping| {
        let new = Mapping::of_tables(device, PAGES_PER_TABLE)?;
        // Both have to be protected alike, and that is among it.
        new.want_huge(true)?;
        let reply = device.move_part(mapping, &new, 7, 9, 0)?;
        ensure!(reply.nr_ptes == 0, "{reply:?}");
        Ok(())
    }),
];

/// The kernel unmaps all of it then, and has to undo what it accounted for it: the process's count, that
/// the folio is mapped, and its reference.
pub fn a_split_gives_back_what_was_accounted(_: &Options) -> Result<()> {
    for (name, split) in SPLITS {
        // In a new process: at its end the kernel looks at the accounts itself, and complains.
        Child::fork(|| expect_given_back(split).context(name))?.join()?;
    }
    Ok(())
}

fn expect_given_back(split: Split) -> Result<()> {
    let (device, mut mapping) = mapped(1)?;
    // Brings in the code.
    let _ = (MemoryUse::read()?, Resident::of(&mapping)?);
    let before = MemoryUse::read()?;
    fill(&mapping, whole());
    expect_leaves(&device, 1)?;
    expect_resident(&mapping, 1)?;
    split(&device, &mut mapping)?;
    let accounted = MemoryUse::read()?.file_rss - before.file_rss;
    let left = Resident::of(&mapping)?.nr_pages as i64;
    ensure!(
        (accounted - left).abs() <= NOISE_PAGES,
        "{left} pages are mapped, {accounted} are accounted"
    );
    let reply = device.unmap(&all(), strategy::BROADCAST, abi::UNMAP_FREE)?;
    ensure!(reply.nr_pages == PAGES_PER_TABLE, "{reply:?}");
    expect_resident(&mapping, 0)?;
    expect_all_freed(&device)
}

/// To where it fits, and to other protections, as a whole: it stays one.
pub fn a_mapping_of_folios_may_move(_: &Options) -> Result<()> {
    let (device, mut mapping) = mapped(2)?;
    fill(&mapping, 0..2 * PAGES_PER_TABLE);
    mapping.relocate_aligned(PAGES_PER_TABLE)?;
    expect_resident(&mapping, 2)?;
    expect_filled(&mapping, 0..2 * PAGES_PER_TABLE)?;
    mapping.protect(MprotectFlags::READ)?;
    expect_resident(&mapping, 2)?;
    expect_filled(&mapping, 0..2 * PAGES_PER_TABLE)?;
    mapping.dont_need_part(0, PAGES_PER_TABLE)?;
    expect_resident(&mapping, 1)?;
    expect_filled(&mapping, 0..2 * PAGES_PER_TABLE)?;
    expect_leaves(&device, 3)?;
    let both = Selection::run(0, 2 * PAGES_PER_TABLE);
    let reply = device.unmap(&both, strategy::PRECISE, abi::UNMAP_FREE)?;
    ensure!(reply.nr_ptes == 2, "{reply:?}");
    expect_resident(&mapping, 0)?;
    expect_all_freed(&device)
}

/// As of any leaf, whoever changes mappings finds nothing of it.
pub fn a_deferred_unmap_flushes_a_folio_at_its_end(_: &Options) -> Result<()> {
    for strategy in DEFERRING_STRATEGIES {
        let (device, mapping) = mapped(2)?;
        fill(&mapping, 0..2 * PAGES_PER_TABLE);
        for page in [5, PAGES_PER_TABLE + 5] {
            let one = Selection::run(page, 1);
            let reply = device.unmap(&one, strategy, abi::UNMAP_DEFER)?;
            let found = (reply.nr_pages, reply.nr_ptes, reply.nr_flush_calls);
            ensure!(found == (PAGES_PER_TABLE, 1, 1), "page {page}: {reply:?}");
        }
        let counters = device.counters()?;
        ensure!(counters.nr_pending == 2 * PAGES_PER_TABLE, "{counters:?}");
        let reply = device.flush()?;
        ensure!(reply.nr_pages == 2 * PAGES_PER_TABLE, "{reply:?}");
        expect_resident(&mapping, 0)?;
        expect_fresh(&mapping, [5, PAGES_PER_TABLE + 5])?;
        let counters = device.counters()?;
        ensure!(counters.nr_shared == 0, "{counters:?}");
    }
    Ok(())
}

/// Folios go, and leaves are split by the kernel, while others read and write.
pub fn the_oracle_is_silent_about_folios(options: &Options) -> Result<()> {
    const NR_WATCHED: u64 = 8;
    const NR_PASSES: u64 = 100;
    let watched = Selection::run(0, NR_WATCHED);
    for strategy in DEFERRING_STRATEGIES {
        let (device, mapping) = mapped(1)?;
        let mapping = Arc::new(mapping.only(NR_WATCHED));
        let workers = cpu::nr_cpus() - 1;
        let oracle = Oracle::of_threads(&mapping, workers, 0, Access::ReadWrite)?;
        oracle.await_passes(NR_PASSES)?;
        for round in 0..8 * u64::from(options.effort) {
            let flags = [0, abi::UNMAP_DEFER, abi::UNMAP_FREE][round as usize % 3];
            oracle.unmap(&device, &watched, strategy, flags)?;
            oracle.await_passes(NR_PASSES)?;
            oracle.flush(&device)?;
            // Of what the file holds nothing goes.
            mapping.dont_need_part(NR_WATCHED + round % 100, 1)?;
            oracle.await_passes(NR_PASSES)?;
        }
        let nr_leaves = device.counters()?.nr_huge_faults;
        let report = oracle.finish(&device)?;
        println!(
            "# {}: {nr_leaves} leaves, {report:?}",
            strategy_name(strategy)
        );
        ensure!(nr_leaves > 1, "hardly any leaves");
        report.expect_silence()?;
        let counters = device.counters()?;
        ensure!(counters.nr_shared == 0, "{counters:?}");
    }
    Ok(())
}
