// SPDX-License-Identifier: GPL-2.0

//! A pipe with references to user pages in it (`vmsplice`): they are held until somebody reads.

use std::fs::File;
use std::io::Read;

use anyhow::{ensure, Result};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{self, IoSliceRaw, PipeFlags, SpliceFlags};

use crate::mapping::{Mapping, PAGE_SIZE};

/// References to all pages of a mapping that are used.
pub struct PageHolder {
    reader: OwnedFd,
    /// Open, so that a reader who wants too much is noticed by a hang, not by an end of file.
    _writer: OwnedFd,
    nr_pages: usize,
}

impl PageHolder {
    /// Takes a reference to each page, and faults those in that are not mapped.
    pub fn take(mapping: &Mapping) -> Result<Self, Errno> {
        let (reader, writer) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let pages: Vec<_> = mapping.used().map(|page| slice_of(mapping, page)).collect();
        pipe::fcntl_setpipe_size(&writer, pages.len() * PAGE_SIZE)?;
        let mut nr_taken = 0;
        while nr_taken < pages.len() {
            let flags = SpliceFlags::empty();
            // SAFETY: It is the end to write to, so that the memory is only read.
            let nr_bytes = unsafe { pipe::vmsplice(&writer, &pages[nr_taken..], flags) }?;
            // A page is taken as a whole, or not.
            nr_taken += nr_bytes / PAGE_SIZE;
        }
        Ok(Self {
            reader,
            _writer: writer,
            nr_pages: pages.len(),
        })
    }

    /// Reads what the pages hold now, one word of each, and lets go of them.
    pub fn read(self, index: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; self.nr_pages * PAGE_SIZE];
        File::from(self.reader).read_exact(&mut bytes)?;
        let words = words_of(&bytes, index);
        ensure!(words.len() == self.nr_pages, "{} pages", words.len());
        Ok(words)
    }
}

fn slice_of(mapping: &Mapping, page: u64) -> IoSliceRaw<'_> {
    // SAFETY: This is inside the mapping, whose words are atomics; without `GIFT` they may go on
    // changing.
    IoSliceRaw::from_slice(unsafe {
        core::slice::from_raw_parts(mapping.part(page, 1).cast::<u8>(), PAGE_SIZE)
    })
}

/// Word `index` of each page.
pub fn words_of(bytes: &[u8], index: usize) -> Vec<u64> {
    let pages = bytes.chunks_exact(PAGE_SIZE);
    pages.map(|page| word_of(page, index)).collect()
}

fn word_of(page: &[u8], index: usize) -> u64 {
    let mut word = [0; size_of::<u64>()];
    word.copy_from_slice(&page[index * size_of::<u64>()..][..size_of::<u64>()]);
    u64::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_words() {
        let mut bytes = vec![0; 2 * PAGE_SIZE];
        bytes[PAGE_SIZE + 8..][..8].copy_from_slice(&7_u64.to_ne_bytes());
        assert_eq!(words_of(&bytes, 1), [0, 7]);
        assert_eq!(words_of(&bytes, 0), [0, 0]);
    }
}
