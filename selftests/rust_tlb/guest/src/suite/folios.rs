// SPDX-License-Identifier: GPL-2.0

//! Folios, and bundles: several pages that are one entry of a batch. One is mapped around the page that
//! was touched, unmapped as a whole wherever a part of it is mapped, and released as a whole; the
//! accounts stay right. The pages of a bundle are pages of their own, wherever they are in memory.
//!
//! H3 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use anyhow::{ensure, Result};
use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::child::Child;
use crate::cpu;
use crate::device::{
    strategy_name, Device, BATCH_STRATEGIES, DEFERRING_STRATEGIES, REAL_STRATEGIES,
};
use crate::huge_pages::Resident;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE};
use crate::memory_use::MemoryUse;
use crate::numbered::{expect_filled, expect_fresh, fill};
use crate::oracle::Oracle;
use crate::page_holder::PageHolder;
use crate::selection::Selection;
use crate::watcher::Access;
use crate::workers::Shape;

crate::tests! {
    an_order_that_there_is_not_is_refused,
    bundles_are_mapped_by_their_numbers_alone,
    a_fault_maps_what_is_around_it,
    a_fault_stays_in_its_mapping,
    what_is_mapped_stays_as_it_is,
    every_strategy_takes_all_of_it,
    a_batch_takes_it_out_of_all_mappings,
    what_is_left_of_one_is_taken,
    two_phases_go_page_by_page,
    contents_are_saved,
    a_fault_anywhere_in_it_flushes,
    one_that_is_held_is_not_used_again,
    forks_have_it_too,
    tables_go_with_it,
    a_page_of_one_is_all_of_it_where_tables_go,
    thousands_of_cycles_leave_no_trace within 120,
    the_oracle_is_silent within 120,
    no_flush_is_read_every_time within 120,
}

const ORDERS: [u32; 4] = [2, 4, 7, 9];
const BUNDLES: u32 = abi::SETUP_PFNMAP | abi::SETUP_BUNDLES;
const FLAVOURS: [u32; 3] = [0, abi::SETUP_PFNMAP, BUNDLES];

/// An open file with folios of `1 << order` pages, and a mapping of two of them.
fn mapped(flavour: u32, order: u32) -> Result<(Device, Mapping)> {
    let device = device(flavour, order)?;
    let mapping = Mapping::of_tables(&device, 2 << order)?;
    Ok((device, mapping))
}

fn device(flavour: u32, order: u32) -> Result<Device> {
    let device = Device::open()?;
    device.setup_folios(flavour, order)?;
    Ok(device)
}

/// Each kind of mapping, with folios of each order.
fn for_each_kind(test: impl Fn(u32, u32) -> Result<()>) -> Result<()> {
    for flavour in FLAVOURS {
        for order in ORDERS {
            test(flavour, order)
                .map_err(|e| e.context(format!("flavour {flavour}, order {order}")))?;
        }
    }
    Ok(())
}

/// Nothing was lost: the device holds so many pages, and none that somebody else has, too.
fn expect_held(device: &Device, nr: u64) -> Result<()> {
    let counters = device.counters()?;
    ensure!(counters.nr_pages_held == nr, "not {nr}: {counters:?}");
    ensure!(counters.nr_shared == 0, "{counters:?}");
    Ok(())
}

/// As the kernel accounts it: what is mapped by its number is not.
fn expect_resident(mapping: &Mapping, nr: u64) -> Result<()> {
    let found = Resident::of(mapping)?.nr_pages;
    ensure!(found == nr, "{found} pages, not {nr}");
    Ok(())
}

fn an_order_that_there_is_not_is_refused(_: &Options) -> Result<()> {
    for order in [1, 10, 31, 32, u32::MAX] {
        let answer = Device::open()?.setup_folios(0, order);
        ensure!(answer == Err(Errno::INVAL), "order {order}: {answer:?}");
    }
    for reserved in [[1, 0], [0, 1]] {
        let mut setup = abi::Setup {
            folio_order: 2,
            reserved,
            ..Default::default()
        };
        let answer = Device::open()?.call(&mut setup);
        ensure!(answer == Err(Errno::INVAL), "{reserved:?}: {answer:?}");
    }
    let device = device(0, 9)?;
    // As often as one likes, and then no more.
    device.setup_folios(0, 2)?;
    ensure!(device.populate(0, 5)? == 8);
    let answer = device.setup_folios(0, 3);
    ensure!(answer == Err(Errno::BUSY), "{answer:?}");
    Ok(())
}

fn bundles_are_mapped_by_their_numbers_alone(_: &Options) -> Result<()> {
    for (flags, order) in [
        (abi::SETUP_BUNDLES, 2),
        (abi::SETUP_BUNDLES | abi::SETUP_HUGE, 9),
        (BUNDLES | abi::SETUP_HUGE, 9),
        (BUNDLES, 0),
        (BUNDLES, 10),
        (BUNDLES, u32::MAX),
    ] {
        let answer = Device::open()?.setup_folios(flags, order);
        ensure!(
            answer == Err(Errno::INVAL),
            "{flags:#x}, order {order}: {answer:?}"
        );
    }
    // There is no folio of two pages.
    let (device, mapping) = mapped(BUNDLES, 1)?;
    fill(&mapping, 0..4);
    ensure!(device.counters()?.nr_faults == 2);
    let reply = device.unmap(&Selection::run(2, 1), strategy::PRECISE, abi::UNMAP_FREE)?;
    ensure!((reply.nr_pages, reply.nr_ptes) == (2, 2), "{reply:?}");
    expect_fresh(&mapping, 2..4)?;
    expect_filled(&mapping, 0..2)
}

/// As far as the mapping goes, and the page table.
fn a_fault_maps_what_is_around_it(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        let device = device(flavour, order)?;
        // From the middle of the first folio to that of the third; the second one is in two tables, if
        // it is as large as one.
        let mapping = Mapping::aligned_from(&device, nr / 2, 2 * nr, PAGES_PER_TABLE)?;
        mapping.word(1, 0).store(7, Relaxed);
        ensure!(device.counters()?.nr_faults == 1);
        expect_resident(&mapping, if flavour == 0 { nr / 2 } else { 0 })?;
        for page in 0..2 * nr {
            let expected = if page == 1 { 7 } else { 0 };
            let found = mapping.word(page, 0).load(Relaxed);
            ensure!(found == expected, "page {page}: {found}");
        }
        let nr_faults = if nr < PAGES_PER_TABLE { 3 } else { 4 };
        let counters = device.counters()?;
        ensure!(counters.nr_faults == nr_faults, "{counters:?}");
        expect_held(&device, 3 * nr)
    })
}

/// What is beside it in the same page table is somebody else's: here private memory, which is empty.
fn a_fault_stays_in_its_mapping(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        let (device, mapping) = mapped(flavour, order)?;
        fill(&mapping, 0..nr);
        let cut = Mapping::of_tables(&device, nr)?;
        cut.bury_part(0, 1)?;
        cut.bury_part(nr - 1, 1)?;
        expect_filled(&cut, [1])?;
        for page in [0, nr - 1] {
            let found = cut.word(page, 0).load(Relaxed);
            ensure!(found == 0, "page {page}: {found}");
        }
        expect_filled(&cut, 1..nr - 1)?;
        ensure!(device.counters()?.nr_faults == 2);
        expect_held(&device, nr)
    })
}

/// Around it there may be gaps, which are filled up to what is mapped, and no further.
fn what_is_mapped_stays_as_it_is(_: &Options) -> Result<()> {
    let (device, mapping) = mapped(0, 4)?;
    fill(&mapping, 0..16);
    mapping.dont_need_part(2, 4)?;
    mapping.dont_need_part(9, 2)?;
    let before = device.counters()?.nr_faults;
    expect_filled(&mapping, [3])?;
    expect_filled(&mapping, 0..9)?;
    ensure!(device.counters()?.nr_faults == before + 1);
    expect_filled(&mapping, 0..16)?;
    ensure!(device.counters()?.nr_faults == before + 2);
    let reply = device.unmap(&Selection::run(0, 1), strategy::PRECISE, abi::UNMAP_FREE)?;
    ensure!((reply.nr_pages, reply.nr_ptes) == (16, 16), "{reply:?}");
    expect_held(&device, 0)
}

/// Also if one page of it is named, or several.
fn every_strategy_takes_all_of_it(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in REAL_STRATEGIES {
            let (device, mapping) = mapped(flavour, order)?;
            let name = strategy_name(strategy);
            for selection in [
                Selection::run(nr - 1, 1),
                Selection::run(1, 2),
                Selection::scattered(0, nr / 2),
                Selection::run(0, nr),
            ] {
                expect_fresh(&mapping, 0..nr)?;
                fill(&mapping, 0..2 * nr);
                let reply = device.unmap(&selection, strategy, abi::UNMAP_FREE)?;
                ensure!(reply.nr_pages == nr, "{name}: {reply:?}");
                if BATCH_STRATEGIES.contains(&strategy) {
                    ensure!(
                        (reply.nr_ptes, reply.nr_mms) == (nr, 1),
                        "{name}: {reply:?}"
                    );
                    let nr_calls = if strategy == strategy::PAGE { nr } else { 1 };
                    ensure!(reply.nr_flush_calls == nr_calls, "{name}: {reply:?}");
                }
                expect_held(&device, nr)?;
                expect_filled(&mapping, nr..2 * nr)?;
            }
            device.unmap(&Selection::run(0, 2 * nr), strategy, abi::UNMAP_FREE)?;
            expect_held(&device, 0)?;
            expect_resident(&mapping, 0)?;
        }
        Ok(())
    })
}

/// Of those that show the whole, a part, or one page of it; in two page tables, too.
fn a_batch_takes_it_out_of_all_mappings(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in BATCH_STRATEGIES {
            let device = device(flavour, order)?;
            let mappings = [
                Mapping::of_tables(&device, 2 * nr)?,
                Mapping::aligned_from(&device, nr / 2, nr, PAGES_PER_TABLE)?,
                Mapping::aligned_from(&device, nr + 1, 1, PAGES_PER_TABLE)?,
            ];
            let mut nr_ptes = 0;
            for (mapping, first, nr_shown) in [(0, nr, nr), (1, nr / 2, nr / 2), (2, 0, 1)] {
                fill(&mappings[mapping], first..first + nr_shown);
                nr_ptes += nr_shown;
            }
            let reply = device.unmap(&Selection::run(nr + 2, 1), strategy, abi::UNMAP_FREE)?;
            ensure!(
                (reply.nr_pages, reply.nr_ptes) == (nr, nr_ptes),
                "{reply:?}"
            );
            expect_fresh(&mappings[0], nr..2 * nr)?;
            expect_fresh(&mappings[1], nr / 2..nr)?;
            expect_fresh(&mappings[2], [0])?;
            // The first one was touched by nobody, if it was not mapped around.
            device.unmap(&Selection::run(0, 2 * nr), strategy, abi::UNMAP_FREE)?;
            expect_held(&device, 0)?;
        }
        Ok(())
    })
}

/// Has the kernel unmap the first page, if it does that: not what is mapped by its number. Returns how
/// many it unmapped.
fn drop_one(flavour: u32, mapping: &Mapping) -> Result<u64> {
    if flavour & abi::SETUP_PFNMAP != 0 {
        return Ok(0);
    }
    mapping.dont_need_part(0, 1)?;
    Ok(1)
}

/// After a part of it was unmapped by others, or protected.
fn what_is_left_of_one_is_taken(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in BATCH_STRATEGIES {
            let (device, mapping) = mapped(flavour, order)?;
            fill(&mapping, 0..2 * nr);
            let nr_gone = drop_one(flavour, &mapping)?;
            mapping.protect_part(nr - 1, 2, MprotectFlags::READ)?;
            mapping.bury_part(nr - 2, 1)?;
            let reply = device.unmap(&Selection::run(0, 1), strategy, abi::UNMAP_FREE)?;
            ensure!(
                (reply.nr_pages, reply.nr_ptes) == (nr, nr - 1 - nr_gone),
                "{reply:?}"
            );
            expect_fresh(&mapping, (0..nr).filter(|page| *page != nr - 2))?;
            expect_filled(&mapping, nr..2 * nr)?;
            device.unmap(&Selection::run(0, 2 * nr), strategy, abi::UNMAP_FREE)?;
            expect_held(&device, 0)?;
        }
        Ok(())
    })
}

/// Those that were written to go at once, and the clean ones in the second phase.
fn two_phases_go_page_by_page(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in BATCH_STRATEGIES {
            let (device, mapping) = mapped(flavour, order)?;
            // The others are mapped clean.
            fill(&mapping, [0, 1]);
            let reply = device.unmap(&Selection::run(0, 1), strategy, abi::UNMAP_TWO_PHASE)?;
            let found = (reply.nr_ptes, reply.nr_protected, reply.nr_redirtied);
            ensure!(found == (nr, nr - 2, 0), "{reply:?}");
            expect_fresh(&mapping, 0..nr)?;
        }
        Ok(())
    })
}

fn contents_are_saved(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in BATCH_STRATEGIES {
            let (device, mapping) = mapped(flavour, order)?;
            fill(&mapping, 0..2 * nr);
            let flags = abi::UNMAP_WRITE_BACK | abi::UNMAP_FREE;
            let reply = device.unmap(&Selection::run(nr / 2, nr), strategy, flags)?;
            // Both of them.
            ensure!(reply.nr_pages == 2 * nr, "{reply:?}");
            ensure!(reply.nr_written_back == 2 * nr, "{reply:?}");
            expect_filled(&mapping, 0..2 * nr)?;
            expect_held(&device, 2 * nr)?;
        }
        Ok(())
    })
}

/// H3, for any of its pages: what is owed is the flush of all of it.
fn a_fault_anywhere_in_it_flushes(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in DEFERRING_STRATEGIES {
            let (device, mapping) = mapped(flavour, order)?;
            fill(&mapping, 0..2 * nr);
            let reply = device.unmap(&Selection::run(0, 1), strategy, abi::UNMAP_DEFER)?;
            ensure!(reply.nr_flush_calls == 0, "{reply:?}");
            ensure!(device.counters()?.nr_pending == nr);
            expect_filled(&mapping, [nr])?;
            ensure!(device.counters()?.nr_pending_hits == 0);
            // A new mapping, since this CPU too may still use the old translation.
            let again = Mapping::of_tables(&device, nr)?;
            expect_fresh(&again, [nr - 1])?;
            let counters = device.counters()?;
            let found = (counters.nr_pending, counters.nr_pending_hits);
            ensure!(found == (0, 1), "{counters:?}");
        }
        Ok(())
    })
}

/// By one page of it.
fn one_that_is_held_is_not_used_again(_: &Options) -> Result<()> {
    for order in ORDERS {
        let nr = 1 << order;
        let (device, mapping) = mapped(0, order)?;
        fill(&mapping, 0..2 * nr);
        let holder = PageHolder::take(&Mapping::new(&device, 1, 1)?)?;
        device.unmap(&Selection::run(0, 2 * nr), strategy::BROADCAST, 0)?;
        let counters = device.counters()?;
        ensure!(counters.nr_shared == nr, "{counters:?}");
        ensure!(counters.nr_recycled == nr, "{counters:?}");
        drop(holder);
    }
    Ok(())
}

/// By reference, or by its numbers.
fn forks_have_it_too(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        let nr = 1 << order;
        for strategy in BATCH_STRATEGIES {
            let (device, mapping) = mapped(flavour, order)?;
            fill(&mapping, 0..nr);
            let nr_faults = device.counters()?.nr_faults;
            let child = Child::fork(|| {
                expect_filled(&mapping, 0..nr)?;
                ensure!(device.counters()?.nr_faults == nr_faults);
                let reply = device.unmap(&Selection::run(1, 1), strategy, 0)?;
                let found = (reply.nr_ptes, reply.nr_mms);
                ensure!(found == (2 * nr, 2), "{reply:?}");
                expect_fresh(&mapping, 0..nr)
            })?;
            child.join()?;
            expect_fresh(&mapping, 0..nr)?;
        }
        Ok(())
    })
}

/// As everywhere: none is left behind, in a table that would never be empty.
fn a_page_of_one_is_all_of_it_where_tables_go(_: &Options) -> Result<()> {
    for_each_kind(|flavour, order| {
        for strategy in REAL_STRATEGIES {
            let name = strategy_name(strategy);
            let (device, mapping) = mapped(flavour | abi::SETUP_FREE_TABLES, order)?;
            fill(&mapping, 0..1 << order);
            let reply = device.unmap(&Selection::run(1, 1), strategy, abi::UNMAP_FREE)?;
            ensure!(reply.nr_pages == 1 << order, "{name}: {reply:?}");
            expect_held(&device, 0).map_err(|e| e.context(name))?;
            expect_fresh(&mapping, 0..1 << order).map_err(|e| e.context(name))?;
        }
        Ok(())
    })
}

/// Page tables that it leaves empty, if it is in two.
fn tables_go_with_it(_: &Options) -> Result<()> {
    for flavour in FLAVOURS {
        for strategy in BATCH_STRATEGIES {
            let nr = PAGES_PER_TABLE;
            let device = device(flavour | abi::SETUP_FREE_TABLES, 9)?;
            let mapping = Mapping::aligned_from(&device, nr / 2, 2 * nr, PAGES_PER_TABLE)?;
            fill(&mapping, nr / 2..nr + nr / 2);
            let reply = device.unmap(&Selection::run(nr, 1), strategy, abi::UNMAP_FREE)?;
            ensure!((reply.nr_pages, reply.nr_ptes) == (nr, nr), "{reply:?}");
            let counters = device.counters()?;
            ensure!(counters.nr_tables_freed == 2, "{counters:?}");
            expect_fresh(&mapping, 0..2 * nr)?;
        }
    }
    Ok(())
}

/// What the kernel checks at exit, the log shows.
fn thousands_of_cycles_leave_no_trace(_: &Options) -> Result<()> {
    const NR_CYCLES: u64 = 2000;
    for flavour in FLAVOURS {
        let (device, mapping) = mapped(flavour, 4)?;
        let mut readings = Vec::new();
        for cycle in 0..NR_CYCLES {
            if cycle % (NR_CYCLES / 4) == 0 {
                readings.push(MemoryUse::read()?);
            }
            mapping.word(cycle % 32, 0).store(1, Relaxed);
            if flavour == 0 {
                mapping.dont_need_part(cycle % 16, 1 + cycle % 15)?;
            }
            mapping.word((cycle / 3) % 32, 0).store(1, Relaxed);
            let strategy = REAL_STRATEGIES[cycle as usize % REAL_STRATEGIES.len()];
            let flags = if cycle % 2 == 0 { 0 } else { abi::UNMAP_FREE };
            device.unmap(&Selection::run(cycle % 31, 2), strategy, flags)?;
        }
        crate::memory_use::expect_no_leak(&readings)?;
        ensure!(device.counters()?.nr_shared == 0);
    }
    Ok(())
}

/// Pages that are watched: four folios.
const NR_WATCHED: u64 = 32;
const WATCHED_ORDER: u32 = 3;

fn the_oracle_is_silent(options: &Options) -> Result<()> {
    let workers = cpu::nr_cpus() - 1;
    for flavour in FLAVOURS {
        for strategy in REAL_STRATEGIES {
            let device = device(flavour, WATCHED_ORDER)?;
            let shape = Shape {
                processes: workers,
                threads: 1,
            };
            let oracle = match strategy {
                strategy::PRECISE => {
                    Oracle::of_processes(&device, NR_WATCHED, shape, Access::ReadWrite)
                }
                _ => {
                    let mapping = Arc::new(device.map(NR_WATCHED)?);
                    Oracle::of_threads(&mapping, workers, 0, Access::ReadWrite)
                }
            }?;
            oracle.await_passes(8)?;
            for round in 0..4 * u64::from(options.effort) {
                let selection = Selection::run(8 * (round % 3), 16);
                let reply = oracle.unmap(&device, &selection, strategy, 0)?;
                ensure!(reply.nr_pages == 16, "{reply:?}");
                oracle.await_passes(100)?;
            }
            let report = oracle.finish(&device)?;
            println!("# {} {report:?}", strategy_name(strategy));
            report.expect_silence()?;
        }
    }
    Ok(())
}

/// The control.
fn no_flush_is_read_every_time(_: &Options) -> Result<()> {
    if Device::open()?.strategies(&[strategy::NONE])?.is_empty() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    caught_every_time(10, || {
        let device = device(0, WATCHED_ORDER)?;
        let shape = Shape {
            processes: 1,
            threads: cpu::nr_cpus() - 1,
        };
        let oracle = Oracle::of_processes(&device, NR_WATCHED, shape, Access::Read)?;
        oracle.await_passes(8)?;
        let stillness = oracle.await_residency(&device)?;
        oracle.unmap(&device, &Selection::run(0, NR_WATCHED), strategy::NONE, 0)?;
        oracle.await_passes(150)?;
        let undisturbed = stillness.map_or(Ok(false), |s| s.lasted())?;
        let report = oracle.finish(&device)?;
        let caught = report.nr_stale > 0;
        Ok(Attempt::judge(caught, undisturbed, || {
            format!("{report:?}")
        }))
    })
}
