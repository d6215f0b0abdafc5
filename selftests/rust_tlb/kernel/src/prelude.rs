// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/prelude.rs` as the pure files use.

use crate::alloc::AllocError;

/// Those of the kernel's errors that the pure files return, by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(&'static str);

/// Invalid argument.
pub const EINVAL: Error = Error("EINVAL");
/// Out of memory.
pub const ENOMEM: Error = Error("ENOMEM");

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        ENOMEM
    }
}

/// As the kernel's.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;
