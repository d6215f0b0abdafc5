// SPDX-License-Identifier: GPL-2.0

//! Pages that hold their number, or nothing yet.

use core::sync::atomic::Ordering::Relaxed;

use anyhow::{ensure, Result};

use crate::mapping::Mapping;

/// Writes its number to each of some pages.
pub fn fill(mapping: &Mapping, pages: impl IntoIterator<Item = u64>) {
    for page in pages {
        mapping.word(page, 0).store(page + 1, Relaxed);
    }
}

/// They hold what [`fill`] has written.
pub fn expect_filled(mapping: &Mapping, pages: impl IntoIterator<Item = u64>) -> Result<()> {
    for page in pages {
        let found = mapping.word(page, 0).load(Relaxed);
        ensure!(found == page + 1, "page {page}: {found:#x}");
    }
    Ok(())
}

/// They are as new.
pub fn expect_fresh(mapping: &Mapping, pages: impl IntoIterator<Item = u64>) -> Result<()> {
    for page in pages {
        let found = mapping.word(page, 0).load(Relaxed);
        ensure!(found == 0, "page {page}: {found:#x}");
    }
    Ok(())
}
