// SPDX-License-Identifier: GPL-2.0

//! Clients of the service, processes with an endpoint each, in step with whoever drives them.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use anyhow::Result;

use super::endpoint::Endpoint;
use super::service::NR_PAGES;
use crate::barrier::{Barrier, GaveUp, Wait};
use crate::child::Child;
use crate::cpu;
use crate::workers::Shape;

/// One thread of a client, as its body sees itself.
pub struct Client<'a> {
    /// The process's number, from zero.
    pub process: usize,
    /// The thread's number in the process; the first does the talking.
    pub thread: usize,
    /// The process's open file of the driver.
    pub endpoint: &'a Endpoint,
    barrier: &'a Barrier,
}

impl Client<'_> {
    /// Goes on together with all others and the driver.
    pub fn step(&self) -> Result<()> {
        self.barrier.wait()
    }

    /// Whether all are to stop without another step.
    pub fn stopped(&self) -> bool {
        self.barrier.given_up()
    }
}

/// The clients. Those that are still at work when it goes out of scope are killed.
pub struct Clients {
    barrier: Arc<Barrier>,
    children: Vec<Child>,
}

impl Clients {
    /// Forks them. Each thread runs `body`, on the CPU that its number says.
    pub fn start<F>(device: &Path, shape: Shape, wait: Wait, body: F) -> Result<Self>
    where
        F: Fn(&Client<'_>) -> Result<()> + Sync,
    {
        let barrier = Arc::new(Barrier::new(shape.nr_workers() + 1, wait)?);
        let fork = |process| {
            Child::fork(|| {
                let endpoint = Endpoint::open(device, NR_PAGES)?;
                let told = run_threads(process, shape.threads, &endpoint, &barrier, &body);
                match told {
                    // Dismissed, not failed.
                    Err(error) if error.is::<GaveUp>() => Ok(()),
                    Err(error) => {
                        barrier.give_up();
                        Err(error)
                    }
                    Ok(()) => Ok(()),
                }
            })
        };
        Ok(Self {
            children: (0..shape.processes).map(fork).collect::<Result<_>>()?,
            barrier: barrier.clone(),
        })
    }

    /// The driver's side of [`Client::step`]. Fails if a client has failed or died.
    pub fn step(&self) -> Result<()> {
        self.barrier
            .wait_checking(|| self.children.iter().try_for_each(Child::check_alive))
    }

    /// Fails if a client has failed.
    pub fn check(&self) -> Result<()> {
        match self.barrier.given_up() {
            true => Err(GaveUp.into()),
            false => Ok(()),
        }
    }

    /// Waits until all have come to their end by themselves.
    pub fn join(mut self) -> Result<()> {
        let ended: Vec<_> = self.children.drain(..).map(Child::join).collect();
        ended.into_iter().collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.barrier.give_up();
    }
}

fn run_threads<F>(
    process: usize,
    nr_threads: usize,
    endpoint: &Endpoint,
    barrier: &Barrier,
    body: &F,
) -> Result<()>
where
    F: Fn(&Client<'_>) -> Result<()> + Sync,
{
    let run = |thread| {
        cpu::pin_worker(process * nr_threads + thread)?;
        body(&Client {
            process,
            thread,
            endpoint,
            barrier,
        })
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..nr_threads)
            .map(|n| scope.spawn(move || run(n)))
            .collect();
        let own = run(0);
        let joined = others
            .into_iter()
            .map(|other| other.join().unwrap_or(Err(GaveUp.into())));
        joined.fold(own, Result::and)
    })
}
