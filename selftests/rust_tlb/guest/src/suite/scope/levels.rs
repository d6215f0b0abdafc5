// SPDX-License-Identifier: GPL-2.0

//! Who flushes: the last to leave, of all levels and files.

use anyhow::{ensure, Result};

use super::{
    enter, expect_fresh, expect_levels, expect_released, leave, unmap_and_owe, written, NR_AT_ONCE,
    STRATEGIES,
};
use crate::device::Device;
use crate::ktap::Options;
use crate::selection::Selection;

pub fn an_empty_scope_flushes_nothing(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = written()?;
        enter(&device, strategy, None, 1)?;
        leave(&device, 0, 0, 0)?;
        expect_fresh(&mapping, 0)?;
        // And has ended: an unmap flushes by itself.
        let reply = device.unmap(&Selection::run(0, NR_AT_ONCE), strategy, 0)?;
        ensure!(reply.nr_flush_calls == 1, "{reply:?}");
    }
    Ok(())
}

pub fn only_the_outermost_level_flushes(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let (device, mapping) = written()?;
        enter(&device, strategy, None, 1)?;
        unmap_and_owe(&device, strategy, 0)?;
        expect_levels(&device.enter(strategy, None)?, 2, 2)?;
        unmap_and_owe(&device, strategy, NR_AT_ONCE)?;
        leave(&device, 0, 1, 1)?;
        unmap_and_owe(&device, strategy, 2 * NR_AT_ONCE)?;
        let counters = device.counters()?;
        ensure!(
            counters.nr_recycled == 0 && counters.nr_flush_calls == 0,
            "released before the flush: {counters:?}"
        );
        leave(&device, 1, 0, 0)?;
        expect_released(&device, 3 * NR_AT_ONCE)?;
        expect_fresh(&mapping, 3 * NR_AT_ONCE)?;
        let reply = device.unmap(&Selection::run(0, NR_AT_ONCE), strategy, 0)?;
        ensure!(reply.nr_flush_calls == 1, "after the scope: {reply:?}");
    }
    Ok(())
}

/// Which of two files leaves first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Outer,
    Inner,
}

pub fn of_two_files_the_second_may_leave_first(_: &Options) -> Result<()> {
    STRATEGIES
        .into_iter()
        .try_for_each(|strategy| two_files(strategy, First::Inner))
}

pub fn of_two_files_the_first_may_leave_first(_: &Options) -> Result<()> {
    STRATEGIES
        .into_iter()
        .try_for_each(|strategy| two_files(strategy, First::Outer))
}

fn two_files(strategy: u32, leaves_first: First) -> Result<()> {
    let (outer, outer_mapping) = written()?;
    let (inner, inner_mapping) = written()?;
    enter(&outer, strategy, None, 1)?;
    enter(&inner, strategy, Some(&outer), 2)?;
    unmap_and_owe(&outer, strategy, 0)?;
    unmap_and_owe(&inner, strategy, 0)?;
    let (first, last) = match leaves_first {
        First::Outer => (&outer, &inner),
        First::Inner => (&inner, &outer),
    };
    leave(first, 0, 0, 1)?;
    for device in [&outer, &inner] {
        let counters = device.counters()?;
        ensure!(
            counters.nr_pending == NR_AT_ONCE && counters.nr_recycled == 0,
            "released before the flush: {counters:?}"
        );
    }
    unmap_and_owe(last, strategy, NR_AT_ONCE)?;
    leave(last, 1, 0, 0)?;
    expect_released(first, NR_AT_ONCE)?;
    expect_released(last, 2 * NR_AT_ONCE)?;
    let nr_fresh = |device| match core::ptr::eq::<Device>(device, last) {
        true => 2 * NR_AT_ONCE,
        false => NR_AT_ONCE,
    };
    expect_fresh(&outer_mapping, nr_fresh(&outer))?;
    expect_fresh(&inner_mapping, nr_fresh(&inner))
}

/// Whoever is in a scope can be entered, not only who opened it.
pub fn a_third_file_enters_through_the_second(_: &Options) -> Result<()> {
    for strategy in STRATEGIES {
        let files = [written()?, written()?, written()?];
        let mut outer = None;
        for (nr_levels, (device, _)) in (1..).zip(&files) {
            enter(device, strategy, outer, nr_levels)?;
            unmap_and_owe(device, strategy, 0)?;
            outer = Some(device);
        }
        leave(&files[0].0, 0, 0, 2)?;
        leave(&files[1].0, 0, 0, 1)?;
        leave(&files[2].0, 1, 0, 0)?;
        for (device, mapping) in &files {
            expect_released(device, NR_AT_ONCE)?;
            expect_fresh(mapping, NR_AT_ONCE)?;
        }
    }
    Ok(())
}
