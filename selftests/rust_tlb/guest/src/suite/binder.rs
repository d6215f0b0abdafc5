// SPDX-License-Identifier: GPL-2.0

//! Rust Binder's shrinker: what it frees, what that costs, and that nobody reads what it freed.

mod events;
mod life;
mod refault;
mod watched;

use core::sync::atomic::{AtomicU32, Ordering};

use anyhow::{ensure, Context, Result};

use crate::barrier::Wait;
use crate::binder::clients::Client;
use crate::binder::ground::Ground;
use crate::binder::service::{check, fill};
use crate::binder::switch::{Fault, How, Switch};
use crate::ktap::{skip, Options};
use crate::shared::Shared;
use crate::tlb_events::{most_common, TlbEvents};
use crate::workers::Shape;

use events::a_scan_is_in_the_events;
use life::{
    a_process_dies_while_its_flush_is_owed, a_process_that_dies_takes_its_pages_along,
    nothing_is_leaked, processes_die_while_pages_are_taken,
};
use refault::{
    a_mapping_goes_while_its_flush_is_owed, a_page_inserted_where_one_is_owed_is_not_the_old_one,
    what_is_owed_is_ignored_and_the_old_page_is_read_every_time,
};
use watched::{a_page_freed_before_its_flush_is_read_every_time, nobody_reads_a_freed_page};

crate::tests! {
    what_is_sent_arrives,
    idle_pages_are_freed_and_come_back,
    a_page_takes_a_round_before,
    a_scan_takes_one_round,
    a_scan_of_many_processes_takes_one_round,
    a_scan_is_in_the_events,
    live_buffers_keep_their_contents,
    a_process_that_dies_takes_its_pages_along,
    a_process_dies_while_its_flush_is_owed,
    processes_die_while_pages_are_taken,
    nothing_is_leaked,
    a_page_inserted_where_one_is_owed_is_not_the_old_one,
    what_is_owed_is_ignored_and_the_old_page_is_read_every_time,
    a_mapping_goes_while_its_flush_is_owed,
    nobody_reads_a_freed_page,
    a_page_freed_before_its_flush_is_read_every_time,
}

/// All of a client's buffer is scanned at one time: the shrinker's batch is 128.
const NR_PAGES: u32 = 96;
const NR_OTHER_CPUS: usize = 3;
const NR_ROUNDS: usize = 5;

/// Runs `test` where there is binder.
fn with_ground(test: impl FnOnce(&Ground) -> Result<()>) -> Result<()> {
    match Ground::new()? {
        Some(ground) => test(&ground),
        None => skip("the kernel has no CONFIG_ANDROID_BINDER_IPC_RUST"),
    }
}

const ONE: Shape = Shape {
    processes: 1,
    threads: 1,
};

fn what_is_sent_arrives(_: &Options) -> Result<()> {
    with_ground(|ground| {
        let clients = ground.clients(ONE, Wait::Sleep, |client| {
            for (nr_pages, first) in [(1, 7), (NR_PAGES, 1 << 40), (0, 0), (200, 3)] {
                fill(client.endpoint, nr_pages, first)?;
            }
            Ok(())
        })?;
        clients.join()
    })
}

/// Whether `page` of the endpoint is mapped in this process.
fn is_mapped(client: &Client<'_>, page: usize) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    const PRESENT: u64 = 1 << 63;
    let pagemap = std::fs::File::open("/proc/self/pagemap")?;
    let index = client.endpoint.address() / crate::mapping::PAGE_SIZE + page;
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, index as u64 * 8)?;
    Ok(u64::from_ne_bytes(entry) & PRESENT != 0)
}

fn idle_pages_are_freed_and_come_back(_: &Options) -> Result<()> {
    with_ground(|ground| {
        let clients = ground.clients(ONE, Wait::Sleep, |client| {
            let buffer = fill(client.endpoint, NR_PAGES, 5)?;
            let page = buffer.first_page();
            drop(buffer);
            ensure!(is_mapped(client, page)?, "an idle page went by itself");
            client.step()?;
            client.step()?;
            ensure!(!is_mapped(client, page)?, "the shrinker left an idle page");
            fill(client.endpoint, NR_PAGES, 6)?;
            ensure!(is_mapped(client, page)?, "no page came back");
            Ok(())
        })?;
        clients.step()?;
        ground.shrinkers.run()?;
        clients.step()?;
        clients.join()
    })
}

/// Lets clients fill and give back `nr_pages` each, then has them taken; returns the most common
/// counts of several times.
fn count(ground: &Ground, shape: Shape, wait: Wait, nr_pages: u32) -> Result<(u64, u64)> {
    let clients = ground.clients(shape, wait, |client| {
        loop {
            if client.thread == 0 {
                drop(fill(client.endpoint, nr_pages, client.process as u64)?);
            }
            client.step()?;
            // The shrinkers run now.
            client.step()?;
        }
    })?;
    let mut counted = Vec::new();
    for _ in 0..NR_ROUNDS {
        clients.step()?;
        let before = read_events()?;
        ground.shrinkers.run()?;
        counted.push(read_events()?.since(before));
        clients.step()?;
    }
    let rounds = most_common(counted.iter().map(|events| events.remote_flush));
    let ipis = most_common(counted.iter().map(|events| events.remote_flush_received));
    println!("# {shape:?}: {rounds} rounds, {ipis} IPIs for {nr_pages} pages each");
    Ok((rounds, ipis))
}

fn read_events() -> Result<TlbEvents> {
    TlbEvents::read()?.context("the kernel does not count TLB flushes (CONFIG_DEBUG_TLBFLUSH)")
}

/// One process, on all CPUs but the driver's.
const EVERYWHERE: Shape = Shape {
    processes: 1,
    threads: NR_OTHER_CPUS,
};

fn with_switch(test: impl FnOnce(&Ground, &Switch) -> Result<()>) -> Result<()> {
    with_ground(|ground| match Switch::open()? {
        Some(switch) => test(ground, &switch),
        None => skip("the driver has no switch to compare: no CONFIG_RUST_TLB"),
    })
}

fn with_how(how: How, test: impl FnOnce(&Ground) -> Result<()>) -> Result<()> {
    with_switch(|ground, switch| {
        switch.set(how)?;
        test(ground)
    })
}

/// Where rules can be broken; breaks one, if that is asked.
fn with_fault(
    fault: Option<Fault>,
    test: impl FnOnce(&Ground, &Switch) -> Result<()>,
) -> Result<()> {
    with_switch(|ground, switch| {
        if !switch.has_faults() {
            return skip("the kernel has no CONFIG_RUST_TLB_FAULTS");
        }
        fault.map_or(Ok(()), |fault| switch.break_rule(fault))?;
        test(ground, switch)
    })
}

fn a_page_takes_a_round_before(_: &Options) -> Result<()> {
    with_how(How::ByPage, |ground| {
        let (rounds, ipis) = count(ground, EVERYWHERE, Wait::Spin, NR_PAGES)?;
        ensure!(rounds >= u64::from(NR_PAGES), "{rounds} rounds");
        ensure!(ipis > rounds, "{ipis} IPIs");
        Ok(())
    })
}

fn a_scan_takes_one_round(_: &Options) -> Result<()> {
    with_how(How::Batched, |ground| {
        let (rounds, ipis) = count(ground, EVERYWHERE, Wait::Spin, NR_PAGES)?;
        ensure!(rounds == 1, "{rounds} rounds");
        ensure!((1..=NR_OTHER_CPUS as u64).contains(&ipis), "{ipis} IPIs");
        Ok(())
    })
}

fn a_scan_of_many_processes_takes_one_round(_: &Options) -> Result<()> {
    for processes in [8, 64] {
        with_how(How::Batched, |ground| {
            let shape = Shape {
                processes,
                threads: 1,
            };
            // The service's own pages are scanned as well.
            let nr_pages = NR_PAGES / processes as u32;
            let (rounds, _) = count(ground, shape, Wait::Sleep, nr_pages)?;
            ensure!(rounds <= 1, "{processes} processes: {rounds} rounds");
            Ok(())
        })?;
    }
    Ok(())
}

fn live_buffers_keep_their_contents(options: &Options) -> Result<()> {
    const NR_CALLS: u64 = 120;
    let nr_calls = NR_CALLS * u64::from(options.effort);
    with_ground(|ground| {
        let nr_done = Shared::<AtomicU32>::new(1)?;
        let shape = Shape {
            processes: NR_OTHER_CPUS,
            threads: 1,
        };
        let clients = ground.clients(shape, Wait::Sleep, |client| {
            for call in 0..nr_calls {
                let held = fill(client.endpoint, 1 + call as u32 % 7, call)?;
                drop(fill(client.endpoint, 1 + call as u32 % 40, !call)?);
                check(&held, 1 + call as u32 % 7, call)?;
            }
            nr_done[0].fetch_add(1, Ordering::Release);
            Ok(())
        })?;
        while nr_done[0].load(Ordering::Acquire) < NR_OTHER_CPUS as u32 {
            ground.shrinkers.run()?;
            clients.check()?;
        }
        clients.join()
    })
}
