// SPDX-License-Identifier: GPL-2.0

//! What the core does with page tables while the device unmaps: by random strategies, under the
//! eyes of the oracle, a fixed number of times.

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::thread;

use anyhow::{ensure, Result};
use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use crate::abi::{self, POISON};
use crate::child::Child;
use crate::cpu;
use crate::device::{Device, REAL_STRATEGIES};
use crate::ktap::Options;
use crate::mapping::{Mapping, PAGES_PER_TABLE, PAGE_SIZE, WORDS_PER_PAGE};
use crate::oracle::Oracle;
use crate::selection::Selection;
use crate::watcher::{Access, Ledger, Watcher};

crate::tests! {
    munmap,
    mprotect,
    madvise_dontneed,
    mremap,
    fork,
    process_vm_readv,
    everything_at_once,
}

const NR_PAGES: u64 = 8;

/// Members of the oracle that do nothing but watch: the rest of the CPUs is the racers'.
const NR_WATCHING: usize = 2;

/// Unmaps, at least.
const NR_UNMAPS: u64 = 100;

/// Turns of the racer, at least.
const NR_TURNS: u64 = 30;

/// Turns of a racer with the page tables, over and over; what it sees of the pages it judges as
/// the oracle's members do.
pub(super) type Turn = fn(&Ground, &mut Mapping, &mut Watcher<'_>) -> Result<()>;

/// What is raced over.
pub(super) struct Ground {
    device: Device,
    map: fn(&Device) -> Result<Mapping, Errno>,
    /// Each unmap takes all pages.
    takes_all: bool,
}

impl Ground {
    /// A few pages, of which some are unmapped.
    fn pages() -> Result<Self> {
        Ok(Self {
            device: Device::open()?,
            map: |device| device.map(NR_PAGES),
            takes_all: false,
        })
    }

    /// The first pages of a page table, which is freed when all are unmapped.
    pub(super) fn tables() -> Result<Self> {
        let device = Device::open()?;
        device.setup(abi::SETUP_FREE_TABLES)?;
        Ok(Self {
            device,
            map: |device| Ok(Mapping::of_tables(device, PAGES_PER_TABLE)?.only(NR_PAGES)),
            takes_all: true,
        })
    }

    fn map(&self) -> Result<Mapping> {
        Ok((self.map)(&self.device)?)
    }
}

fn munmap(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_munmap])
}

fn mprotect(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_mprotect])
}

fn madvise_dontneed(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_dontneed])
}

fn mremap(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_mremap])
}

fn fork(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_fork])
}

fn process_vm_readv(options: &Options) -> Result<()> {
    race_over_pages(options, &[turn_readv])
}

fn everything_at_once(options: &Options) -> Result<()> {
    race_over_pages(options, &ALL_TURNS)
}

/// Everything there is.
pub(super) const ALL_TURNS: [Turn; 6] = [
    turn_munmap,
    turn_mprotect,
    turn_dontneed,
    turn_mremap,
    turn_fork,
    turn_readv,
];

pub(super) fn turn_munmap(
    ground: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    *mapping = ground.map()?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub(super) fn turn_mprotect(
    _: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    mapping.protect(MprotectFlags::READ)?;
    watcher.pass(mapping, Access::Read);
    mapping.protect(MprotectFlags::READ | MprotectFlags::WRITE)?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub(super) fn turn_dontneed(
    _: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    mapping.dont_need()?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub(super) fn turn_mremap(
    _: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    mapping.relocate()?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

pub(super) fn turn_fork(
    _: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    let child = Child::fork_with_code(|| {
        watcher.pass(mapping, Access::Read);
        0
    })?;
    watcher.pass(mapping, Access::Read);
    child.join()
}

/// Has the kernel walk the page tables, without a lock of theirs at first.
pub(super) fn turn_proc(
    _: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    watcher.pass(mapping, Access::ReadWrite);
    let mut entries = vec![0; NR_PAGES as usize * size_of::<u64>()];
    let page = mapping.address().addr() / PAGE_SIZE;
    let pagemap = File::open("/proc/self/pagemap")?;
    pagemap.read_exact_at(&mut entries, (page * size_of::<u64>()) as u64)?;
    fs::read("/proc/self/smaps")?;
    watcher.pass(mapping, Access::ReadWrite);
    Ok(())
}

/// Reads through get_user_pages(), which holds a reference to a page that may be unmapped meanwhile:
/// such a page must not be poisoned.
pub(super) fn turn_readv(
    _: &Ground,
    mapping: &mut Mapping,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    let mut copy = vec![0_u64; NR_PAGES as usize * WORDS_PER_PAGE];
    read_own_memory(mapping, &mut copy)?;
    ensure!(
        !copy.contains(&POISON),
        "a poisoned page was read by process_vm_readv()"
    );
    watcher.pass(mapping, Access::Read);
    Ok(())
}

fn read_own_memory(mapping: &Mapping, copy: &mut [u64]) -> Result<()> {
    let len = NR_PAGES as usize * PAGE_SIZE;
    let local = libc::iovec {
        iov_base: copy.as_mut_ptr().cast(),
        iov_len: size_of_val(copy),
    };
    let remote = libc::iovec {
        iov_base: mapping.address(),
        iov_len: len,
    };
    // SAFETY: `local` describes `copy`, which is borrowed mutably; `remote` is only read.
    let nr_read = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    ensure!(
        nr_read == len as isize,
        "{nr_read}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// The racer's part: takes turns until all have had enough of them.
fn take_turns(
    ground: &Ground,
    ledger: &Ledger,
    slot: usize,
    turns: &[Turn],
    nr_taken: &AtomicU64,
) -> Result<()> {
    // The racer's CPU comes after those of the watching members.
    cpu::pin_member(NR_WATCHING)?;
    let mut mapping = ground.map()?;
    let mut watcher = Watcher::new(ledger, slot);
    for turn in turns.iter().cycle() {
        if ledger.stopped() {
            break;
        }
        turn(ground, &mut mapping, &mut watcher)?;
        nr_taken.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn race_over_pages(options: &Options, turns: &[Turn]) -> Result<()> {
    race(options, &Ground::pages()?, turns).map(|_| ())
}

/// Races, and returns the counters of the device.
pub(super) fn race(options: &Options, ground: &Ground, turns: &[Turn]) -> Result<abi::Counters> {
    let device = &ground.device;
    let mapping = Arc::new(ground.map()?);
    let oracle = Oracle::of_threads(&mapping, NR_WATCHING, 1, Access::ReadWrite)?;
    let (ledger, slot) = (oracle.ledger().clone(), oracle.spare_slot());
    let nr_taken = AtomicU64::new(0);
    let nr_unmaps = thread::scope(|scope| {
        let racer = scope.spawn(|| take_turns(ground, &ledger, slot, turns, &nr_taken));
        let nr_turns = NR_TURNS * u64::from(options.effort);
        let enough = || racer.is_finished() || nr_taken.load(Ordering::Relaxed) >= nr_turns;
        let driven = drive(options, ground, &oracle, enough);
        oracle.stop();
        racer.join().expect("the racer does not panic").and(driven)
    })?;
    let report = oracle.finish(device)?;
    println!(
        "# {nr_unmaps} unmaps, {} turns, {report:?}",
        nr_taken.into_inner()
    );
    let counters = device.counters()?;
    println!("# {counters:?}");
    report.expect_silence()?;
    Ok(counters)
}

/// Unmaps random pages by random strategies, some of them deferred.
fn drive(
    options: &Options,
    ground: &Ground,
    oracle: &Oracle,
    enough: impl Fn() -> bool,
) -> Result<u64> {
    let device = &ground.device;
    let mut rng = options.rng();
    let mut nr_unmaps = 0;
    while nr_unmaps < NR_UNMAPS * u64::from(options.effort) || !enough() {
        // So that there are pages to unmap; what the racer does meanwhile is left to chance.
        oracle.await_next_pass()?;
        let selection = match ground.takes_all {
            true => Selection::run(0, NR_PAGES),
            false => random_selection(&mut rng),
        };
        let strategy = REAL_STRATEGIES[rng.usize(..REAL_STRATEGIES.len())];
        let can_defer = abi::strategy::ALL[strategy as usize].defers;
        let defer = if can_defer && rng.bool() {
            abi::UNMAP_DEFER
        } else {
            0
        };
        let free = if rng.bool() { abi::UNMAP_FREE } else { 0 };
        oracle.unmap(device, &selection, strategy, defer | free)?;
        // Else it stays owed for a while, and the core has to see to it itself.
        if defer != 0 && rng.bool() {
            oracle.flush(device)?;
        }
        nr_unmaps += 1;
    }
    Ok(nr_unmaps)
}

fn random_selection(rng: &mut fastrand::Rng) -> Selection {
    let nr = rng.u64(1..=NR_PAGES / 2);
    match rng.u8(..3) {
        0 => Selection::run(rng.u64(..=NR_PAGES - nr), nr),
        1 => Selection::scattered(rng.u64(..2), nr),
        _ => Selection::random(rng, NR_PAGES, nr as usize),
    }
}
