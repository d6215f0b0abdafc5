// SPDX-License-Identifier: GPL-2.0

//! A page that was freed is not read any more.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use anyhow::{bail, ensure, Result};

use super::{with_fault, with_ground, Ground};
use crate::attempts::{caught_every_time, Attempt};
use crate::binder::endpoint::Endpoint;
use crate::binder::service::{fill, NR_PAGES as NR_SERVICE_PAGES};
use crate::binder::switch::Fault;
use crate::child::{describe, Child};
use crate::cpu;
use crate::ktap::Options;
use crate::shared::Shared;
use crate::witness::Witness;

/// Words that a reader and the driver share.
const NR_READS: usize = 0;
const GO: usize = 1;
const VALUE: usize = 2;
const NR_WORDS: usize = 3;

const NR_RUNS: u32 = 20;

/// What a reader read at last, or how it found out that its page was gone.
enum Fate {
    Read(u64),
    Gone,
    /// Its TLB was emptied, by something that has nothing to do with the page.
    GoneAnyway,
}

/// Exit codes of a reader whose page is gone.
const GONE: i32 = 7;
const GONE_ANYWAY: i32 = 8;

/// What the reader looks at last.
static WITNESS: AtomicPtr<Witness> = AtomicPtr::new(ptr::null_mut());

/// The end of a reader that has faulted.
extern "C" fn look_and_end(_: libc::c_int) {
    // SAFETY: It is null, or the reader's, which stays until this process ends.
    let witness = unsafe { WITNESS.load(Ordering::Acquire).as_ref() };
    let is_kept = witness.is_some_and(|witness| {
        witness.look();
        witness.is_kept().unwrap_or(false)
    });
    let code = if is_kept { GONE } else { GONE_ANYWAY };
    // SAFETY: Ends the process, without another look at its memory.
    unsafe { libc::_exit(code) }
}

fn catch_faults(witness: &Witness) -> Result<()> {
    WITNESS.store(ptr::from_ref(witness).cast_mut(), Ordering::Release);
    let handler: extern "C" fn(libc::c_int) = look_and_end;
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: The handler reads mapped memory, and does not return.
        let before = unsafe { libc::signal(signal, handler as usize) };
        ensure!(before != libc::SIG_ERR, "no handler for a fault");
    }
    Ok(())
}

/// Has a page taken from a process that reads it all the time; returns what that read afterwards.
fn read_after_scan(ground: &Ground) -> Result<Fate> {
    let words = Shared::<AtomicU64>::new(NR_WORDS)?;
    let witness = Witness::new()?;
    let reader = Child::fork(|| {
        cpu::pin_worker(0)?;
        catch_faults(&witness)?;
        let endpoint = Endpoint::open(&ground.binderfs.device(), NR_SERVICE_PAGES)?;
        let page = fill(&endpoint, 1, 1)?.first_page();
        // SAFETY: If the page is gone this process ends, as it should.
        let word = unsafe { endpoint.word(page) };
        loop {
            let go = words[GO].load(Ordering::Acquire);
            let value = word.load(Ordering::Relaxed);
            witness.look();
            words[NR_READS].fetch_add(1, Ordering::Relaxed);
            if go != 0 {
                words[VALUE].store(value, Ordering::Release);
                return Ok(());
            }
        }
    })?;
    while words[NR_READS].load(Ordering::Relaxed) < 1000 {
        reader.check_alive()?;
    }
    witness.expect()?;
    ground.shrinkers.run()?;
    words[GO].store(1, Ordering::Release);
    let ended = reader.wait()?;
    match ended.exit_status() {
        Some(0) => Ok(Fate::Read(words[VALUE].load(Ordering::Acquire))),
        Some(GONE) => Ok(Fate::Gone),
        Some(GONE_ANYWAY) => Ok(Fate::GoneAnyway),
        _ => bail!("the reader {}", describe(ended)),
    }
}

pub fn nobody_reads_a_freed_page(options: &Options) -> Result<()> {
    with_ground(|ground| {
        for _ in 0..NR_RUNS * options.effort {
            if let Fate::Read(value) = read_after_scan(ground)? {
                bail!("{value:#x} was read");
            }
        }
        Ok(())
    })
}

pub fn a_page_freed_before_its_flush_is_read_every_time(_: &Options) -> Result<()> {
    with_fault(Some(Fault::Unflushed), |ground, _| {
        caught_every_time(NR_RUNS, || {
            Ok(match read_after_scan(ground)? {
                Fate::Read(_) => Attempt::Caught,
                Fate::Gone => Attempt::Missed("nobody noticed".into()),
                Fate::GoneAnyway => Attempt::Spoilt,
            })
        })
    })
}
