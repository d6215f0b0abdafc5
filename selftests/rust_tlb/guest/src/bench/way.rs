// SPDX-License-Identifier: GPL-2.0

//! The ways to take pages back that are measured side by side.

use anyhow::{ensure, Result};

use crate::abi::{self, strategy};
use crate::device::Device;

use super::fixture::{Cost, FileSetup, Fixture};
use super::pages::Pages;
use super::workload::Whose;

/// How pages are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub name: &'static str,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By a strategy of the device, with flags.
    Device(u32, u32),
    /// By the kernel's reclaim.
    Reclaim,
    /// From a device that nobody maps: what all strategies do beside unmapping and flushing.
    Release,
    /// By a batch, pages that nobody has used.
    Unused,
}

pub const fn device(name: &'static str, strategy: u32, flags: u32) -> Way {
    let how = How::Device(strategy, flags);
    Way { name, how }
}

/// What one round did.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Reclaim is asked for pages, and takes what it finds.
    pub nr_taken: u64,
    /// Calls of the device to flush.
    pub nr_calls: u64,
    pub cost: Cost,
}

/// All that are compared.
pub const WAYS: [Way; 8] = [
    device("page", strategy::PAGE, 0),
    device("zap", strategy::ZAP, 0),
    device("unmap_mapping", strategy::UNMAP_MAPPING, 0),
    device("gather", strategy::GATHER, 0),
    Way {
        name: "reclaim",
        how: How::Reclaim,
    },
    device("broadcast", strategy::BROADCAST, 0),
    device("precise", strategy::PRECISE, 0),
    device("two-phase", strategy::BROADCAST, abi::UNMAP_TWO_PHASE),
];

/// What is in each of the device's strategies: looking the pages up, filling them with poison,
/// keeping them.
pub const RELEASE: Way = Way {
    name: "release",
    how: How::Release,
};

/// What is beside that in the strategies that leave the unmap to the kernel, in a file whose pages are
/// mapped by their numbers: a batch that finds them unmapped, by which the device gets them back. A
/// driver in C does without.
pub const PROOF: Way = Way {
    name: "proof",
    how: How::Unused,
};

/// The strategies that take all of a leaf in one go, not page by page.
const TAKE_LEAVES: [u32; 4] = [
    strategy::UNMAP_MAPPING,
    strategy::GATHER,
    strategy::BROADCAST,
    strategy::PRECISE,
];

/// What is not compared, but subtracted.
pub const CONTROLS: [Way; 2] = [RELEASE, PROOF];

impl Way {
    /// Whether it can be used in a topology of so many processes, and of such a file: advice is about pages
    /// that nobody else maps, and a leaf goes as a whole.
    pub fn works_for(self, nr_mms: usize, setup: FileSetup) -> bool {
        match self.how {
            How::Reclaim => nr_mms == 1 && !setup.is_huge(),
            How::Unused => setup.is_pfnmap(),
            How::Device(strategy, flags) => {
                !setup.is_huge() || (flags == 0 && TAKE_LEAVES.contains(&strategy))
            }
            How::Release => true,
        }
    }

    /// What is measured beside it that is not its own, if it is one of the device's.
    pub fn control(self, setup: FileSetup) -> Option<Self> {
        const UNMAPPED_BY_CORE: [u32; 3] =
            [strategy::ZAP, strategy::UNMAP_MAPPING, strategy::GATHER];
        match self.how {
            How::Device(strategy, _)
                if UNMAPPED_BY_CORE.contains(&strategy) && setup.is_pfnmap() =>
            {
                Some(PROOF)
            }
            How::Device(..) => Some(RELEASE),
            _ => None,
        }
    }

    /// The strategy and flags, if it is one of the device's.
    pub fn of_device(self) -> Option<(u32, u32)> {
        match self.how {
            How::Device(strategy, flags) => Some((strategy, flags)),
            _ => None,
        }
    }

    /// Lets everybody touch the pages, takes them back, and counts. `unmapped` is a device that
    /// nobody maps, set up as that of the fixture.
    pub fn round(self, fixture: &Fixture, unmapped: &Device, pages: Pages) -> Result<Round> {
        let round = match self.how {
            How::Device(strategy, flags) => {
                let unmap = |device: &Device| unmap(device, pages, strategy, flags);
                Round::of_all(fixture.counted(Whose::Devices, pages, unmap)?, pages)
            }
            How::Release => {
                populate(unmapped, pages)?;
                let unmap = |_: &Device| unmap(unmapped, pages, strategy::ZAP, 0);
                Round::of_all(fixture.counted(Whose::Nobodys, pages, unmap)?, pages)
            }
            How::Unused => {
                populate(fixture.device(), pages)?;
                let unmap = |device: &Device| unmap(device, pages, strategy::BROADCAST, 0);
                Round::of_all(fixture.counted(Whose::Nobodys, pages, unmap)?, pages)
            }
            How::Reclaim => return reclaim(fixture, pages),
        };
        Ok(round)
    }
}

impl Round {
    fn of_all((nr_calls, cost): (u64, Cost), pages: Pages) -> Self {
        Self {
            nr_taken: pages.nr,
            nr_calls,
            cost,
        }
    }
}

/// Call by call: one takes so many pages.
fn populate(device: &Device, pages: Pages) -> Result<()> {
    const AT_A_TIME: u64 = 1024;
    if pages.stride > 2 {
        for page in 0..pages.nr {
            device.populate(page * pages.stride, 1)?;
        }
        return Ok(());
    }
    let nr = pages.span();
    for first in (0..nr).step_by(AT_A_TIME as usize) {
        device.populate(first, AT_A_TIME.min(nr - first))?;
    }
    Ok(())
}

/// Returns how often the device called the kernel to flush.
pub fn unmap(device: &Device, pages: Pages, strategy: u32, flags: u32) -> Result<u64> {
    let reply = device.unmap(&pages.selection(), strategy, flags)?;
    ensure!(reply.nr_pages == pages.nr, "{reply:?}");
    Ok(reply.nr_flush_calls)
}

fn reclaim(fixture: &Fixture, pages: Pages) -> Result<Round> {
    let file = fixture.file()?;
    let page_out = |_: &Device| file.page_out(pages);
    let ((), cost) = fixture.counted(Whose::Files, pages, page_out)?;
    let nr_left = file.nr_present(pages)?;
    Ok(Round {
        nr_taken: pages.nr - nr_left,
        nr_calls: 0,
        cost,
    })
}

#[cfg(test)]
mod tests {
    use rust_tlb_results::strategies;

    use super::*;

    /// What is not in the list is in no table, and its rows are refused.
    #[test]
    fn each_way_is_in_the_list_by_the_devices_name() {
        for way in WAYS {
            assert!(strategies::position(way.name).is_some(), "{}", way.name);
            if let How::Device(strategy, 0) = way.how {
                assert_eq!(strategy::ALL[strategy as usize].name, way.name);
            }
        }
    }

    #[test]
    fn a_leaf_is_not_taken_page_by_page() {
        let leaves = FileSetup {
            flags: abi::SETUP_PFNMAP | abi::SETUP_HUGE,
            ..FileSetup::default()
        };
        let works = |way: &Way| way.works_for(1, leaves);
        let names: Vec<_> = WAYS.into_iter().filter(works).map(|way| way.name).collect();
        assert_eq!(names, ["unmap_mapping", "gather", "broadcast", "precise"]);
        assert!(CONTROLS.iter().all(works));
    }
}
