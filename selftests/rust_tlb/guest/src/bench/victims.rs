// SPDX-License-Identifier: GPL-2.0

//! What those lose who are interrupted: threads that do nothing but use their own few pages, while
//! another one has pages taken back again and again.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, Context, Result};
use hdrhistogram::Histogram;
use rust_tlb_results::said::{Phase, Victims};

use crate::cpu;
use crate::device::Device;
use crate::mapping::Mapping;

use super::clock;
use super::mapped_file::MappedFile;
use super::pages::Pages;
use super::way::{unmap, Way, WAYS};
use super::workload::{touch, NR_HOT};

/// What is taken back at a time, and how often: less often in slow ways.
const PAGES: Pages = Pages { nr: 128, stride: 2 };
const PERIOD: Duration = Duration::from_millis(3);
/// Passes of the driver over pages of its own, from one look at the clock to the next.
const PASSES_A_LOOK: usize = 64;

/// Each way in turn, `nr_turns` times over, each phase of `length`.
pub fn run(
    nr_turns: usize,
    length: Duration,
    rng: &mut fastrand::Rng,
    mut emit: impl FnMut(Victims) -> Result<()>,
) -> Result<()> {
    let mut order = WAYS;
    for _ in 0..nr_turns {
        rng.shuffle(&mut order);
        for way in order {
            emit(turn(way, length)?)?;
        }
    }
    Ok(())
}

fn turn(way: Way, length: Duration) -> Result<Victims> {
    let ground = Ground::new(way)?;
    let nr_victims = cpu::nr_cpus() - 1;
    let phase = |unmaps| phase(nr_victims, || ground.drive(unmaps, length));
    Ok(Victims {
        strategy: way.name.into(),
        nr_pages: PAGES.nr,
        nr_victims: nr_victims as u64,
        control: phase(false)?,
        unmapping: phase(true)?,
    })
}

/// Lets victims run while `drive` does, which returns how often it unmapped.
fn phase(nr_victims: usize, drive: impl FnOnce() -> Result<u64>) -> Result<Phase> {
    let stop = &AtomicBool::new(false);
    let passes = Mutex::new(Histogram::<u64>::new(3)?);
    let of_all = &passes;
    let (driven, elapsed) = thread::scope(|scope| {
        let spawn = |index| scope.spawn(move || be_victim(index, stop, of_all));
        let victims: Vec<_> = (0..nr_victims).map(spawn).collect();
        let driven = clock::timed(drive);
        stop.store(true, Ordering::Relaxed);
        let mut ends = victims.into_iter().map(|victim| victim.join());
        ends.try_for_each(|end| end.unwrap_or_else(|_| Err(anyhow!("a victim panicked"))))?;
        anyhow::Ok(driven)
    })?;
    let passes = passes.into_inner().ok().context("a victim panicked")?;
    let ns_per_tick = elapsed.time.as_nanos() as f64 / elapsed.ticks as f64;
    let seconds = elapsed.time.as_secs_f64();
    let ns = |ticks: u64| ticks as f64 * ns_per_tick;
    Ok(Phase {
        seconds,
        nr_unmaps: driven?,
        passes_per_second: passes.len() as f64 / nr_victims as f64 / seconds,
        pass_p50_ns: ns(passes.value_at_quantile(0.5)),
        pass_p99_ns: ns(passes.value_at_quantile(0.99)),
        longest_ns: ns(passes.max()),
    })
}

/// What is used and taken back.
struct Ground {
    way: Way,
    device: Device,
    mapping: Mapping,
    file: MappedFile,
}

impl Ground {
    fn new(way: Way) -> Result<Self> {
        let device = Device::open()?;
        Ok(Self {
            way,
            mapping: device.map(PAGES.span())?,
            file: MappedFile::in_memory(PAGES.span())?,
            device,
        })
    }

    /// Uses the pages over and over, and has them taken back if it `unmaps`. Returns how often.
    fn drive(&self, unmaps: bool, length: Duration) -> Result<u64> {
        let own = MappedFile::in_memory(NR_HOT)?;
        let start = Instant::now();
        let mut nr_unmaps = 0;
        while start.elapsed() < length {
            let next = Instant::now() + PERIOD;
            self.touch();
            if unmaps {
                self.take_back()?;
                nr_unmaps += 1;
            }
            // No pause, and the clock only now and then: an emulator takes locks for both, and the
            // victims would wait for them.
            while Instant::now() < next {
                (0..PASSES_A_LOOK).for_each(|_| use_all(&own));
            }
        }
        Ok(nr_unmaps)
    }

    fn touch(&self) {
        for page in (0..PAGES.nr).map(|page| page * PAGES.stride) {
            match self.way.of_device() {
                Some(_) => touch(&self.mapping, page),
                None => self.file.touch(page),
            }
        }
    }

    fn take_back(&self) -> Result<()> {
        match self.way.of_device() {
            Some((strategy, flags)) => unmap(&self.device, PAGES, strategy, flags).map(|_| ()),
            None => self.file.page_out(PAGES),
        }
    }
}

fn use_all(own: &MappedFile) {
    (0..NR_HOT).for_each(|page| own.touch(page));
}

/// Uses a few pages over and over, and notes how long each pass took.
fn be_victim(index: usize, stop: &AtomicBool, passes: &Mutex<Histogram<u64>>) -> Result<()> {
    cpu::pin_worker(index)?;
    let own = MappedFile::in_memory(NR_HOT)?;
    let mut histogram = Histogram::<u64>::new(3)?;
    let mut last = clock::ticks();
    while !stop.load(Ordering::Relaxed) {
        use_all(&own);
        let now = clock::ticks();
        histogram.record(now - last)?;
        last = now;
    }
    let mut all = passes.lock().ok().context("a victim panicked")?;
    Ok(all.add(histogram)?)
}
