// SPDX-License-Identifier: GPL-2.0

//! A thread that uses one page all the time, in a process that is there for nothing else: whether it
//! can go on with the old page when that should be gone.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;

use anyhow::{bail, ensure, Result};

use crate::abi;
use crate::attempts::Attempt;
use crate::child::{describe, Child};
use crate::cpu;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::shared::Shared;
use crate::stillness::{this_thread, Stillness};

/// What became of the old page, for its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was used afterwards.
    Used,
    /// It was not, and nothing but what the test did can be the reason; no CPU was asked to flush.
    Gone,
    /// It was not, and a CPU was asked to flush.
    GoneByAFlush,
    /// It was not, but the user was switched away, or had to look it up before.
    GoneByASwitch,
    /// It was not, and its user has slept since then: in a fault, so it was gone by then.
    GoneInAFault,
    /// What the test wanted to do could not be done.
    Untried,
}

const FATES: [Fate; 6] = [
    Fate::Used,
    Fate::Gone,
    Fate::GoneByAFlush,
    Fate::GoneByASwitch,
    Fate::GoneInAFault,
    Fate::Untried,
];

/// Exit code of a process with the first of these fates; smaller ones are failures.
const FIRST_CODE: i32 = 40;

impl Fate {
    /// Where the old page has to be gone.
    pub fn expect_gone(self) -> Attempt {
        match self {
            Self::Used => Attempt::Missed("the old page is in use".into()),
            // It would have been gone anyway.
            Self::GoneByASwitch | Self::Untried => Attempt::Spoilt,
            Self::Gone | Self::GoneByAFlush | Self::GoneInAFault => Attempt::Caught,
        }
    }

    /// Where a broken rule has to leave it in use.
    pub fn expect_used(self) -> Attempt {
        let found = || "nobody used the old page".into();
        Attempt::judge(self == Self::Used, self == Self::Gone, found)
    }
}

/// Runs `body` in a process of its own, which may be left in whatever state it is in then.
pub fn in_a_process(body: impl FnOnce() -> Result<Fate>) -> Result<Fate> {
    let code = || match body() {
        Ok(fate) => FIRST_CODE + fate as i32,
        Err(error) => {
            println!("# {error:#}");
            1
        }
    };
    let status = Child::fork_with_code(code)?.wait()?;
    let fate = |code: i32| FATES.get(usize::try_from(code - FIRST_CODE).ok()?);
    match status.exit_status().and_then(fate) {
        Some(fate) => Ok(*fate),
        None => bail!("the process {}", describe(status)),
    }
}

/// The user has faulted on what is not mapped any more.
static HAS_FAULTED: AtomicBool = AtomicBool::new(false);

/// The end of the user. The driver takes it from there.
extern "C" fn note_fault(_: libc::c_int) {
    HAS_FAULTED.store(true, Ordering::Release);
    loop {
        core::hint::spin_loop();
    }
}

fn catch_faults() -> Result<()> {
    let handler: extern "C" fn(libc::c_int) = note_fault;
    // SAFETY: The handler stores to an atomic, and does not return.
    let before = unsafe { libc::signal(libc::SIGSEGV, handler as usize) };
    ensure!(before != libc::SIG_ERR, "no handler for SIGSEGV");
    Ok(())
}

/// How the page is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// By reads: the translation stays clean.
    Read,
    /// By reads, and by writes that do not change what is read.
    ReadWrite,
}

/// What the user tells: how often it has used the page, what it read last, and who it is.
const NR_USES: usize = 0;
const LAST_READ: usize = 1;
const THREAD: usize = 2;
const NR_WORDS: usize = 3;

/// The thread, on a CPU other than the driver's. It ends with its process.
pub struct PageUser {
    desk: Arc<Shared<AtomicU64>>,
    page: u64,
}

impl PageUser {
    /// Starts it, and waits until it uses page `page` of `mapping`, whose first word is not zero.
    pub fn start(mapping: &Arc<Mapping>, page: u64, how: Use) -> Result<Self> {
        let desk = Arc::new(Shared::new(NR_WORDS)?);
        let (used, shown) = (mapping.clone(), desk.clone());
        catch_faults()?;
        thread::spawn(move || {
            if cpu::pin_worker(0).is_ok() {
                use_page(&used, page, how, &shown)
            }
        });
        let user = Self { desk, page };
        user.await_uses(1000);
        Ok(user)
    }

    fn get(&self, which: usize) -> u64 {
        self.desk[which].load(Ordering::Acquire)
    }

    /// Waits for `nr` more uses; false if the user faults before.
    fn await_uses(&self, nr: u64) -> bool {
        let goal = self.get(NR_USES) + nr;
        while self.get(NR_USES) < goal {
            if HAS_FAULTED.load(Ordering::Acquire) {
                return false;
            }
            core::hint::spin_loop();
        }
        true
    }

    /// From now on the user is to keep what it has in its TLB.
    pub fn stillness(&self) -> Result<Stillness> {
        Stillness::of(vec![self.get(THREAD)])
    }

    /// Whether the user finds the page in its TLB.
    pub fn is_resident(&self, device: &Device) -> Result<bool> {
        device.accessed(self.page, 1, abi::ACCESSED_CLEAR)?;
        // One use may have been under way.
        self.await_uses(3);
        Ok(device.accessed(self.page, 1, abi::ACCESSED_READ)?.accessed == 0)
    }

    /// Waits until the user has used the page, whichever that is now, or cannot any more. A fresh
    /// page is zero. Whether anything else took the old one away, `was_resident` and `since` tell.
    pub fn fate(&self, was_resident: bool, since: &Stillness) -> Result<Fate> {
        let goes_on = self.await_uses(3);
        if goes_on && self.get(LAST_READ) != 0 {
            Ok(Fate::Used)
        } else if !was_resident || since.all_preempted()? {
            Ok(Fate::GoneByASwitch)
        } else if since.nr_flushed()? > 0 {
            Ok(Fate::GoneByAFlush)
        } else if since.all_switched()? {
            Ok(Fate::GoneInAFault)
        } else {
            Ok(Fate::Gone)
        }
    }
}

fn use_page(mapping: &Mapping, page: u64, how: Use, desk: &Shared<AtomicU64>) -> ! {
    desk[THREAD].store(this_thread(), Ordering::Release);
    let word = mapping.word(page, 0);
    loop {
        let value = word.load(Ordering::Acquire);
        if how == Use::ReadWrite {
            // A dirty translation, so that a write through it does not fault.
            mapping.word(page, 1).store(1, Ordering::Release);
        }
        desk[LAST_READ].store(value, Ordering::Release);
        desk[NR_USES].fetch_add(1, Ordering::AcqRel);
    }
}
