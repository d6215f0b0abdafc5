// SPDX-License-Identifier: GPL-2.0

//! The suites: a file each, run by `rust-tlb-test <suite>`.
//!
//! Every test is listed in `selftests/rust_tlb/tests.list` too, so that one that does not run is
//! missed.

use crate::ktap::Suite;

pub mod abi;
pub mod accounting;
pub mod badmemory;
pub mod bench;
pub mod binder;
pub mod cgroup;
pub mod counts;
pub mod fault;
pub mod folios;
pub mod gather;
pub mod gup;
pub mod hotplug;
pub mod huge;
pub mod lifecycle;
pub mod minimal;
pub mod moves;
pub mod mremap;
pub mod neighbours;
pub mod oracle;
pub mod others;
pub mod owed;
pub mod patching;
pub mod pfnmap;
pub mod pressure;
pub mod races;
pub mod residency;
pub mod ring;
pub mod scope;
pub mod small;
pub mod stress;
pub mod tables;
pub mod trace;
pub mod twophase;
pub mod unmap;
pub mod writeback;

/// All suites.
pub const ALL: &[Suite] = &[
    ("abi", abi::TESTS),
    ("fault", fault::TESTS),
    ("folios", folios::TESTS),
    ("unmap", unmap::TESTS),
    ("accounting", accounting::TESTS),
    ("lifecycle", lifecycle::TESTS),
    ("minimal", minimal::TESTS),
    ("races", races::TESTS),
    ("tables", tables::TESTS),
    ("neighbours", neighbours::TESTS),
    ("badmemory", badmemory::TESTS),
    ("cgroup", cgroup::TESTS),
    ("hotplug", hotplug::TESTS),
    ("oracle", oracle::TESTS),
    ("counts", counts::TESTS),
    ("gather", gather::TESTS),
    ("huge", huge::TESTS),
    ("bench", bench::TESTS),
    ("residency", residency::TESTS),
    ("ring", ring::TESTS),
    ("others", others::TESTS),
    ("owed", owed::TESTS),
    ("writeback", writeback::TESTS),
    ("twophase", twophase::TESTS),
    ("scope", scope::TESTS),
    ("pfnmap", pfnmap::TESTS),
    ("gup", gup::TESTS),
    ("pressure", pressure::TESTS),
    ("small", small::TESTS),
    ("trace", trace::TESTS),
    ("patching", patching::TESTS),
    ("binder", binder::TESTS),
    ("stress", stress::TESTS),
    ("mremap", mremap::TESTS),
    ("moves", moves::TESTS),
];

#[cfg(test)]
mod tests {
    use super::ALL;
    use crate::ktap::Suite;

    const LIST: &str = include_str!("../../../tests.list");

    fn listed() -> Vec<String> {
        let columns = LIST
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        columns
            .filter(|line| line.first() == Some(&"vm"))
            .map(|line| line.join(" "))
            .collect()
    }

    #[test]
    fn the_list_has_each_test_once() {
        let names = |(suite, tests): &Suite| {
            let suite = suite.to_string();
            tests
                .iter()
                .map(move |test| format!("vm {suite} {}", test.name))
        };
        let mut expected: Vec<String> = ALL.iter().flat_map(names).collect();
        let mut listed = listed();
        expected.sort();
        listed.sort();
        assert_eq!(listed, expected);
    }
}
