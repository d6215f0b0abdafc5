// SPDX-License-Identifier: GPL-2.0

//! What a move of memory costs: `mremap()` without runs and with them, and moves by the device, whose
//! flushes come under the lock or at the end.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Context, Result};
use rust_tlb_results::names::Mover;
use rust_tlb_results::said::Moves;
use rust_tlb_results::spread::Spread;
use rustix::mm::{Advice, MapFlags};

use super::clock::{timed, Elapsed};
use crate::abi;
use crate::arena::{Arena, Leave, Span, PMD_SIZE, PUD_SIZE};
use crate::busy::Busy;
use crate::child::Child;
use crate::cpu;
use crate::device::Device;
use crate::ftrace::Tracing;
use crate::mapping::PAGE_SIZE;
use crate::mremap_runs::{Runs, MAX};
use crate::tlb_events::TlbEvents;

/// Ways to move, and how long their runs are.
const HOWS: [(Mover, u32); 2] = [(Mover::Kernel, 1), (Mover::KernelDeferred, MAX)];
/// The same of the device, and the flags of its call.
const DEVICE_HOWS: [(Mover, u32); 2] = [
    (Mover::DeviceLocked, 0),
    (Mover::DeviceDeferred, abi::MOVE_DEFER),
];
const NR_PAGES: [usize; 4] = [1, 64, 512, 8192];
const NR_CPUS: [usize; 4] = [1, 2, 4, 8];
/// Where the destination begins in its PTE table, in pages, if not where the source does.
const SKEW: usize = 17;

/// What is moved, and from where to where.
struct Ground {
    arena: Arena,
    nr_pages: usize,
    aligned: bool,
}

impl Ground {
    fn new(nr_pages: usize, aligned: bool) -> Result<Self> {
        let arena = Arena::new(4 * PUD_SIZE)?;
        Ok(Self {
            arena,
            nr_pages,
            aligned,
        })
    }

    fn places(&self) -> (Span<'_>, Span<'_>) {
        let len = self.nr_pages * PAGE_SIZE;
        let skew = if self.aligned { 0 } else { SKEW * PAGE_SIZE };
        let new = 2 * PUD_SIZE + 128 * PMD_SIZE + skew;
        (
            self.arena.span(64 * PMD_SIZE, len),
            self.arena.span(new, len),
        )
    }

    /// Maps new pages, and moves all of them.
    fn move_all(&self) -> Result<(TlbEvents, Elapsed)> {
        let (old, new) = self.places();
        old.map_anonymous()?;
        old.advise(Advice::LinuxNoHugepage)?;
        (0..old.len())
            .step_by(PAGE_SIZE)
            .for_each(|at| old.word(at).store(1, Relaxed));
        let before = read_events()?;
        // To unmap the old mapping takes rounds, too, which are none of the move's.
        let (moved, elapsed) = timed(|| old.move_to(&new, Leave::Mapping));
        let events = read_events()?.since(before);
        moved?;
        old.reserve()?;
        new.reserve()?;
        Ok((events, elapsed))
    }

    /// Maps a device at both places, anew, and has it move all pages of it.
    fn move_device(&self, device: &Device, flags: u32) -> Result<(TlbEvents, Elapsed)> {
        let (old, new) = self.places();
        for place in [&old, &new] {
            place.map_file(device.file(), 0, MapFlags::SHARED)?;
        }
        (0..old.len())
            .step_by(PAGE_SIZE)
            .for_each(|at| old.word(at).store(1, Relaxed));
        let before = read_events()?;
        let (moved, elapsed) = timed(|| device.move_pages(&old, &new, flags, 0));
        let events = read_events()?.since(before);
        let nr_ptes = moved?.nr_ptes;
        ensure!(nr_ptes == self.nr_pages as u64, "{nr_ptes} pages moved");
        old.reserve()?;
        new.reserve()?;
        Ok((events, elapsed))
    }

    /// How long the run took that took longest.
    fn longest_run(&self, tracing: &Tracing) -> Result<Option<f64>> {
        let (_, events) = tracing.record(|| self.move_all())?;
        let at = |name: &'static str| {
            let named = events.iter().filter(move |event| event.name == name);
            named.map(|event| event.at)
        };
        let ends = at("mremap_run_end").zip(at("mremap_run_begin"));
        Ok(ends
            .map(|(end, begin)| end - begin)
            .max()
            .map(|ns| ns as f64))
    }
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// Makes all measurements, `nr_rounds` of each, and hands each row to `emit`.
pub fn run(nr_rounds: usize, emit: impl Fn(&Moves) -> Result<()>) -> Result<()> {
    let runs = Runs::take()?.context("the kernel has no CONFIG_MREMAP_BATCH_FLUSH")?;
    let there_are = NR_CPUS.into_iter().filter(|&nr| nr <= cpu::nr_cpus());
    for nr_cpus in there_are {
        // A CPU that an mm once ran on counts among those that are asked.
        let child = Child::fork(|| on_cpus(&runs, nr_cpus, nr_rounds, &emit))?;
        child.join()?;
    }
    Ok(())
}

fn on_cpus(
    runs: &Runs,
    nr_cpus: usize,
    nr_rounds: usize,
    emit: &dyn Fn(&Moves) -> Result<()>,
) -> Result<()> {
    let _busy = Busy::start(nr_cpus - 1);
    let tracing = Tracing::new(&["mremap"])?.context("the kernel does not have the events")?;
    for nr_pages in NR_PAGES {
        for aligned in [true, false] {
            let ground = Ground::new(nr_pages, aligned)?;
            for (how, max) in HOWS {
                runs.set_max(max)?;
                let rounds: Result<Vec<_>> = (0..=nr_rounds).map(|_| ground.move_all()).collect();
                let locked_ns = ground.longest_run(&tracing)?;
                // The first warms up.
                emit(&row(how, &ground, nr_cpus, &rounds?[1..], locked_ns))?;
            }
            for (how, flags) in DEVICE_HOWS {
                let device = Device::open()?;
                let moves: Result<Vec<_>> = (0..=nr_rounds)
                    .map(|_| ground.move_device(&device, flags))
                    .collect();
                emit(&row(how, &ground, nr_cpus, &moves?[1..], None))?;
            }
        }
    }
    Ok(())
}

fn row(
    how: Mover,
    ground: &Ground,
    nr_cpus: usize,
    moves: &[(TlbEvents, Elapsed)],
    locked_ns: Option<f64>,
) -> Moves {
    let nr_pages = ground.nr_pages as f64;
    let spread = |value: &dyn Fn(&(TlbEvents, Elapsed)) -> f64| Spread::of(moves.iter().map(value));
    Moves {
        how,
        nr_pages: ground.nr_pages as u64,
        aligned: ground.aligned,
        nr_cpus: nr_cpus as u64,
        nr_samples: moves.len() as u64,
        rounds: spread(&|(events, _)| events.remote_flush as f64),
        ipis_received: spread(&|(events, _)| events.remote_flush_received as f64),
        ns_per_page: spread(&|(_, elapsed)| elapsed.time.as_nanos() as f64 / nr_pages),
        ticks_per_page: spread(&|(_, elapsed)| elapsed.ticks as f64 / nr_pages),
        locked_ns,
    }
}
