// SPDX-License-Identifier: GPL-2.0

//! A place from which a scan took a page, and which is used again before that scan has flushed (H3).
//!
//! H3 is a rule of `Documentation/mm/tlb_batch.rst`.

use core::ffi::c_void;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use anyhow::{bail, ensure, Result};
use rustix::mm::{mmap_anonymous, MapFlags};

use super::{read_events, with_fault, Ground, NR_PAGES};
use crate::attempts::{caught_every_time, Attempt};
use crate::barrier::Wait;
use crate::binder::clients::{Client, Clients};
use crate::binder::service::fill;
use crate::binder::switch::{Fault, Switch};
use crate::ktap::Options;
use crate::mapping::{PAGE_SIZE, READ_WRITE};
use crate::shared::Shared;
use crate::witness::Witness;
use crate::workers::Shape;

const NR_RUNS: u32 = 20;

/// The first thread of the process calls, the second reads.
const CALLER: usize = 0;
const PAIR: Shape = Shape {
    processes: 1,
    threads: 2,
};

/// What is there is told apart by a number in the upper half of each word; below it, words count up.
const SHIFT: u32 = 32;

/// Words that caller, reader and driver share.
const PAGE: usize = 0;
const READ: usize = 1;
const NR_WORDS: usize = 2;

/// The number of what is there before the scan of a run, and after it.
fn numbers(run: u64) -> (u64, u64) {
    (2 * run + 1, 2 * run + 2)
}

/// A process whose caller has pages taken and put there anew, and whose reader reads one of them
/// before and after.
struct Refault<'a> {
    ground: &'a Ground,
    clients: Clients,
    words: Arc<Shared<AtomicU64>>,
    witness: Arc<Witness>,
    nr_runs: u64,
}

/// What the reader read, and how it came to that.
struct Outcome {
    read: Read,
    /// Rounds of flushes that it took to put something new there.
    rounds: u64,
    /// The reader had lost nothing from its TLB but what was flushed.
    undisturbed: bool,
}

/// What the reader read where a page was inserted meanwhile.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    New,
    Old,
}

impl<'a> Refault<'a> {
    /// `put` is how the caller puts something new there.
    fn new<F>(ground: &'a Ground, put: F) -> Result<Self>
    where
        F: Fn(&Client<'_>, u64) -> Result<()> + Sync,
    {
        let words = Arc::new(Shared::new(NR_WORDS)?);
        let witness = Arc::new(Witness::new()?);
        let clients = ground.clients(PAIR, Wait::Spin, |client| match client.thread {
            CALLER => call(client, &words, &put),
            _ => read(client, &words, &witness),
        })?;
        Ok(Self {
            ground,
            clients,
            words,
            witness,
            nr_runs: 0,
        })
    }

    fn run(&mut self, switch: &Switch) -> Result<Outcome> {
        let (old, new) = numbers(self.nr_runs);
        self.nr_runs += 1;
        // There is a buffer; the reader has read it; it is idle.
        (0..3).try_for_each(|_| self.clients.step())?;
        self.witness.expect()?;
        let (rounds, undisturbed) = switch.while_owed(&self.ground.shrinkers, |_| {
            let before = read_events()?;
            // Something new is there; the reader has read it.
            (0..3).try_for_each(|_| self.clients.step())?;
            let rounds = read_events()?.since(before).remote_flush;
            Ok((rounds, self.witness.is_kept()?))
        })?;
        let read = match self.words[READ].load(Ordering::Acquire) >> SHIFT {
            read if read == new => Read::New,
            read if read == old => Read::Old,
            read => bail!("{read} was read, neither {old} nor {new}"),
        };
        Ok(Outcome {
            read,
            rounds,
            undisturbed,
        })
    }
}

/// The caller's part in one run after the other.
fn call(
    client: &Client<'_>,
    words: &Shared<AtomicU64>,
    put: impl Fn(&Client<'_>, u64) -> Result<()>,
) -> Result<()> {
    for run in 0.. {
        let (old, new) = numbers(run);
        let buffer = fill(client.endpoint, NR_PAGES, old << SHIFT)?;
        words[PAGE].store(buffer.first_page() as u64, Ordering::Release);
        client.step()?;
        client.step()?;
        drop(buffer);
        client.step()?;
        // A scan takes the pages out now.
        client.step()?;
        put(client, new << SHIFT)?;
        client.step()?;
        client.step()?;
    }
    Ok(())
}

/// The reader's part: in between it uses other memory only, so that it does not look for the page
/// while none is there.
fn read(client: &Client<'_>, words: &Shared<AtomicU64>, witness: &Witness) -> Result<()> {
    let read = || {
        let page = words[PAGE].load(Ordering::Acquire) as usize;
        // SAFETY: The caller has just filled it.
        let value = unsafe { client.endpoint.word(page) }.load(Ordering::Relaxed);
        witness.look();
        value
    };
    loop {
        client.step()?;
        read();
        client.step()?;
        client.step()?;
        client.step()?;
        client.step()?;
        words[READ].store(read(), Ordering::Release);
        client.step()?;
    }
}

/// A transaction, which lasts until it is over that something was read.
fn send(client: &Client<'_>, first: u64) -> Result<()> {
    // Not looked at here: what this thread reads may be old, too.
    drop(client.endpoint.call(NR_PAGES, &first.to_ne_bytes())?);
    Ok(())
}

pub fn a_page_inserted_where_one_is_owed_is_not_the_old_one(options: &Options) -> Result<()> {
    with_fault(None, |ground, switch| {
        let mut refault = Refault::new(ground, send)?;
        for run in 0..NR_RUNS * options.effort {
            let Outcome { read, rounds, .. } = refault.run(switch)?;
            ensure!(read == Read::New, "run {run}: the old page was read");
            ensure!(rounds > 0, "run {run}: nothing was flushed");
        }
        Ok(())
    })
}

pub fn what_is_owed_is_ignored_and_the_old_page_is_read_every_time(_: &Options) -> Result<()> {
    with_fault(Some(Fault::OwedIsIgnored), |ground, switch| {
        let mut refault = Refault::new(ground, send)?;
        caught_every_time(NR_RUNS, || {
            let outcome = refault.run(switch)?;
            let caught = outcome.read == Read::Old;
            let found = || "the new page was read".into();
            Ok(Attempt::judge(caught, outcome.undisturbed, found))
        })
    })
}

/// Other memory in place of the mapping.
fn map_over(client: &Client<'_>, first: u64) -> Result<()> {
    let len = NR_PAGES as usize * PAGE_SIZE;
    let address = client.endpoint.address() as *mut c_void;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: Only the reader uses that memory any more, whatever is there.
    unsafe { mmap_anonymous(address, len, READ_WRITE, flags) }?;
    let page = |page| {
        // SAFETY: It was just mapped, and is not smaller.
        unsafe { client.endpoint.word(page) }
    };
    (0..NR_PAGES as usize).for_each(|nr| page(nr).store(first, Ordering::Relaxed));
    Ok(())
}

/// The mapping is gone, and something else is there, before the flush.
pub fn a_mapping_goes_while_its_flush_is_owed(_: &Options) -> Result<()> {
    with_fault(None, |ground, switch| {
        for run in 0..NR_RUNS {
            // The driver's buffers are lost with the mapping: each time another process.
            let Outcome { read, .. } = Refault::new(ground, map_over)?.run(switch)?;
            ensure!(read == Read::New, "run {run}: the old page was read");
        }
        Ok(())
    })
}
