// SPDX-License-Identifier: GPL-2.0

//! Whatever is moved, and wherever: what was in memory is in it, also where the move fails.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags};

use super::runs;
use crate::arena::{Arena, Leave, Span, PMD_SIZE, PUD_SIZE};
use crate::failing_allocations::FailingAllocations;
use crate::huge_pages::Setting;
use crate::ktap::{skip, Options};
use crate::mapping::PAGE_SIZE;

const NR_PMDS: usize = 6;
const LEN: usize = NR_PMDS * PMD_SIZE;
const NR_ROUNDS: u32 = 24;

#[derive(Clone, Copy, Debug)]
enum Memory {
    Anonymous,
    Shared,
    /// A private mapping of a file, some pages of which were written to.
    Private,
}

/// Maps `LEN` bytes, in which all is zero.
fn map(span: &Span<'_>, memory: Memory) -> Result<()> {
    let file = || -> Result<_> {
        let file = rustix::fs::memfd_create("mremap", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, span.len() as u64)?;
        Ok(file)
    };
    match memory {
        Memory::Anonymous => span.map_anonymous()?,
        Memory::Shared => span.map_file(&file()?, 0, MapFlags::SHARED)?,
        Memory::Private => span.map_file(&file()?, 0, MapFlags::PRIVATE)?,
    }
    Ok(())
}

/// Asks for huge pages here and there, which makes several mappings of one.
fn advise_parts(rng: &mut fastrand::Rng, span: &Span<'_>) -> Result<()> {
    for pmd in (0..LEN).step_by(PMD_SIZE) {
        if rng.bool() {
            span.part(pmd, PMD_SIZE).advise(Advice::LinuxHugepage)?;
        }
    }
    Ok(())
}

/// Writes pages of each PMD, all, some or none, and reads some. Returns what each page holds.
fn fill(rng: &mut fastrand::Rng, span: &Span<'_>) -> Vec<u64> {
    let mut expected = vec![0; LEN / PAGE_SIZE];
    for pmd in (0..LEN).step_by(PMD_SIZE) {
        let stride = [1, 7, 100, 512, usize::MAX][rng.usize(..5)];
        for page in (0..512_usize).step_by(stride.min(512)) {
            let at = pmd + page * PAGE_SIZE;
            if stride == usize::MAX {
                break;
            } else if rng.u8(..4) == 0 {
                span.word(at).load(Relaxed);
            } else {
                expected[at / PAGE_SIZE] = rng.u64(1..);
                span.word(at).store(expected[at / PAGE_SIZE], Relaxed);
            }
        }
    }
    expected
}

fn check(span: &Span<'_>, expected: &[u64]) -> Result<()> {
    for (page, expected) in expected.iter().enumerate() {
        let value = span.word(page * PAGE_SIZE).load(Relaxed);
        ensure!(
            value == *expected,
            "page {page}: {value:#x}, not {expected:#x}"
        );
    }
    Ok(())
}

/// Two places, at random offsets in their PMD tables, alike below that or not; near the end of one, so
/// that some are cut by it.
fn places<'a>(rng: &mut fastrand::Rng, arena: &'a Arena) -> (Span<'a>, Span<'a>) {
    let pmd = |rng: &mut fastrand::Rng| rng.usize(500..520) * PMD_SIZE;
    let skew = rng.usize(..512) * PAGE_SIZE;
    let (old, new) = match rng.u8(..3) {
        0 => (0, 0),
        1 => (skew, skew),
        _ => (0, skew),
    };
    (
        arena.span(pmd(rng) + old, LEN),
        arena.span(2 * PUD_SIZE + pmd(rng) + new, LEN),
    )
}

pub fn contents_survive(options: &Options) -> Result<()> {
    let runs = runs()?;
    let _huge = Setting::huge_pages_by_advice()?;
    let mut rng = options.rng();
    for round in 0..NR_ROUNDS * options.effort {
        let memory = [Memory::Anonymous, Memory::Shared, Memory::Private][round as usize % 3];
        runs.set_max([64, 64, 2, 3, 1][rng.usize(..5)])?;
        let arena = Arena::new(4 * PUD_SIZE)?;
        let (old, new) = places(&mut rng, &arena);
        map(&old, memory)?;
        advise_parts(&mut rng, &old)?;
        let expected = fill(&mut rng, &old);
        // A part, which is not at the start of the mapping, then back; and then all.
        let at = rng.usize(..512) * PAGE_SIZE;
        let (part, place) = (old.part(at, LEN - at), new.part(at, LEN - at));
        part.move_to(&place, Leave::Nothing)?;
        part.reserve()?;
        place.move_to(&part, Leave::Nothing)?;
        place.reserve()?;
        check(&old, &expected)?;
        old.move_to(&new, Leave::Nothing)?;
        old.reserve()?;
        check(&new, &expected)?;
    }
    Ok(())
}

/// The n-th allocation of a move fails, whichever it is: the move is done, or nothing has moved.
pub fn contents_survive_without_memory(options: &Options) -> Result<()> {
    const NR_LAYOUTS: u32 = 4;
    let _runs = runs()?;
    let _huge = Setting::huge_pages_by_advice()?;
    let Some(failing) = FailingAllocations::new()? else {
        return skip("the kernel has no CONFIG_FAULT_INJECTION");
    };
    let mut rng = options.rng();
    for _ in 0..NR_LAYOUTS * options.effort {
        let arena = Arena::new(4 * PUD_SIZE)?;
        let (mut old, mut new) = places(&mut rng, &arena);
        map(&old, Memory::Anonymous)?;
        // All of it or nothing: of several mappings some are moved if others fail.
        if rng.bool() {
            old.advise(Advice::LinuxHugepage)?;
        }
        let expected = fill(&mut rng, &old);
        let (mut nr_failed, mut nr_done) = (0, 0);
        for nth in 1.. {
            let (moved, has_failed) = failing.nth(nth, || old.move_to(&new, Leave::Nothing))?;
            match moved {
                Ok(()) => {
                    core::mem::swap(&mut old, &mut new);
                    nr_done += 1;
                }
                Err(Errno::NOMEM) => nr_failed += 1,
                Err(errno) => return Err(errno.into()),
            }
            new.reserve()?;
            check(&old, &expected)?;
            if !has_failed {
                break;
            }
        }
        println!("# {nr_failed} moves failed, {nr_done} did not");
        ensure!(nr_failed > 0, "none failed");
    }
    Ok(())
}
