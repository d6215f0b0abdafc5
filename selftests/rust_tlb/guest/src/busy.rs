// SPDX-License-Identifier: GPL-2.0

//! Threads on the other CPUs that do nothing, so that these are busy with this mm and take its IPIs.

use core::hint;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::Result;

use crate::cpu;

/// The threads. They end when it goes out of scope.
pub struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Busy {
    /// Starts `nr`, and waits until all of them are there.
    pub fn start(nr: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let nr_there = Arc::new(AtomicUsize::new(0));
        let spawn = |index| {
            let (stop, nr_there) = (stop.clone(), nr_there.clone());
            thread::spawn(move || {
                let pinned = cpu::pin_worker(index);
                nr_there.fetch_add(1, Ordering::Release);
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
                pinned
            })
        };
        let threads = (0..nr).map(spawn).collect();
        while nr_there.load(Ordering::Acquire) < nr {
            thread::yield_now();
        }
        Self { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if !matches!(thread.join(), Ok(Ok(()))) {
                println!("# a CPU was not kept busy");
            }
        }
    }
}
