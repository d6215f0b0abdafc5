// SPDX-License-Identifier: GPL-2.0

//! What the workers of a fixture do in each round: use the pages when they are told to, and spend the
//! time that is measured busy, or asleep. In between all of them sleep, so that nobody waits for
//! those who are busy doing nothing.

use core::hint;
use core::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;

use crate::abi;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::shared::Shared;
use crate::workers::Worker;

use super::mapped_file::MappedFile;
use super::pages::Pages;

/// Hot pages of the one who is looked at.
pub const NR_HOT: u64 = abi::ACCESSED_MAX_PAGES;
/// Passes over the hot pages, after which they are in the TLB.
const NR_PASSES: usize = 3;

/// Spins between two looks at whether all is over.
const SPINS_PER_CHECK: u32 = 1 << 16;

/// Whose pages are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Nobodys,
    Devices,
    Files,
}

/// What a group of workers is for.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Its workers run while something is measured, busy or not. The first of them is
    /// the victim.
    Measured { busy: bool },
    /// Its workers use the pages, and sleep.
    Beside,
}

/// Words that the driver and the workers share.
#[derive(Clone, Copy)]
enum Word {
    Whose,
    Nr,
    Stride,
    /// Workers that are ready to be measured, since ever.
    Ready,
    /// Measurements that are over.
    Over,
}

const NR_WORDS: usize = 5;

/// What driver and workers know.
pub struct Workload {
    words: Shared<AtomicU64>,
    /// The victim's own pages: another open file.
    hot: Device,
    first_hot: u64,
    pub file: Option<MappedFile>,
}

impl Workload {
    /// For a fixture that unmaps pages below `nr_pages`.
    pub fn new(nr_pages: u64, file: Option<MappedFile>) -> Result<Self> {
        let hot = Device::open()?;
        // At other offsets than those that are unmapped: `unmap_mapping_pages()` does not tell open
        // files of a device apart.
        let first_hot = hot.describe()?.nr_pages.saturating_sub(NR_HOT);
        anyhow::ensure!(nr_pages <= first_hot, "the device is too small");
        Ok(Self {
            words: Shared::new(NR_WORDS)?,
            hot,
            first_hot,
            file,
        })
    }

    fn word(&self, which: Word) -> &AtomicU64 {
        &self.words[which as usize]
    }

    fn read(&self, which: Word) -> u64 {
        self.word(which).load(Ordering::Acquire)
    }

    /// Says what is to be used from now on.
    pub fn tell(&self, whose: Whose, pages: Pages) {
        let told = [
            (Word::Whose, whose as u64),
            (Word::Nr, pages.nr),
            (Word::Stride, pages.stride),
        ];
        for (word, value) in told {
            self.word(word).store(value, Ordering::Release);
        }
    }

    /// Uses the pages, and the last one of `mapping`.
    pub fn touch(&self, mapping: &Mapping) {
        touch(mapping, mapping.nr_pages() - 1);
        let whose = self.read(Word::Whose);
        let stride = self.read(Word::Stride);
        let pages = (0..self.read(Word::Nr)).map(|page| page * stride);
        if whose == Whose::Devices as u64 {
            pages.for_each(|page| touch(mapping, page));
        } else if let (true, Some(file)) = (whose == Whose::Files as u64, &self.file) {
            pages.for_each(|page| file.touch(page));
        }
    }

    /// What a worker does until it is stopped.
    pub fn act(&self, worker: &Worker<'_>, role: Role) -> Result<()> {
        let is_victim = matches!(role, Role::Measured { .. }) && worker.index == 0;
        let own = is_victim
            .then(|| Mapping::new(&self.hot, self.first_hot, NR_HOT))
            .transpose()?;
        let touch_own = || own.iter().for_each(touch_all);
        loop {
            worker.step()?;
            self.touch(worker.mapping);
            worker.step()?;
            let Role::Measured { busy } = role else {
                continue;
            };
            worker.step()?;
            (0..NR_PASSES).for_each(|_| touch_own());
            self.wait_until_over(worker, busy);
            worker.step()?;
            touch_own();
            worker.step()?;
        }
    }

    /// Is measured.
    fn wait_until_over(&self, worker: &Worker<'_>, busy: bool) {
        let over = self.read(Word::Over);
        self.word(Word::Ready).fetch_add(1, Ordering::AcqRel);
        while busy && !worker.stopped() {
            for _ in 0..SPINS_PER_CHECK {
                if self.read(Word::Over) != over {
                    return;
                }
                hint::spin_loop();
            }
        }
    }

    /// Workers that have become ready, since ever.
    pub fn nr_ready(&self) -> u64 {
        self.read(Word::Ready)
    }

    /// Ends what is measured.
    pub fn end(&self) {
        self.word(Word::Over).fetch_add(1, Ordering::AcqRel);
    }

    /// Reads the victim's Accessed bits, and clears them if `op` says so.
    pub fn probe(&self, op: u32) -> Result<u64> {
        let bits = self.hot.accessed(self.first_hot, NR_HOT, op)?;
        anyhow::ensure!(bits.mapped == u64::MAX, "the victim's pages: {bits:?}");
        Ok(bits.accessed)
    }
}

/// Reads from a page.
pub fn touch(mapping: &Mapping, page: u64) {
    mapping.word(page, 0).load(Ordering::Relaxed);
}

fn touch_all(mapping: &Mapping) {
    for page in 0..mapping.nr_pages() {
        touch(mapping, page);
    }
}
