// SPDX-License-Identifier: GPL-2.0

//! Arguments of unmap that are refused.

use anyhow::Result;
use rustix::io::Errno;

use super::refusal::{Refusal, BAD_ADDRESS, PAGE};
use crate::abi::{self, strategy};
use crate::device::REAL_STRATEGIES;
use crate::ktap::Options;
use crate::selection::Selection;

pub fn unmap_refuses_bad_ranges(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    for strategy in REAL_STRATEGIES {
        let good = Selection::run(0, 1).unmap(strategy, 0);
        refusal.expect_bad_ranges(good, |unmap, offset, len| {
            (unmap.offset, unmap.len) = (offset, len);
        })?;
        refusal.expect_each(
            good,
            Errno::INVAL,
            &[
                ("stride of a byte", |unmap| unmap.stride = 1),
                ("stride below a page", |unmap| unmap.stride = PAGE / 2),
                ("stride above a page", |unmap| unmap.stride = PAGE + 1),
                ("unknown flag", |unmap| unmap.flags = 1 << 5),
                ("last unknown flag", |unmap| unmap.flags = 1 << 21),
                ("reserved field", |unmap| unmap.reserved = 1),
                ("second reserved field", |unmap| unmap.reserved2 = [1, 0]),
                ("second reserved field, last bit", |unmap| {
                    unmap.reserved2 = [0, 1 << 63]
                }),
                ("list without its flag", |unmap| unmap.list = 8),
                ("entries without a flag", |unmap| unmap.nr_list = 1),
            ],
        )?;
    }
    refusal.finish()
}

pub fn unmap_refuses_bad_lists(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let (nr_pages, max_list) = (refusal.describe.nr_pages, refusal.describe.max_list);
    let lists = [
        ("empty list", Errno::INVAL, vec![]),
        ("a page twice", Errno::INVAL, vec![1, 1]),
        ("a page twice, apart", Errno::INVAL, vec![3, 1, 2, 0, 3]),
        ("a page behind the device", Errno::NXIO, vec![0, nr_pages]),
        ("a page far away", Errno::NXIO, vec![u64::MAX]),
        ("too many", Errno::TOOBIG, vec![0; max_list as usize + 1]),
    ]
    .map(|(what, errno, pages)| (what, errno, Selection::List(pages)));
    for strategy in REAL_STRATEGIES {
        for (what, errno, list) in &lists {
            refusal.expect(what, *errno, list.unmap(strategy, 0))?;
        }
    }
    bad_list_fields(&refusal)?;
    refusal.finish()
}

/// A list excludes the fields of a range, and must be readable to its end.
fn bad_list_fields(refusal: &Refusal) -> Result<()> {
    let list = Selection::List(vec![0, 1]);
    let good: abi::Unmap = list.unmap(strategy::PRECISE, 0);
    refusal.expect_each(
        good,
        Errno::INVAL,
        &[
            ("offset", |unmap| unmap.offset = PAGE),
            ("len", |unmap| unmap.len = PAGE),
            ("stride", |unmap| unmap.stride = PAGE),
        ],
    )?;
    refusal.expect_each(
        good,
        Errno::FAULT,
        &[
            ("no list", |unmap| unmap.list = 0),
            ("list in the void", |unmap| unmap.list = BAD_ADDRESS),
        ],
    )?;
    let longest: fn(&mut abi::Unmap) = |unmap| unmap.nr_list = u32::MAX;
    refusal.expect_each(good, Errno::TOOBIG, &[("longest list", longest)])
}

pub fn unmap_refuses_bad_strategies(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    for unknown in [strategy::NR, strategy::NR + 1, 1 << 31, u32::MAX] {
        let argument = Selection::run(0, 1).unmap(unknown, 0);
        refusal.expect("unknown strategy", Errno::INVAL, argument)?;
    }
    if refusal.describe.strategies & 1 << strategy::NONE == 0 {
        let argument = Selection::run(0, 1).unmap(strategy::NONE, 0);
        refusal.expect("strategy not built", Errno::OPNOTSUPP, argument)?;
    }
    refusal.finish()
}

pub fn unmap_refuses_to_defer_what_flushes_at_once(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    for strategy in [
        strategy::PAGE,
        strategy::ZAP,
        strategy::UNMAP_MAPPING,
        strategy::GATHER,
    ] {
        for selection in [Selection::run(0, 2), Selection::List(vec![0, 1])] {
            let argument = selection.unmap(strategy, abi::UNMAP_DEFER);
            refusal.expect("defer", Errno::INVAL, argument)?;
        }
    }
    refusal.finish()
}

pub fn unmap_refuses_two_phases_without_a_batch(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    for strategy in [strategy::ZAP, strategy::UNMAP_MAPPING, strategy::GATHER] {
        for flags in [0, abi::UNMAP_FREE] {
            let argument = Selection::run(0, 2).unmap(strategy, abi::UNMAP_TWO_PHASE | flags);
            refusal.expect("two phases", Errno::INVAL, argument)?;
        }
    }
    refusal.finish()
}

/// What the negative control about the release goes together with.
pub fn unmap_refuses_to_break_what_has_no_batch(_: &Options) -> Result<()> {
    let refusal = Refusal::new()?;
    let broken =
        |strategy, flags| Selection::run(0, 2).unmap(strategy, abi::UNMAP_BREAK_RELEASE | flags);
    if refusal.describe.strategies & 1 << strategy::NONE == 0 {
        let argument = broken(strategy::BROADCAST, 0);
        refusal.expect("control not built", Errno::OPNOTSUPP, argument)?;
        return refusal.finish();
    }
    for strategy in [strategy::PAGE, strategy::ZAP, strategy::UNMAP_MAPPING] {
        refusal.expect("strategy", Errno::INVAL, broken(strategy, 0))?;
    }
    let saved = broken(strategy::PRECISE, abi::UNMAP_WRITE_BACK);
    refusal.expect("with write-back", Errno::INVAL, saved)?;
    let of_tables = abi::UNMAP_BREAK_TABLES_LOCK | abi::UNMAP_BREAK_TABLES_LAZY;
    for strategy in [strategy::ZAP, strategy::UNMAP_MAPPING, strategy::GATHER] {
        let argument = Selection::run(0, 2).unmap(strategy, of_tables);
        refusal.expect("tables without a batch", Errno::INVAL, argument)?;
    }
    let lost = Selection::run(0, 2).unmap(strategy::PAGE, abi::UNMAP_BREAK_TABLES_RECHECK);
    refusal.expect("loses references", Errno::INVAL, lost)?;
    let unlocked = abi::UNMAP_BREAK_TABLES_LOCK | abi::UNMAP_BREAK_TABLES_HINT;
    let lost = Selection::run(0, 2).unmap(strategy::PAGE, unlocked);
    refusal.expect("loses references, too", Errno::INVAL, lost)?;
    for strategy in [strategy::PAGE, strategy::ZAP, strategy::PRECISE] {
        let argument = Selection::run(0, 2).unmap(strategy, abi::UNMAP_BREAK_CONTEXT);
        refusal.expect("context without a gather", Errno::INVAL, argument)?;
    }
    refusal.finish()
}
