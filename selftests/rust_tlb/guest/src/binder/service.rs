// SPDX-License-Identifier: GPL-2.0

//! A service that answers each call with as many bytes as it asks for, in a pattern that tells
//! calls apart.

use core::sync::atomic::{AtomicU32, Ordering};
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::endpoint::{Buffer, Endpoint};
use crate::child::Child;
use crate::mapping::PAGE_SIZE;
use crate::shared::Shared;

/// Pages in which a client or the service receives.
pub const NR_PAGES: usize = 256;

const WORDS_PER_PAGE: usize = PAGE_SIZE / size_of::<u64>();

/// The service, in a process of its own.
pub struct Service {
    _process: Child,
}

impl Service {
    /// Starts it, and returns when it can be called.
    pub fn start(device: &Path) -> Result<Self> {
        let ready = Shared::<AtomicU32>::new(1)?;
        let process = Child::fork(|| {
            let endpoint = Endpoint::open(device, NR_PAGES)?;
            endpoint.become_service()?;
            ready[0].store(1, Ordering::Release);
            endpoint.serve(answer)
        })?;
        while ready[0].load(Ordering::Acquire) == 0 {
            process.check_alive()?;
            std::thread::yield_now();
        }
        Ok(Self { _process: process })
    }
}

/// `nr_pages`, given as code, of words that count up from the one that was sent.
fn answer(nr_pages: u32, data: &[u8]) -> Vec<u8> {
    let first = data
        .first_chunk()
        .map_or(0, |word| u64::from_ne_bytes(*word));
    let nr_words = nr_pages as usize * WORDS_PER_PAGE;
    let words = (0..nr_words as u64).map(|index| first.wrapping_add(index));
    words.flat_map(u64::to_ne_bytes).collect()
}

/// Asks the service to fill `nr_pages` of `endpoint`, and checks what comes.
pub fn fill(endpoint: &Endpoint, nr_pages: u32, first: u64) -> Result<Buffer<'_>> {
    let buffer = endpoint.call(nr_pages, &first.to_ne_bytes())?;
    check(&buffer, nr_pages, first).context("what the service sent")?;
    Ok(buffer)
}

/// Checks that a buffer holds what was asked for, every word of it.
pub fn check(buffer: &Buffer<'_>, nr_pages: u32, first: u64) -> Result<()> {
    ensure!(
        buffer.bytes() == answer(nr_pages, &first.to_ne_bytes()),
        "not the words from {first:#x} on"
    );
    Ok(())
}
