// SPDX-License-Identifier: GPL-2.0

//! Threads and processes that map the device, each on a CPU of its own, in step with the driver.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{anyhow, Result};

use crate::barrier::{Barrier, GaveUp, Wait};
use crate::child::Child;
use crate::cpu;
use crate::device::Device;
use crate::mapping::Mapping;

/// How many processes, and threads in each.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub processes: usize,
    pub threads: usize,
}

impl Shape {
    /// Workers of this shape.
    pub fn nr_workers(self) -> usize {
        self.processes * self.threads
    }
}

/// One thread of several, as its body sees itself.
pub struct Worker<'a> {
    /// Its number among the workers, from zero.
    pub index: usize,
    /// The pages, mapped in its process.
    pub mapping: &'a Mapping,
    barrier: &'a Barrier,
}

impl Worker<'_> {
    /// Goes on together with all other workers and the driver.
    pub fn step(&self) -> Result<()> {
        self.barrier.wait()
    }

    /// Whether the workers are to stop without another step.
    pub fn stopped(&self) -> bool {
        self.barrier.given_up()
    }

    /// Runs `body` on the worker's CPU; a failure is told, and stops all workers.
    fn run(&self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        match cpu::pin_worker(self.index).and_then(|()| body(self)) {
            Err(error) if !error.is::<GaveUp>() => {
                println!("# worker {}: {error:#}", self.index);
                self.barrier.give_up();
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// Workers that start together. Those that are still at work when it goes out of scope are stopped.
pub struct Workers {
    barrier: Arc<Barrier>,
    threads: Vec<JoinHandle<Result<()>>>,
    children: Vec<Child>,
}

impl Workers {
    /// Starts `nr` threads of this process.
    pub fn of_threads<F>(mapping: &Arc<Mapping>, nr: usize, wait: Wait, body: F) -> Result<Self>
    where
        F: Fn(&Worker<'_>) -> Result<()> + Send + Sync + 'static,
    {
        let barrier = Arc::new(Barrier::new(nr + 1, wait)?);
        let body = Arc::new(body);
        let spawn = |index| {
            let (mapping, barrier, body) = (mapping.clone(), barrier.clone(), body.clone());
            thread::spawn(move || {
                let worker = Worker {
                    index,
                    mapping: &mapping,
                    barrier: &barrier,
                };
                worker.run(&*body)
            })
        };
        Ok(Self {
            threads: (0..nr).map(spawn).collect(),
            children: Vec::new(),
            barrier,
        })
    }

    /// Forks processes that share the open file, each with a mapping of its first `nr_pages`.
    pub fn of_processes<F>(
        device: &Device,
        nr_pages: u64,
        shape: Shape,
        wait: Wait,
        body: F,
    ) -> Result<Self>
    where
        F: Fn(&Worker<'_>) -> Result<()> + Sync,
    {
        let barrier = Arc::new(Barrier::new(shape.nr_workers() + 1, wait)?);
        let fork = |process| {
            Child::fork(|| {
                let mapping = device.map(nr_pages)?;
                run_process(
                    process * shape.threads,
                    shape.threads,
                    &mapping,
                    &barrier,
                    &body,
                )
            })
        };
        Ok(Self {
            children: (0..shape.processes).map(fork).collect::<Result<_>>()?,
            threads: Vec::new(),
            barrier: barrier.clone(),
        })
    }

    /// The driver's side of [`Worker::step`]. Fails if a worker has failed or died.
    pub fn step(&self) -> Result<()> {
        self.barrier.wait_checking(|| self.check())
    }

    /// Fails if a worker has failed or died.
    pub fn check(&self) -> Result<()> {
        if self.barrier.given_up() {
            return Err(GaveUp.into());
        }
        self.children.iter().try_for_each(Child::check_alive)
    }

    /// Waits until all have come to their end by themselves.
    pub fn join(mut self) -> Result<()> {
        let threads = self.threads.drain(..).map(join_thread);
        let children = self.children.drain(..).map(Child::join);
        threads
            .chain(children)
            .collect::<Vec<_>>()
            .into_iter()
            .collect()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.barrier.give_up();
        for thread in self.threads.drain(..) {
            // It has told of its failure.
            let _ = join_thread(thread);
        }
    }
}

fn join_thread(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

/// Runs the workers of one process: the first on the thread that is there.
fn run_process<F>(
    first: usize,
    nr_threads: usize,
    mapping: &Mapping,
    barrier: &Barrier,
    body: &F,
) -> Result<()>
where
    F: Fn(&Worker<'_>) -> Result<()> + Sync,
{
    let worker = |index| Worker {
        index,
        mapping,
        barrier,
    };
    thread::scope(|scope| {
        let spawn = |index| scope.spawn(move || worker(index).run(body));
        let others: Vec<_> = (first + 1..first + nr_threads).map(spawn).collect();
        let own = worker(first).run(body);
        let joined = others
            .into_iter()
            .map(|other| other.join().unwrap_or(Err(GaveUp.into())));
        joined.fold(own, Result::and)
    })
}
