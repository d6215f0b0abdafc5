// SPDX-License-Identifier: GPL-2.0

//! What Rust Binder's shrinker costs, page by page and in batches: rounds, IPIs and instructions of
//! a scan, and how many transactions are made while memory is short.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use rust_tlb_results::names::Shrinker;
use rust_tlb_results::said::Scans;
use rust_tlb_results::spread::Spread;

use super::clock::{timed, Elapsed};
use crate::barrier::Wait;
use crate::binder::clients::{Client, Clients};
use crate::binder::ground::Ground;
use crate::binder::service::{check, fill};
use crate::binder::switch::{How, Switch};
use crate::cpu;
use crate::shared::Shared;
use crate::tlb_events::TlbEvents;
use crate::workers::Shape;

const HOWS: [(Shrinker, How); 2] = [
    (Shrinker::Before, How::ByPage),
    (Shrinker::After, How::Batched),
];
const NR_PROCESSES: [usize; 3] = [1, 8, 64];
/// Idle pages of all processes together, in one scan: the shrinker takes up to 128.
const NR_PAGES: usize = 96;

/// Between two scans while transactions are counted.
const PAUSE: Duration = Duration::from_millis(5);

/// How often, and how long, to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Scans of each kind.
    pub nr_rounds: usize,
    /// Turns in which transactions are counted.
    pub nr_turns: usize,
    pub turn: Duration,
}

/// Makes all measurements, and hands each row to `emit`.
pub fn run(effort: Effort, emit: impl Fn(&Scans) -> Result<()>) -> Result<()> {
    let ground = Ground::new()?.context("the kernel has no CONFIG_ANDROID_BINDER_IPC_RUST")?;
    let switch = Switch::open()?.context("the driver has no switch to compare")?;
    for nr_processes in NR_PROCESSES {
        let transactions = count_transactions(&ground, &switch, nr_processes, effort)?;
        for ((how, set), transactions_per_s) in HOWS.into_iter().zip(transactions) {
            switch.set(set)?;
            let scans = measure_scans(&ground, nr_processes, effort.nr_rounds)?;
            emit(&row(how, nr_processes, &scans, transactions_per_s))?;
        }
    }
    Ok(())
}

/// What a scan cost, and what the same costs where nothing is idle.
struct Scan {
    events: TlbEvents,
    elapsed: Elapsed,
    control: Elapsed,
}

fn nr_pages_each(nr_processes: usize) -> usize {
    NR_PAGES / nr_processes
}

/// One process is busy on all other CPUs. Of more, each is busy if there is a CPU for it.
fn shape(nr_processes: usize) -> (Shape, Wait) {
    let nr_others = cpu::nr_cpus() - 1;
    let threads = if nr_processes == 1 { nr_others } else { 1 };
    let shape = Shape {
        processes: nr_processes,
        threads,
    };
    let wait = match shape.nr_workers() <= nr_others + 1 {
        true => Wait::Spin,
        false => Wait::Sleep,
    };
    (shape, wait)
}

fn measure_scans(ground: &Ground, nr_processes: usize, nr_rounds: usize) -> Result<Vec<Scan>> {
    let (shape, wait) = shape(nr_processes);
    let nr_pages = nr_pages_each(nr_processes) as u32;
    let clients = ground.clients(shape, wait, |client| {
        loop {
            client.step()?;
            if client.thread == 0 {
                drop(fill(client.endpoint, nr_pages, client.process as u64)?);
            }
            client.step()?;
            // They are taken now.
            client.step()?;
        }
    })?;
    let rounds: Result<Vec<_>> = (0..=nr_rounds)
        .map(|_| measure_scan(ground, &clients))
        .collect();
    // The first warms up.
    Ok(rounds?.split_off(1))
}

fn measure_scan(ground: &Ground, clients: &Clients) -> Result<Scan> {
    // What else there is to shrink.
    ground.shrinkers.run()?;
    clients.step()?;
    clients.step()?;
    let before = read_events()?;
    let (ran, elapsed) = timed(|| ground.shrinkers.run());
    let events = read_events()?.since(before);
    ran?;
    let (ran, control) = timed(|| ground.shrinkers.run());
    ran?;
    clients.step()?;
    Ok(Scan {
        events,
        elapsed,
        control,
    })
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// Per second, of all processes together, in turns: one spread for each of [`HOWS`].
fn count_transactions(
    ground: &Ground,
    switch: &Switch,
    nr_processes: usize,
    effort: Effort,
) -> Result<[Option<Spread>; 2]> {
    if effort.nr_turns == 0 {
        return Ok([None; 2]);
    }
    let nr_calls = Shared::<AtomicU64>::new(nr_processes)?;
    let shape = Shape {
        processes: nr_processes,
        threads: 1,
    };
    let clients = ground.clients(shape, Wait::Sleep, |client| call(client, &nr_calls))?;
    clients.step()?;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..effort.nr_turns {
        for ((_, set), rates) in HOWS.into_iter().zip(&mut rates) {
            switch.set(set)?;
            rates.push(count_turn(ground, &nr_calls, effort.turn)?);
            clients.check()?;
        }
    }
    Ok(rates.map(|rates| Some(Spread::of(rates))))
}

/// Fills buffers and gives them back, checks those that it keeps, and counts.
fn call(client: &Client<'_>, nr_calls: &Shared<AtomicU64>) -> Result<()> {
    client.step()?;
    for call in 0_u32.. {
        if client.stopped() {
            break;
        }
        let (nr_kept, nr_more) = (1 + call % 7, 1 + call % 13);
        let kept = fill(client.endpoint, nr_kept, call.into())?;
        drop(fill(client.endpoint, nr_more, u64::from(!call))?);
        check(&kept, nr_kept, call.into())?;
        nr_calls[client.process].fetch_add(2, Ordering::Relaxed);
    }
    Ok(())
}

fn count_turn(ground: &Ground, nr_calls: &Shared<AtomicU64>, turn: Duration) -> Result<f64> {
    let sum = || -> u64 { nr_calls.iter().map(|nr| nr.load(Ordering::Relaxed)).sum() };
    let (before, start) = (sum(), Instant::now());
    while start.elapsed() < turn {
        ground.shrinkers.run()?;
        thread::sleep(PAUSE);
    }
    Ok((sum() - before) as f64 / start.elapsed().as_secs_f64())
}

fn row(
    how: Shrinker,
    nr_processes: usize,
    scans: &[Scan],
    transactions_per_s: Option<Spread>,
) -> Scans {
    let nr_pages = nr_pages_each(nr_processes) * nr_processes;
    let spread = |value: &dyn Fn(&Scan) -> f64| Spread::of(scans.iter().map(value));
    let own = |scan: &Scan| scan.elapsed.ticks as f64 - scan.control.ticks as f64;
    Scans {
        how,
        nr_processes: nr_processes as u64,
        nr_pages: nr_pages as u64,
        nr_samples: scans.len() as u64,
        rounds_per_scan: spread(&|scan| scan.events.remote_flush as f64),
        ipis_per_scan: spread(&|scan| scan.events.remote_flush_received as f64),
        ticks_per_page: spread(&|scan| own(scan) / nr_pages as f64),
        transactions_per_s,
    }
}
