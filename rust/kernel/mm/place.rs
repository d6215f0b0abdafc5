// SPDX-License-Identifier: GPL-2.0

//! Which mappings of a file are meant.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

/// Identifies the mappings of a file over one driver's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) mapping: usize,
    pub(crate) data: usize,
}
