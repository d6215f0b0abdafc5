// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What changes from one row to the next.

/// One axis.
#[derive(Debug, PartialEq, Eq)]
pub struct Axis {
    pub name: &'static str,
    /// What changes, or what is other than elsewhere.
    pub meaning: &'static str,
}

const fn axis(name: &'static str, meaning: &'static str) -> Axis {
    Axis { name, meaning }
}

/// All of them, in the order in which they are measured.
pub const ALL: [Axis; 12] = [
    axis("pages", "the number of pages"),
    axis("mms", "the number of processes that map them"),
    axis("cpus", "the number of busy CPUs"),
    axis("placement", "where the other threads are"),
    axis(
        "exact",
        "places where one round and an exact flush exclude each other",
    ),
    axis(
        "exact_256",
        "the same, with the kernel's ceiling at 256 pages",
    ),
    axis("pfnmap", "the pages are mapped by their numbers"),
    axis(
        "bystanders",
        "the process has 1000 more mappings of the file, of another page",
    ),
    axis("folios", "the pages are those of folios of 16"),
    axis("pfn_folios", "those of folios, and mapped by their numbers"),
    axis(
        "pfn_bundles",
        "those of bundles of 16, mapped by their numbers",
    ),
    axis("leaves", "mapped by their numbers, by leaves of 2 MiB"),
];
