// SPDX-License-Identifier: GPL-2.0

//! Processes that die while their pages are taken, and what is left of them: nothing.

use core::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{ensure, Result};

use super::{with_fault, with_ground, Ground, NR_OTHER_CPUS, NR_PAGES, ONE};
use crate::barrier::Wait;
use crate::binder::endpoint::Endpoint;
use crate::binder::service::{fill, NR_PAGES as NR_ENDPOINT_PAGES};
use crate::child::Child;
use crate::cpu;
use crate::ktap::Options;
use crate::memory_use::{expect_no_leak, MemoryUse};
use crate::shared::Shared;
use crate::workers::Shape;

pub fn a_process_that_dies_takes_its_pages_along(_: &Options) -> Result<()> {
    with_ground(|ground| {
        for _ in 0..50 {
            let clients = ground.clients(ONE, Wait::Sleep, |client| {
                drop(fill(client.endpoint, NR_PAGES, 1)?);
                client.step()
            })?;
            clients.step()?;
            ground.shrinkers.run()?;
            clients.join()?;
        }
        Ok(())
    })
}

/// A process that calls, and gives back what it got, until it is killed.
fn start_caller(ground: &Ground, index: usize, nr_calls: &Shared<AtomicU32>) -> Result<Child> {
    Child::fork(|| {
        cpu::pin_worker(index)?;
        let endpoint = Endpoint::open(&ground.binderfs.device(), NR_ENDPOINT_PAGES)?;
        loop {
            drop(fill(&endpoint, NR_PAGES, index as u64)?);
            nr_calls[index].fetch_add(1, Ordering::Release);
        }
    })
}

fn await_call(caller: &Child, index: usize, nr_calls: &Shared<AtomicU32>) -> Result<()> {
    let before = nr_calls[index].load(Ordering::Acquire);
    while nr_calls[index].load(Ordering::Acquire) == before {
        caller.check_alive()?;
        thread::yield_now();
    }
    Ok(())
}

/// One that has given back a buffer, and does nothing more.
fn start_idler(ground: &Ground, is_idle: &Shared<AtomicU32>) -> Result<Child> {
    is_idle[0].store(0, Ordering::Relaxed);
    let idler = Child::fork(|| {
        cpu::pin_worker(0)?;
        let endpoint = Endpoint::open(&ground.binderfs.device(), NR_ENDPOINT_PAGES)?;
        drop(fill(&endpoint, NR_PAGES, 1)?);
        is_idle[0].store(1, Ordering::Release);
        loop {
            core::hint::spin_loop();
        }
    })?;
    while is_idle[0].load(Ordering::Acquire) == 0 {
        idler.check_alive()?;
        thread::yield_now();
    }
    Ok(idler)
}

/// The driver's range of pages goes between a scan's unmap and its flush.
pub fn a_process_dies_while_its_flush_is_owed(_: &Options) -> Result<()> {
    const NR_DEATHS: usize = 10;
    with_fault(None, |ground, switch| {
        let is_idle = Shared::new(1)?;
        for _ in 0..NR_DEATHS {
            let idler = start_idler(ground, &is_idle)?;
            switch.while_owed(&ground.shrinkers, |nr_pages| {
                ensure!(nr_pages >= u64::from(NR_PAGES), "{nr_pages} pages are owed");
                idler.kill()?;
                // Somebody else, with the memory of the dead, if it were free already.
                drop(start_idler(ground, &is_idle)?);
                Ok(())
            })?;
        }
        Ok(())
    })
}

pub fn processes_die_while_pages_are_taken(options: &Options) -> Result<()> {
    const NR_DEATHS: usize = 40;
    with_ground(|ground| {
        let nr_calls = Shared::new(NR_OTHER_CPUS)?;
        let is_over = AtomicU32::new(0);
        thread::scope(|scope| {
            let shrink = || {
                while is_over.load(Ordering::Relaxed) == 0 {
                    ground.shrinkers.run()?;
                }
                std::io::Result::Ok(())
            };
            let shrinking = scope.spawn(shrink);
            let died = (0..NR_DEATHS * options.effort as usize).try_for_each(|death| {
                let index = death % NR_OTHER_CPUS;
                let caller = start_caller(ground, index, &nr_calls)?;
                await_call(&caller, index, &nr_calls)?;
                caller.kill().map(drop)
            });
            is_over.store(1, Ordering::Relaxed);
            shrinking.join().expect("who shrinks does not panic")?;
            died
        })
    })
}

pub fn nothing_is_leaked(_: &Options) -> Result<()> {
    const NR_READINGS: usize = 4;
    const NR_LIVES: usize = 2;
    let shape = Shape {
        processes: 8,
        threads: 1,
    };
    with_ground(|ground| {
        let live = || {
            let clients = ground.clients(shape, Wait::Sleep, |client| {
                drop(fill(client.endpoint, NR_PAGES, client.process as u64)?);
                client.step()?;
                client.step()?;
                // Used again, and idle when the process ends.
                drop(fill(client.endpoint, NR_PAGES, 0)?);
                Ok(())
            })?;
            clients.step()?;
            ground.shrinkers.run()?;
            clients.step()?;
            clients.join()
        };
        let mut readings = Vec::new();
        for _ in 0..NR_READINGS {
            (0..NR_LIVES).try_for_each(|_| live())?;
            ground.shrinkers.run()?;
            readings.push(MemoryUse::read()?);
        }
        expect_no_leak(&readings)
    })
}
