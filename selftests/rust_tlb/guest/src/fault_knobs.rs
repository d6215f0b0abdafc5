// SPDX-License-Identifier: GPL-2.0

//! What a kernel with `CONFIG_RUST_TLB_FAULTS` lets a test break, or hold open.
//!
//! H2 is a rule of `Documentation/mm/tlb_batch.rst`.

use std::fs;

use anyhow::{Context, Result};

const FOLDER: &str = "/sys/kernel/debug/rust_tlb_faults";

/// H2: what others have yet to flush is not seen.
pub const IGNORE_PENDING: &str = "ignore_pending";
/// Milliseconds between the moment when a deadline passes and what is done then.
pub const DELAY_EXPIRY_MS: &str = "delay_expiry_ms";

/// Whether the kernel has them.
pub fn are_there() -> bool {
    fs::exists(FOLDER).unwrap_or(false)
}

/// Deadlines that have passed, while what is done then is not over.
pub fn nr_expiring() -> Result<u32> {
    let path = format!("{FOLDER}/nr_expiring");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(text.trim().parse()?)
}

/// A knob that is not zero, until this goes out of scope.
pub struct Turned(String);

impl Turned {
    /// Turns one of the knobs above.
    pub fn to(knob: &str, value: u32) -> Result<Self> {
        let path = format!("{FOLDER}/{knob}");
        fs::write(&path, value.to_string()).with_context(|| path.clone())?;
        Ok(Self(path))
    }
}

impl Drop for Turned {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, "0") {
            println!("# {}: {error}", self.0);
        }
    }
}
