// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The ways to take pages back that are compared: one list, of which tables, pictures, the page and
//! the schema are made.

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Strategy {
    /// The device's name of it, if it is one of the device's (`strategy::ALL` in the ABI).
    pub name: &'static str,
    /// Red, green, blue: the color-blind can tell them apart.
    pub color: (u8, u8, u8),
    /// What it does, in a sentence.
    pub meaning: &'static str,
}

/// All of them, in the order in which they are shown.
pub const ALL: [Strategy; 9] = [
    Strategy {
        name: "page",
        color: (213, 94, 0),
        meaning: "clear a PTE, flush it, next: Linux before 2015",
    },
    Strategy {
        name: "zap",
        color: (230, 159, 0),
        meaning: "zap_vma_range() per page: Rust Binder's shrinker today",
    },
    Strategy {
        name: "unmap_mapping",
        color: (204, 121, 167),
        meaning: "unmap_mapping_pages() per contiguous run",
    },
    Strategy {
        name: "gather",
        color: (0, 0, 0),
        meaning: "the kernel's own gather, one per process: all mappings of it, then one flush",
    },
    Strategy {
        name: "reclaim",
        color: (120, 120, 120),
        meaning: "Linux's own batch: MADV_PAGEOUT on shared memory of the same size; a call per run, and so a call \
                  per page where they are scattered; for one process only, since advice leaves pages alone that \
                  others map",
    },
    Strategy {
        name: "broadcast",
        color: (0, 114, 178),
        meaning: "ours: clear everything, then one full flush for all processes",
    },
    Strategy {
        name: "precise",
        color: (0, 158, 115),
        meaning: "ours: clear everything, then a ranged flush for each process, or one for all where that is not \
                  worth it",
    },
    Strategy {
        name: "two-phase",
        color: (86, 180, 233),
        meaning: "ours: write-protect, flush, unmap, flush: for a CPU that is not trusted with clean entries; by \
                  broadcast",
    },
    Strategy {
        name: "ring",
        color: (240, 228, 66),
        meaning: "ours: clear everything, then one round for all processes, in which each CPU flushes what was \
                  cleared in the one that it runs; compared where one round and an exact flush exclude each other",
    },
];

/// Where `name` stands in [`ALL`].
pub fn position(name: &str) -> Option<usize> {
    ALL.iter().position(|strategy| strategy.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_and_each_color_is_there_once() {
        for (index, one) in ALL.iter().enumerate() {
            assert_eq!(position(one.name), Some(index));
            assert!(ALL[..index].iter().all(|other| other.color != one.color));
        }
        assert_eq!(position("none"), None);
    }
}
