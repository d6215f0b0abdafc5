// SPDX-License-Identifier: GPL-2.0

//! Which pages of the device a call is about.

use crate::abi;
use crate::page::PAGE_SIZE;

/// Pages of the device, in one of the forms that [`abi::UNMAP`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// `nr` pages from `first`, `stride` pages from one to the next.
    Every {
        first: u64,
        nr: u64,
        stride: u64,
    },
    List(Vec<u64>),
}

impl Selection {
    /// `nr` neighbouring pages.
    pub fn run(first: u64, nr: u64) -> Self {
        Self::Every {
            first,
            nr,
            stride: 1,
        }
    }

    /// `nr` pages, no two of them neighbours.
    pub fn scattered(first: u64, nr: u64) -> Self {
        Self::Every {
            first,
            nr,
            stride: 2,
        }
    }

    /// `nr` different pages below `nr_pages`, in random order.
    pub fn random(rng: &mut fastrand::Rng, nr_pages: u64, nr: usize) -> Self {
        Self::List(rng.choose_multiple(0..nr_pages, nr))
    }

    /// The page numbers, in the order in which the device is given them.
    pub fn pages(&self) -> Vec<u64> {
        match self {
            Self::Every { first, nr, stride } => (0..*nr).map(|i| first + i * stride).collect(),
            Self::List(pages) => pages.clone(),
        }
    }

    /// The argument of [`abi::UNMAP`]. A list stays borrowed: the argument holds its address.
    pub fn unmap(&self, strategy: u32, flags: u32) -> abi::Unmap {
        let chosen = match self {
            Self::Every { first, nr, stride } => abi::Unmap {
                offset: first * PAGE_SIZE as u64,
                len: ((nr - 1) * stride + 1) * PAGE_SIZE as u64,
                stride: stride * PAGE_SIZE as u64,
                ..Default::default()
            },
            Self::List(pages) => abi::Unmap {
                flags: abi::UNMAP_LIST,
                list: pages.as_ptr().addr() as u64,
                nr_list: pages.len() as u32,
                ..Default::default()
            },
        };
        abi::Unmap {
            flags: chosen.flags | flags,
            strategy,
            ..chosen
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scattered_selection_ends_with_its_last_page() {
        let arg = Selection::scattered(3, 4).unmap(abi::strategy::ZAP, abi::UNMAP_FREE);
        assert_eq!(arg.offset, 3 * 4096);
        assert_eq!(arg.len, 7 * 4096);
        assert_eq!(arg.stride, 2 * 4096);
        assert_eq!((arg.flags, arg.nr_list), (abi::UNMAP_FREE, 0));
        assert_eq!(Selection::scattered(3, 4).pages(), [3, 5, 7, 9]);
    }

    #[test]
    fn a_random_selection_has_no_page_twice() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut pages = Selection::random(&mut rng, 64, 40).pages();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), 40);
        assert!(pages.iter().all(|&page| page < 64));
    }

    #[test]
    fn a_list_is_passed_by_address() {
        let selection = Selection::List(vec![9, 1]);
        let arg = selection.unmap(abi::strategy::PRECISE, abi::UNMAP_DEFER);
        assert_eq!(arg.flags, abi::UNMAP_LIST | abi::UNMAP_DEFER);
        assert_eq!((arg.offset, arg.len, arg.stride, arg.nr_list), (0, 0, 0, 2));
        assert_ne!(arg.list, 0);
    }
}
