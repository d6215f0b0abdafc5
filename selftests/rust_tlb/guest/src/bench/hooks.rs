// SPDX-License-Identifier: GPL-2.0

//! What the kernel's own paths cost where the ring of flushes has hooks: to switch to another process,
//! a fault, and the flush of one page. By a clock that counts instructions; the device has no part.

use std::io::{pipe, PipeReader, PipeWriter, Read, Write};

use core::sync::atomic::Ordering::Relaxed;

use anyhow::Result;
use rust_tlb_results::said::Hooks;
use rust_tlb_results::spread::Spread;
use rustix::mm::Advice;

use super::clock::timed;
use crate::arena::{Arena, Span};
use crate::busy::Busy;
use crate::child::Child;
use crate::flush_ring::ForAll;
use crate::mapping::PAGE_SIZE;

/// Switches, faults or flushes in a round.
const NR: usize = 512;

/// Measures each path `nr_rounds` times, in processes that have a ring if `ringed`, and hands each row
/// to `emit`.
pub fn run(ringed: bool, nr_rounds: usize, emit: impl Fn(&Hooks) -> Result<()>) -> Result<()> {
    // Processes get theirs when they are made.
    let _rings = ringed.then(ForAll::new).transpose()?;
    Child::fork(|| measure(nr_rounds, &emit))?.join()
}

fn measure(nr_rounds: usize, emit: &dyn Fn(&Hooks) -> Result<()>) -> Result<()> {
    let arena = Arena::new(NR * PAGE_SIZE)?;
    let pages = arena.span(0, NR * PAGE_SIZE);
    pages.map_anonymous()?;
    pages.advise(Advice::LinuxNoHugepage)?;
    let all = |path: &str, round: &dyn Fn() -> Result<u64>| -> Result<()> {
        // The first warms up.
        let rounds: Result<Vec<_>> = (0..=nr_rounds).map(|_| round()).collect();
        let per_time = rounds?.split_off(1).into_iter();
        let ticks = Spread::of(per_time.map(|ticks| ticks as f64 / NR as f64));
        emit(&Hooks {
            path: path.into(),
            ticks,
        })
    };
    let partner = Partner::start()?;
    all("switch", &|| partner.switch())?;
    drop(partner);
    all("fault", &|| fault(&pages))?;
    all("flush", &|| flush(&pages))?;
    // One that is asked by an IPI. It spins: its instructions count, too.
    let _busy = Busy::start(1);
    all("flush_elsewhere", &|| flush(&pages))
}

fn touch(pages: &Span<'_>, page: usize) {
    pages.word(page * PAGE_SIZE).store(1, Relaxed);
}

fn fault(pages: &Span<'_>) -> Result<u64> {
    pages.advise(Advice::LinuxDontNeed)?;
    let (_, elapsed) = timed(|| (0..NR).for_each(|page| touch(pages, page)));
    Ok(elapsed.ticks)
}

/// Each page is there, is taken away by `madvise()`, and flushed.
fn flush(pages: &Span<'_>) -> Result<u64> {
    let mut ticks = 0;
    for page in 0..NR {
        touch(pages, page);
        let one = pages.part(page * PAGE_SIZE, PAGE_SIZE);
        let (done, elapsed) = timed(|| one.advise(Advice::LinuxDontNeed));
        done?;
        ticks += elapsed.ticks;
    }
    Ok(ticks)
}

/// A process on the same CPU that answers each byte.
struct Partner {
    to: PipeWriter,
    from: PipeReader,
    // Ends when it cannot read any more, or is killed.
    _child: Child,
}

impl Partner {
    fn start() -> Result<Self> {
        let (mut asked, to) = pipe()?;
        let (from, mut answers) = pipe()?;
        let child = Child::fork(|| loop {
            let mut byte = [0];
            asked.read_exact(&mut byte)?;
            answers.write_all(&byte)?;
        })?;
        Ok(Self {
            to,
            from,
            _child: child,
        })
    }

    /// There and back, half as often as there are switches.
    fn switch(&self) -> Result<u64> {
        let there_and_back = || -> Result<()> {
            for _ in 0..NR / 2 {
                (&self.to).write_all(&[1])?;
                (&self.from).read_exact(&mut [0])?;
            }
            Ok(())
        };
        let (done, elapsed) = timed(there_and_back);
        done?;
        Ok(elapsed.ticks)
    }
}
