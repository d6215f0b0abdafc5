// SPDX-License-Identifier: GPL-2.0

//! As much of `rust/kernel/prelude.rs` as the pure files use.

use crate::alloc::AllocError;

/// Of the kernel's errors, the host has but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(AllocError);

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Self {
        Self(error)
    }
}

/// As the kernel's.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;
