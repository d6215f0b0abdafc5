// SPDX-License-Identifier: GPL-2.0

//! Which pages are taken back.

use rust_tlb_results::names::Layout;

use crate::selection::Selection;

/// So many pages, so far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pages {
    pub nr: u64,
    pub stride: u64,
}

impl Pages {
    /// Pages that have to be mapped for that.
    pub fn span(self) -> u64 {
        self.nr * self.stride
    }

    pub fn layout(self) -> Layout {
        match self.stride {
            1 => Layout::Contiguous,
            _ => Layout::Scattered,
        }
    }

    pub fn selection(self) -> Selection {
        Selection::Every {
            first: 0,
            nr: self.nr,
            stride: self.stride,
        }
    }
}
