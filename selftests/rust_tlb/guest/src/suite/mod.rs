// SPDX-License-Identifier: GPL-2.0

//! The suites: a file each, run by the binary `rust-tlb-test-<suite>`.
//!
//! Every test is listed in `selftests/rust_tlb/tests.list` too, so that one that does not run is
//! missed.

pub mod abi;
pub mod accounting;
pub mod badmemory;
pub mod bench;
pub mod binder;
pub mod cgroup;
pub mod counts;
pub mod fault;
pub mod gather;
pub mod gup;
pub mod hotplug;
pub mod lifecycle;
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

#[cfg(test)]
mod tests {
    use crate::ktap::Test;

    const LIST: &str = include_str!("../../../tests.list");

    const SUITES: [(&str, &[Test]); 31] = [
        ("abi", super::abi::TESTS),
        ("fault", super::fault::TESTS),
        ("unmap", super::unmap::TESTS),
        ("accounting", super::accounting::TESTS),
        ("lifecycle", super::lifecycle::TESTS),
        ("races", super::races::TESTS),
        ("tables", super::tables::TESTS),
        ("neighbours", super::neighbours::TESTS),
        ("badmemory", super::badmemory::TESTS),
        ("cgroup", super::cgroup::TESTS),
        ("hotplug", super::hotplug::TESTS),
        ("oracle", super::oracle::TESTS),
        ("counts", super::counts::TESTS),
        ("gather", super::gather::TESTS),
        ("bench", super::bench::TESTS),
        ("residency", super::residency::TESTS),
        ("ring", super::ring::TESTS),
        ("others", super::others::TESTS),
        ("owed", super::owed::TESTS),
        ("writeback", super::writeback::TESTS),
        ("twophase", super::twophase::TESTS),
        ("scope", super::scope::TESTS),
        ("pfnmap", super::pfnmap::TESTS),
        ("gup", super::gup::TESTS),
        ("pressure", super::pressure::TESTS),
        ("small", super::small::TESTS),
        ("trace", super::trace::TESTS),
        ("patching", super::patching::TESTS),
        ("binder", super::binder::TESTS),
        ("stress", super::stress::TESTS),
        ("mremap", super::mremap::TESTS),
    ];

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
        let names = |(suite, tests): &(&str, &'static [Test])| {
            let suite = suite.to_string();
            tests
                .iter()
                .map(move |test| format!("vm {suite} {}", test.name))
        };
        let mut expected: Vec<String> = SUITES.iter().flat_map(names).collect();
        let mut listed = listed();
        expected.sort();
        listed.sort();
        assert_eq!(listed, expected);
    }
}
