// SPDX-License-Identifier: GPL-2.0

//! Stopping a thread of this process wherever it is, also inside the kernel: another one runs on its
//! CPU, at real-time priority. So a test looks into the middle of a call, however long or short its
//! windows are, and however busy the machine below is.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::thread;

use anyhow::{ensure, Result};

use crate::cpu;

/// Until the interrupter comes again, at the earliest.
const PERIOD: Duration = Duration::from_micros(50);

/// What the interrupter wants after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Another one, a little later.
    Again,
    /// No more.
    Enough,
}

/// Does `work`, and has `look` called again and again while that stands still. What `look` waits for
/// must not need `work` to go on, or it looks again when `work` is over.
///
/// Both run on the driver's CPU: the calling thread is the driver.
pub fn interrupting<T>(
    look: impl FnMut() -> Look + Send,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (ready, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let interrupter = scope.spawn(|| interrupt(look, &ready, &over));
        while !ready.load(Ordering::Acquire) && !interrupter.is_finished() {
            thread::sleep(PERIOD);
        }
        let done = work();
        over.store(true, Ordering::Release);
        let interrupted = interrupter.join().expect("a look does not panic");
        interrupted.and(done)
    })
}

fn interrupt(mut look: impl FnMut() -> Look, ready: &AtomicBool, over: &AtomicBool) -> Result<()> {
    cpu::pin_driver()?;
    become_real_time()?;
    ready.store(true, Ordering::Release);
    loop {
        thread::sleep(PERIOD);
        if over.load(Ordering::Acquire) || look() == Look::Enough {
            return Ok(());
        }
    }
}

fn become_real_time() -> Result<()> {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: The structure is read, for the calling thread.
    let ret = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    ensure!(ret == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}
