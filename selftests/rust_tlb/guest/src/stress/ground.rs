// SPDX-License-Identifier: GPL-2.0

//! One thread's mapping of one open file, and what the thread knows of its pages.

use core::sync::atomic::Ordering;

use anyhow::Result;
use rustix::io::Errno;
use rustix::mm::MprotectFlags;

use crate::abi;
use crate::device::Device;
use crate::mapping::Mapping;
use crate::stress::action::Part;
use crate::stress::board::{Board, Count};
use crate::watcher::{Access, Watcher};

/// How the pages are judged.
pub enum Memory<'a> {
    /// Contents are gone after an unmap, and only then.
    Watched(Watcher<'a>),
    /// Contents are never gone.
    Saved(Stamps<'a>),
}

impl Memory<'_> {
    /// Visits each page once.
    pub fn pass(&mut self, mapping: &Mapping, access: Access) {
        match self {
            Self::Watched(watcher) => watcher.pass(mapping, access),
            Self::Saved(stamps) => stamps.pass(mapping, access),
        }
    }
}

/// A rising number in one thread's word of each page.
pub struct Stamps<'a> {
    board: &'a Board,
    slot: usize,
    last: Vec<u64>,
}

impl<'a> Stamps<'a> {
    pub fn new(board: &'a Board, slot: usize, nr_pages: u64) -> Self {
        Self {
            board,
            slot,
            last: vec![0; nr_pages as usize],
        }
    }

    fn pass(&mut self, mapping: &Mapping, access: Access) {
        for (page, last) in self.last.iter_mut().enumerate() {
            let word = mapping.word(page as u64, self.slot);
            let value = word.load(Ordering::Acquire);
            if value != *last {
                self.board.add(Count::LostSaved, 1);
                *last = value;
            }
            if access != Access::Read {
                *last = last.wrapping_add(1);
                word.store(*last, Ordering::Release);
            }
        }
    }
}

/// A thread's own mapping, which it may change, and its memory of the pages.
pub struct Ground<'a> {
    pub device: &'a Device,
    /// Pages that are mapped without a reference cannot be let go of.
    can_let_go: bool,
    mapping: Mapping,
    memory: Memory<'a>,
}

impl<'a> Ground<'a> {
    pub fn new(device: &'a Device, setup: u32, nr_pages: u64, memory: Memory<'a>) -> Result<Self> {
        Ok(Self {
            device,
            can_let_go: setup & abi::SETUP_PFNMAP == 0,
            mapping: device.map(nr_pages)?,
            memory,
        })
    }

    pub fn nr_pages(&self) -> u64 {
        self.mapping.nr_pages()
    }

    /// Visits each page once.
    pub fn pass(&mut self, access: Access) {
        self.memory.pass(&self.mapping, access);
    }

    pub fn replace(&mut self, part: Part) -> Result<()> {
        Ok(self.mapping.replace(self.device, part.first, part.nr)?)
    }

    pub fn dont_need(&self, part: Part) -> Result<()> {
        match self.mapping.dont_need_part(part.first, part.nr) {
            Err(Errno::INVAL) if !self.can_let_go => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// Looks at the pages in between: they are writable, or dirty, by a stale translation only.
    pub fn read_only(&mut self, part: Part) -> Result<()> {
        self.protect(part, MprotectFlags::READ)?;
        self.pass(Access::Read);
        self.protect(part, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    pub fn forbid(&self, part: Part) -> Result<()> {
        self.protect(part, MprotectFlags::empty())?;
        self.protect(part, MprotectFlags::READ | MprotectFlags::WRITE)
    }

    fn protect(&self, part: Part, prot: MprotectFlags) -> Result<()> {
        Ok(self.mapping.protect_part(part.first, part.nr, prot)?)
    }

    pub fn renew(&mut self) -> Result<()> {
        self.mapping = self.device.map(self.nr_pages())?;
        Ok(())
    }

    /// In one piece: what was changed in part is no longer one mapping for the kernel.
    pub fn relocate(&mut self) -> Result<()> {
        self.renew()?;
        self.pass(Access::ReadWrite);
        Ok(self.mapping.relocate()?)
    }

    /// Has the device move a part to a second mapping of all, which is the one from then on.
    pub fn shift(&mut self, part: Part, flags: u32) -> Result<()> {
        self.renew()?;
        self.pass(Access::ReadWrite);
        let other = self.device.map(self.nr_pages())?;
        self.device
            .move_part(&self.mapping, &other, part.first, part.nr, flags)?;
        self.mapping = other;
        self.pass(Access::Read);
        Ok(())
    }
}
