// SPDX-License-Identifier: GPL-2.0

//! A page that was freed is not read any more.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use anyhow::{ensure, Context, Result};

use super::{with_fault, with_ground, Ground};
use crate::binder::endpoint::Endpoint;
use crate::binder::service::{fill, NR_PAGES as NR_SERVICE_PAGES};
use crate::binder::switch::Fault;
use crate::child::Child;
use crate::cpu;
use crate::ktap::Options;
use crate::shared::Shared;

/// Words that a reader and the driver share.
const NR_READS: usize = 0;
const GO: usize = 1;
const DONE: usize = 2;
const VALUE: usize = 3;

const NR_RUNS: usize = 20;
/// A stale translation lives only until its CPU switches to another process.
const NR_TRIES: usize = 10;

/// Has a page taken from a process that reads it all the time; returns what that read afterwards,
/// or nothing if it was killed, because the page was gone.
fn read_after_scan(ground: &Ground) -> Result<Option<u64>> {
    let words = Shared::<AtomicU64>::new(4)?;
    let mut reader = Child::fork(|| {
        cpu::pin_member(0)?;
        let endpoint = Endpoint::open(&ground.binderfs.device(), NR_SERVICE_PAGES)?;
        let page = fill(&endpoint, 1, 1)?.first_page();
        // SAFETY: If the page is gone this process is killed, as it should be.
        let word = unsafe { endpoint.word(page) };
        loop {
            let go = words[GO].load(Ordering::Acquire);
            let value = word.load(Ordering::Relaxed);
            words[NR_READS].fetch_add(1, Ordering::Relaxed);
            if go != 0 {
                words[VALUE].store(value, Ordering::Relaxed);
                words[DONE].store(1, Ordering::Release);
                return Ok(());
            }
        }
    })?;
    while words[NR_READS].load(Ordering::Relaxed) < 1000 {
        reader.check_alive()?;
    }
    ground.shrinkers.run()?;
    words[GO].store(1, Ordering::Release);
    reader
        .wait_for(Duration::from_secs(10))?
        .context("the reader hangs")?;
    let done = words[DONE].load(Ordering::Acquire) != 0;
    Ok(done.then(|| words[VALUE].load(Ordering::Relaxed)))
}

pub fn nobody_reads_a_freed_page(options: &Options) -> Result<()> {
    with_ground(|ground| {
        for _ in 0..NR_RUNS * options.effort as usize {
            let read = read_after_scan(ground)?;
            ensure!(read.is_none(), "{:#x} was read", read.unwrap_or(0));
        }
        Ok(())
    })
}

pub fn a_page_freed_before_its_flush_is_read_every_time(_: &Options) -> Result<()> {
    with_fault(Some(Fault::Unflushed), |ground, _| {
        for run in 0..NR_RUNS {
            let mut read = None;
            for _ in 0..NR_TRIES {
                read = read_after_scan(ground)?;
                if read.is_some() {
                    break;
                }
            }
            ensure!(read.is_some(), "run {run}: nobody noticed");
        }
        println!("# {NR_RUNS} of {NR_RUNS} runs");
        Ok(())
    })
}
