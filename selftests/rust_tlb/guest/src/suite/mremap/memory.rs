// SPDX-License-Identifier: GPL-2.0

//! What the tests move, and from where to where.

use anyhow::Result;
use rustix::fd::OwnedFd;
use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags};

use crate::arena::{Arena, Span, PMD_SIZE, PUD_SIZE};
use crate::mapping::PAGE_SIZE;

/// What the entries of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tables,
    HugePmds,
    Ptes,
}

pub const KINDS: [Kind; 3] = [Kind::Tables, Kind::HugePmds, Kind::Ptes];

impl Kind {
    /// Where the destination begins, in the first of its PTE tables: PTEs move one by one where that is
    /// not where the source begins.
    fn skew(self) -> usize {
        match self {
            Self::Ptes => 17 * PAGE_SIZE,
            _ => 0,
        }
    }
}

/// A place to move from, and one to move to. A run ends where a PMD table does; a GiB from `old` to
/// `new` is cut by that where its 64th PMD entries end in any case.
pub struct Ground {
    arena: Arena,
    pub kind: Kind,
    len: usize,
}

impl Ground {
    pub fn new(kind: Kind, nr_pmds: usize) -> Result<Self> {
        let arena = Arena::new(5 * PUD_SIZE)?;
        let len = nr_pmds * PMD_SIZE;
        Ok(Self { arena, kind, len })
    }

    pub fn old(&self) -> Span<'_> {
        self.arena.span(64 * PMD_SIZE, self.len)
    }

    pub fn new_place(&self) -> Span<'_> {
        let at = 2 * PUD_SIZE + 128 * PMD_SIZE + self.kind.skew();
        self.arena.span(at, self.len)
    }

    /// Maps anonymous memory at the old place, of the kind, without a page.
    pub fn map(&self) -> Result<Span<'_>> {
        let old = self.old();
        old.map_anonymous()?;
        old.advise(match self.kind {
            Kind::HugePmds => Advice::LinuxHugepage,
            _ => Advice::LinuxNoHugepage,
        })?;
        Ok(old)
    }

    /// Maps shared memory at the old place, of the kind, without a page.
    pub fn map_shared(&self) -> Result<OwnedFd> {
        let file = rustix::fs::memfd_create("mremap", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, self.len as u64)?;
        self.old().map_file(&file, 0, MapFlags::SHARED)?;
        if self.kind == Kind::HugePmds {
            self.old().advise(Advice::LinuxHugepage)?;
        }
        Ok(file)
    }
}
