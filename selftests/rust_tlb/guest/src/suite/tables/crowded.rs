// SPDX-License-Identifier: GPL-2.0

//! The workload that freeing tables is for, in a crowd: a page is used per 2 MiB of a long mapping, all
//! are unmapped over and over, and each table goes, and is made again by the next fault, while others
//! walk them: by GUP-fast, which takes no lock, by process_vm_readv(), and through `/proc`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use rust_tlb_trace::event::Event;

use super::touch;
use crate::abi::{self, strategy, POISON};
use crate::cpu;
use crate::device::{Device, BATCH_STRATEGIES, DEFERRING_STRATEGIES};
use crate::ftrace::Tracing;
use crate::huge_pages::Resident;
use crate::kernel_module::{self, Unloaded};
use crate::kprobe::Kprobe;
use crate::ktap::{skip, Options};
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE};
use crate::oracle::Oracle;
use crate::own_memory;
use crate::page_holder::PageHolder;
use crate::page_tables::{vm_pte_kb, TABLE_KB};
use crate::selection::Selection;
use crate::turns::{await_one_of_each, Turns};
use crate::watcher::Access;

const NR_SLOTS: u64 = 128;
const NR_PAGES: u64 = NR_SLOTS * PAGES_PER_TABLE;
/// Another page in each slot: where a TLB is indexed by the low bits of the page, it holds them all.
const STRIDE: u64 = PAGES_PER_TABLE + 1;
/// Workers of the oracle, with a CPU each: their faults race with the unmaps in all slots.
const NR_WATCHING: usize = 2;
/// How often the table of each slot is freed, at least: in between a fault has made another one.
const NR_TIMES: u64 = 2;
/// Turns of each in the crowd, at least.
const NR_TURNS: u64 = 10;
/// Unmaps between two looks at what became of the tables; then each in the crowd takes a turn.
const NR_UNMAPS: u64 = 10;
/// Looks after which whatever has not come does not come.
const MAX_LOOKS: u64 = 100;
/// The first function with a name of its own in which GUP-fast has found a page.
const GUP_FAST: &str = "try_grab_folio_fast";

pub fn refaults_race_in_every_slot(options: &Options) -> Result<()> {
    in_a_crowd(options, abi::SETUP_FREE_TABLES)
}

pub fn refaults_race_in_every_slot_while_tables_go_later(options: &Options) -> Result<()> {
    let later = abi::SETUP_FREE_TABLES | abi::SETUP_FREE_TABLES_LATER;
    in_a_crowd(options, later)
}

/// The page of each slot.
fn all() -> Selection {
    Selection::Every {
        first: 0,
        nr: NR_SLOTS,
        stride: STRIDE,
    }
}

/// Something that walks all of the page tables once.
type Walk = fn(&Mapping) -> Result<()>;

const CROWD: [(&str, Walk); 4] = [
    ("vmsplice()", hold),
    ("process_vm_readv()", read),
    ("pagemap", look_up),
    ("smaps", account),
];

/// GUP-fast: of what it finds it takes references, for as long as the page is in the pipe.
fn hold(mapping: &Mapping) -> Result<()> {
    let words = PageHolder::take(mapping)?.read(0)?;
    ensure!(!words.contains(&POISON), "a poisoned page is held");
    Ok(())
}

fn read(mapping: &Mapping) -> Result<()> {
    let words = own_memory::read(mapping)?;
    ensure!(!words.contains(&POISON), "a poisoned page was read");
    Ok(())
}

/// Nothing is mapped but what is used.
fn look_up(mapping: &Mapping) -> Result<()> {
    const PRESENT: u64 = 1 << 63;
    let mut entries = vec![0; NR_PAGES as usize * size_of::<u64>()];
    let first = mapping.address().addr() / PAGE_SIZE;
    let pagemap = File::open("/proc/self/pagemap")?;
    pagemap.read_exact_at(&mut entries, (first * size_of::<u64>()) as u64)?;
    for (page, entry) in (0..).zip(entries.chunks_exact(size_of::<u64>())) {
        let is_present = u64::from_ne_bytes(entry.try_into()?) & PRESENT != 0;
        ensure!(!is_present || page % STRIDE == 0, "page {page} is mapped");
    }
    Ok(())
}

fn account(mapping: &Mapping) -> Result<()> {
    let nr_pages = Resident::of(mapping)?.nr_pages;
    ensure!(nr_pages <= NR_SLOTS, "{nr_pages} pages are mapped");
    Ok(())
}

fn in_a_crowd(options: &Options, setup: u32) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip("no module file is known");
    }
    let _again = Unloaded::new()?;
    // The worker comes before all slots are in use again.
    kernel_module::load(&format!("pages_per_device={NR_PAGES} tables_age_ms=1"))??;
    let device = Device::open()?;
    device.setup(setup)?;
    let mapping = Mapping::of_tables(&device, NR_PAGES)?.every(STRIDE);
    let mapping = Arc::new(mapping);
    let race = || race(options, &device, &mapping);
    match Kprobe::new(GUP_FAST)? {
        Some(probe) => {
            let nr_hits = probe.hits_of(race)?;
            println!("# {nr_hits} pages by GUP-fast");
            ensure!(nr_hits > NR_SLOTS, "{nr_hits} pages by GUP-fast");
        }
        None => race()?,
    }
    expect_all_freed(&device, &mapping)
}

fn race(options: &Options, device: &Device, mapping: &Arc<Mapping>) -> Result<()> {
    let oracle = Oracle::of_threads(mapping, NR_WATCHING, 0, Access::ReadWrite)?;
    let turns = CROWD.map(|_| Turns::default());
    let walk_on = |number: usize| {
        let (name, walk) = CROWD[number];
        cpu::pin_beside(NR_WATCHING, number)?;
        while !oracle.ledger().stopped() {
            walk(mapping).context(name)?;
            turns[number].count();
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let walk_on = &walk_on;
        let walks = turns.iter().enumerate();
        let walks = walks.map(|(number, turns)| move || turns.run(|| walk_on(number)));
        let threads: Vec<_> = walks.map(|walk| scope.spawn(walk)).collect();
        let driven = drive(options, device, &oracle, mapping, &turns);
        oracle.stop();
        let join = |thread: ScopedJoinHandle<'_, _>| thread.join().expect("nobody panics");
        let walked: Result<()> = threads.into_iter().try_for_each(join);
        walked.and(driven)
    })?;
    let report = oracle.finish(device)?;
    let nr_turns = turns.map(|turns| turns.nr());
    println!("# {nr_turns:?} turns, {report:?}, {:?}", device.counters()?);
    report.expect_silence()
}

/// Unmaps until each slot has lost its table so often, and each of the crowd has had its turns; or one
/// of them has ended, who says why.
fn drive(
    options: &Options,
    device: &Device,
    oracle: &Oracle,
    mapping: &Mapping,
    turns: &[Turns],
) -> Result<()> {
    let tracing = Tracing::new(&["rust_tlb/rust_tlb_table_take"])?;
    let tracing = tracing.context("the kernel has no events")?;
    let mut rng = options.rng();
    let mut nr_freed = [0; NR_SLOTS as usize];
    let effort = u64::from(options.effort);
    for nr_looks in 1..=MAX_LOOKS * effort {
        await_one_of_each(turns.iter());
        let unmap = || (0..NR_UNMAPS).try_for_each(|_| unmap_all(&mut rng, device, oracle));
        let ((), events) = tracing.record(unmap)?;
        let slots = events.iter().filter_map(|event| freed_slot(event, mapping));
        slots.for_each(|slot| nr_freed[slot] += 1);
        let all_went = nr_freed.iter().all(|&nr| nr >= NR_TIMES * effort);
        let all_walked = turns.iter().all(|turns| turns.nr() >= NR_TURNS * effort);
        if turns.iter().any(Turns::are_over) || all_went && all_walked {
            println!("# {} unmaps, tables: {nr_freed:?}", nr_looks * NR_UNMAPS);
            return Ok(());
        }
    }
    bail!("not enough tables went, or turns were taken: {nr_freed:?}")
}

fn unmap_all(rng: &mut fastrand::Rng, device: &Device, oracle: &Oracle) -> Result<()> {
    let strategy = BATCH_STRATEGIES[rng.usize(..BATCH_STRATEGIES.len())];
    let defer = match DEFERRING_STRATEGIES.contains(&strategy) && rng.bool() {
        true => abi::UNMAP_DEFER,
        false => 0,
    };
    let free = if rng.bool() { abi::UNMAP_FREE } else { 0 };
    oracle.unmap(device, &all(), strategy, defer | free)?;
    if defer != 0 {
        oracle.flush(device)?;
    }
    Ok(())
}

/// The slot whose table was taken out, by the event of it.
fn freed_slot(event: &Event, mapping: &Mapping) -> Option<usize> {
    if event.text("fate") != Some("taken") {
        return None;
    }
    let offset = event
        .address("addr")?
        .checked_sub(mapping.address().addr() as u64)?;
    let slot = offset / (PAGES_PER_TABLE * PAGE_SIZE as u64);
    (slot < NR_SLOTS).then_some(slot as usize)
}

/// When nobody races any more, all tables go with one unmap, and no memory is left that is counted as
/// theirs.
fn expect_all_freed(device: &Device, mapping: &Mapping) -> Result<()> {
    const MAX_WAITS: u32 = 1000;
    let unmap = || device.unmap(&all(), strategy::BROADCAST, 0);
    touch(mapping, mapping.used());
    let with = vm_pte_kb()?;
    let without = with - NR_SLOTS * TABLE_KB;
    unmap()?;
    // The worker comes when it comes.
    for _ in 0..MAX_WAITS {
        if vm_pte_kb()? == without {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let after = vm_pte_kb()?;
    ensure!(after == without, "{after} kB instead of {without}");
    Ok(())
}
