// SPDX-License-Identifier: GPL-2.0

//! Others who have the device open: they cost nothing, lose nothing, and wait for nobody; and an
//! unmap that takes long can be killed.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use rustix::process::{getrlimit, kill_process, setrlimit, Resource, Rlimit, Signal};
use rustix::time::{clock_gettime, ClockId};

use crate::abi::{self, strategy};
use crate::attempts::{caught_every_time, Attempt};
use crate::child::Child;
use crate::cpu;
use crate::device::Device;
use crate::held_moment;
use crate::kprobe::Kprobe;
use crate::ktap::{skip, Options};
use crate::mapping::Mapping;
use crate::reclaim::Shrinkers;
use crate::selection::Selection;
use crate::shared::Shared;
use crate::stillness;

crate::tests! {
    other_files_are_not_gone_by,
    unmap_mapping_leaves_other_files_alone,
    an_open_file_can_be_shared,
    to_open_and_close_waits_for_nobody,
    memory_pressure_waits_for_nobody,
    a_killed_unmap_ends_between_two_mappings,
}

const NR_PAGES: u64 = 8;
/// The fastest counts: a tick of the clock may come in between.
const NR_TIMED: usize = 5;

fn all() -> Selection {
    Selection::run(0, NR_PAGES)
}

fn written() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(NR_PAGES)?;
    (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    Ok((device, mapping))
}

/// What a walk goes by is its own VMAs, however many other files have theirs at the same offset. How
/// long it takes is shown: in an emulator that counts instructions (`runner boot --icount`), so many.
fn other_files_are_not_gone_by(options: &Options) -> Result<()> {
    let nr_others = 200 * options.effort;
    let Some(probe) = Kprobe::new("tlb_batch_rmap_next")? else {
        return skip("the kernel has no CONFIG_KPROBE_EVENTS");
    };
    let files = getrlimit(Resource::Nofile);
    let current = files.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..files })?;
    let (device, mapping) = written()?;
    let unmap = || -> Result<Duration> {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(1, Relaxed));
        let start = Instant::now();
        device.unmap(&all(), strategy::BROADCAST, 0)?;
        Ok(start.elapsed())
    };
    let nr_next = || probe.hits_of(|| unmap().map(drop));
    let fastest = || -> Result<Option<Duration>> {
        let times: Vec<_> = (0..NR_TIMED).map(|_| unmap()).collect::<Result<_>>()?;
        Ok(times.into_iter().min())
    };
    let (alone, time_alone) = (nr_next()?, fastest()?);
    ensure!(alone > 0, "no VMA was gone by");
    let others: Vec<_> = (0..nr_others).map(|_| neighbour()).collect::<Result<_>>()?;
    let (among, time_among) = (nr_next()?, fastest()?);
    println!("# alone {time_alone:?}, among {nr_others} {time_among:?}");
    ensure!(
        among == alone,
        "{alone} VMAs alone, {among} among {}",
        others.len()
    );
    Ok(())
}

/// Another file, of which one page is mapped, at the same offset.
fn neighbour() -> Result<(Device, Mapping)> {
    let device = Device::open()?;
    let mapping = device.map(1)?;
    mapping.word(0, 0).store(1, Relaxed);
    Ok((device, mapping))
}

fn unmap_mapping_leaves_other_files_alone(_: &Options) -> Result<()> {
    let (device, _mapping) = written()?;
    let (other, kept) = written()?;
    device.unmap(&all(), strategy::UNMAP_MAPPING, 0)?;
    let mapped = |device: &Device| -> Result<u64> {
        Ok(device.accessed(0, NR_PAGES, abi::ACCESSED_READ)?.mapped)
    };
    ensure!(mapped(&device)? == 0, "its own are mapped still");
    ensure!(mapped(&other)? == (1 << NR_PAGES) - 1, "others were taken");
    ensure!(kept.word(1, 0).load(Relaxed) == 2, "contents were lost");
    Ok(())
}

/// By fork, and by a descriptor that is handed on: what a file maps is found wherever it is mapped.
fn an_open_file_can_be_shared(_: &Options) -> Result<()> {
    let (device, mapping) = written()?;
    let child = Child::fork(|| {
        // The parent's mapping, copied, and one of the child's own.
        let own = device.map(NR_PAGES)?;
        ensure!(own.word(3, 0).load(Relaxed) == 4, "other pages");
        let reply = device.unmap(&all(), strategy::PRECISE, 0)?;
        let nr_ptes = reply.nr_ptes;
        // Its own, that copied by fork or not, and the parent's.
        ensure!(nr_ptes > NR_PAGES, "{nr_ptes} PTEs");
        ensure!(own.word(3, 0).load(Relaxed) == 0, "an old page");
        own.word(3, 0).store(7, Relaxed);
        Ok(())
    })?;
    child.join()?;
    ensure!(
        mapping.word(3, 0).load(Relaxed) == 7,
        "not the child's page"
    );
    Ok(())
}

/// Waits until a task, known by its folder in `/proc`, sleeps in the kernel, and cannot be woken.
/// False if the moment for which it is to wait is over before.
pub(super) fn await_stuck(task: &str) -> Result<bool> {
    loop {
        match stillness::state(task)? {
            'D' => return Ok(true),
            'Z' => bail!("{task} has ended, and has waited for nobody"),
            _ if !held_moment::is_held()? => return Ok(false),
            _ => thread::yield_now(),
        }
    }
}

/// Does `what`, which is not to wait until the moment is over that is held. If that is over
/// afterwards, either `what` has slept until then, or a busy host took so long.
fn without_waiting(what: impl FnOnce() -> Result<()>) -> Result<Attempt> {
    const LONG: Duration = Duration::from_secs(5);
    let time_in_use = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime));
    let (begin, begin_in_use) = (Instant::now(), time_in_use()?);
    what()?;
    let in_use = time_in_use()? - begin_in_use;
    let asleep = begin.elapsed().saturating_sub(in_use);
    let still = held_moment::is_held()?;
    Ok(Attempt::judge(still, asleep > LONG, || {
        format!("asleep for {asleep:?}, until it was over")
    }))
}

pub(super) fn tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// Until a thread has said which one it is.
pub(super) fn await_started(tid: &AtomicU32) {
    while tid.load(Relaxed) == 0 {
        thread::yield_now();
    }
}

fn to_open_and_close_waits_for_nobody(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    caught_every_time(1, open_and_close_beside_others)
}

/// A is busy with its pages; B wants to enter A's scope, and waits for A. C has nothing to do with
/// either.
fn open_and_close_beside_others() -> Result<Attempt> {
    let a = Device::open()?;
    a.enter(strategy::BROADCAST, None)?;
    let (mapping, b) = (a.map(NR_PAGES)?, Device::open()?);
    let (waiting_tid, is_held) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        // To start a thread waits for whoever is in a fault.
        let waiting = scope.spawn(|| {
            waiting_tid.store(tid(), Relaxed);
            while is_held.load(Relaxed) == 0 {
                thread::yield_now();
            }
            b.enter(strategy::BROADCAST, Some(&a))?;
            anyhow::Ok(())
        });
        await_started(&waiting_tid);
        let busy = scope.spawn(|| {
            cpu::pin_worker(0)?;
            held_moment::hold_own_fault()?;
            mapping.word(0, 0).store(1, Relaxed);
            anyhow::Ok(())
        });
        let held = held_moment::await_held();
        is_held.store(1, Relaxed);
        held?;
        let is_stuck = await_stuck(&format!("self/task/{}", waiting_tid.load(Relaxed)))?;
        let attempt = without_waiting(|| {
            (0..10).try_for_each(|_| {
                drop(Device::open()?);
                Ok(())
            })
        })?;
        held_moment::go_on()?;
        busy.join().expect("nobody panics")?;
        waiting.join().expect("nobody panics")?;
        Ok(if is_stuck { attempt } else { Attempt::Spoilt })
    })
}

/// The shrinker passes a file over whose VMAs are being changed.
fn memory_pressure_waits_for_nobody(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    caught_every_time(1, press_beside_a_change)
}

fn press_beside_a_change() -> Result<Attempt> {
    let shrinkers = Shrinkers::open()?;
    let (device, mapping) = written()?;
    device.idle(0, NR_PAGES, abi::IDLE_MARK)?;
    let attempt = thread::scope(|scope| {
        let holder = scope.spawn(|| held_moment::hold_vmas(&mapping));
        held_moment::await_held()?;
        let attempt = without_waiting(|| Ok(shrinkers.run()?))?;
        held_moment::go_on()?;
        holder.join().expect("the holder does not panic")?;
        anyhow::Ok(attempt)
    })?;
    if !matches!(attempt, Attempt::Caught) {
        return Ok(attempt);
    }
    let counters = device.counters()?;
    ensure!(
        counters.nr_idle == NR_PAGES,
        "pages were lost: {counters:?}"
    );
    for page in 0..NR_PAGES {
        ensure!(
            mapping.word(page, 0).load(Relaxed) == page + 1,
            "page {page}"
        );
    }
    shrinkers.take_idle(&device)?;
    let counters = device.counters()?;
    ensure!(counters.nr_reclaimed == NR_PAGES, "{counters:?}");
    Ok(attempt)
}

/// One mapping's PTEs are cleared, the others' are left, and all the pages are where they were.
fn a_killed_unmap_ends_between_two_mappings(_: &Options) -> Result<()> {
    if !held_moment::can_be_held() {
        return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
    }
    for setup in [0, abi::SETUP_PFNMAP] {
        for defer in [0, abi::UNMAP_DEFER] {
            caught_every_time(1, || kill_unmap(setup, defer))
                .with_context(|| format!("setup {setup}, flags {defer}"))?;
        }
    }
    Ok(())
}

fn kill_unmap(setup: u32, defer: u32) -> Result<Attempt> {
    const NR_MAPPINGS: usize = 3;
    let device = Device::open()?;
    device.setup(setup)?;
    let mappings: Vec<Mapping> = (0..NR_MAPPINGS)
        .map(|_| Ok(device.map(NR_PAGES)?))
        .collect::<Result<_>>()?;
    for mapping in &mappings {
        (0..NR_PAGES).for_each(|page| mapping.word(page, 0).store(page + 1, Relaxed));
    }
    // Forked before the VMAs are locked, which it takes to copy them.
    let may_begin = Shared::<AtomicU32>::new(1)?;
    let unmapper = Child::fork(|| {
        while may_begin[0].load(Relaxed) == 0 {
            thread::yield_now();
        }
        device.unmap(&all(), strategy::PRECISE, defer)?;
        Ok(())
    })?;
    let in_time = thread::scope(|scope| {
        let holder = scope.spawn(|| held_moment::hold_vmas(&mappings[0]));
        held_moment::await_held()?;
        may_begin[0].store(1, Relaxed);
        let is_stuck = await_stuck(&unmapper.pid().as_raw_nonzero().to_string())?;
        kill_process(unmapper.pid(), Signal::KILL)?;
        let in_time = is_stuck && held_moment::is_held()?;
        held_moment::go_on()?;
        holder.join().expect("the holder does not panic")?;
        anyhow::Ok(in_time)
    })?;
    unmapper.kill()?;
    if !in_time {
        return Ok(Attempt::Spoilt);
    }
    let nr_ptes = device.counters()?.nr_ptes;
    ensure!(nr_ptes == NR_PAGES, "{nr_ptes} PTEs were cleared");
    // Whoever lost a page has it again, with what was in it.
    for mapping in &mappings {
        for page in 0..NR_PAGES {
            let value = mapping.word(page, 0).load(Relaxed);
            ensure!(value == page + 1, "page {page} holds {value:#x}");
        }
    }
    device.flush()?;
    let reply = device.unmap(&all(), strategy::PRECISE, abi::UNMAP_FREE)?;
    ensure!(reply.nr_pages == NR_PAGES, "{reply:?}");
    let counters = device.counters()?;
    let left = (counters.nr_pages_held, counters.nr_shared);
    ensure!(left == (0, 0), "{counters:?}");
    Ok(Attempt::Caught)
}
