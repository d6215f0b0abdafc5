// SPDX-License-Identifier: GPL-2.0

//! Where one round and exactness do not go together without a ring: several processes, or pages far
//! apart. Each way in processes of its own, since whoever has a ring has it for all ways.

use core::time::Duration;
use std::fs;

use anyhow::{ensure, Context, Result};

use crate::abi::{strategy, SETUP_RING};
use crate::child::Child;

use super::fixture::{FileSetup, Fixture};
use super::pages::Pages;
use super::plan::Sweep;
use super::row::{sum_up, Row};
use super::topology::{Placement, Topology};
use super::way::{device, Way, RELEASE};

const LIMIT: Duration = Duration::from_secs(300);
const CEILING: &str = "/sys/kernel/debug/x86/tlb_single_page_flush_ceiling";

/// What is compared, and how the pages are mapped for it.
const WAYS: [(Way, u32); 3] = [
    (device("precise", strategy::PRECISE, 0), 0),
    (device("broadcast", strategy::BROADCAST, 0), 0),
    (device("ring", strategy::RING, 0), SETUP_RING),
];

/// Pages of so many processes, with the ceiling as it is, or another.
struct Place {
    axis: &'static str,
    nr_mms: usize,
    nr: u64,
    stride: u64,
    ceiling: Option<u64>,
}

/// From one page to the next, if 32 of them are spread over a gigabyte.
const FAR: u64 = (1 << 30) / 4096 / 32;

const PLACES: [Place; 5] = [
    place("exact", 4, 8, 2, None),
    place("exact", 1, 32, FAR, None),
    place("exact", 4, 128, 1, None),
    place("exact_256", 4, 128, 1, Some(256)),
    place("exact", 1, 128, 2, None),
];

const fn place(
    axis: &'static str,
    nr_mms: usize,
    nr: u64,
    stride: u64,
    ceiling: Option<u64>,
) -> Place {
    Place {
        axis,
        nr_mms,
        nr,
        stride,
        ceiling,
    }
}

/// The kernel's ceiling, changed until this is gone.
struct Ceiling(String);

impl Ceiling {
    fn set(pages: u64) -> Result<Self> {
        let before = fs::read_to_string(CEILING).context(CEILING)?;
        fs::write(CEILING, pages.to_string())?;
        Ok(Self(before))
    }
}

impl Drop for Ceiling {
    fn drop(&mut self) {
        let restored = fs::write(CEILING, &self.0);
        debug_assert!(restored.is_ok());
    }
}

/// Makes all measurements; each row is handed to `emit`, in a process that then ends.
pub fn run(nr_cpus: usize, nr_rounds: usize, emit: fn(&Row) -> Result<()>) -> Result<()> {
    for place in &PLACES {
        let _ceiling = place.ceiling.map(Ceiling::set).transpose()?;
        for (way, setup) in WAYS {
            let mut child = Child::fork(|| emit(&place.measure(way, setup, nr_cpus, nr_rounds)?))?;
            let ended = child.wait_for(LIMIT)?.context("a measurement hangs")?;
            ensure!(ended.exit_status() == Some(0), "{}: {ended:?}", way.name);
        }
    }
    Ok(())
}

impl Place {
    fn measure(&self, way: Way, flags: u32, nr_cpus: usize, nr_rounds: usize) -> Result<Row> {
        let pages = Pages {
            nr: self.nr,
            stride: self.stride,
        };
        let topology = Topology {
            nr_mms: self.nr_mms,
            nr_cpus,
            placement: Placement::All,
        };
        let setup = FileSetup {
            flags,
            ..FileSetup::default()
        };
        let fixture = Fixture::new(topology, pages.span(), setup)?;
        let unmapped = Fixture::unmapped(setup)?;
        let rounds = |way: Way| -> Result<Vec<_>> {
            let round = |_| way.round(&fixture, &unmapped, pages).context(way.name);
            // The first warms up.
            let all: Vec<_> = (0..=nr_rounds).map(round).collect::<Result<_>>()?;
            Ok(all[1..].to_vec())
        };
        let sweep = Sweep {
            axis: self.axis,
            topology,
            setup,
            pages: vec![pages],
        };
        let control = rounds(RELEASE)?;
        let release = way.control(setup).map(|_| &control[..]);
        Ok(sum_up(&sweep, pages, way, &rounds(way)?, release, &control))
    }
}
