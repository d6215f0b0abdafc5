// SPDX-License-Identifier: GPL-2.0

//! What is measured: along which axis what changes, and what stays.

use anyhow::{ensure, Result};

use super::fixture::FileSetup;
use super::pages::Pages;
use super::topology::{Placement, Topology};
use super::way::Way;
use crate::abi::{SETUP_BUNDLES, SETUP_HUGE, SETUP_PFNMAP};
use crate::mapping::PAGES_PER_TABLE;

/// Measurements in one topology.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// What changes from one measurement to the next.
    pub axis: &'static str,
    pub topology: Topology,
    pub setup: FileSetup,
    pub pages: Vec<Pages>,
}

impl Sweep {
    /// Checks that a round of `way` was one of leaves, if it was to be: where there is no memory for
    /// one, pages are mapped by a table, and nobody says so.
    pub fn expect_leaves(&self, way: Way, pages: Pages, nr_mapped: u64) -> Result<()> {
        let nr = match self.setup.is_huge() && way.of_device().is_some() {
            true => pages.nr / PAGES_PER_TABLE,
            false => 0,
        };
        ensure!(nr_mapped == nr, "{nr_mapped} leaves, {nr} expected");
        Ok(())
    }
}

/// How much is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub quick: bool,
    /// CPUs that there are.
    pub nr_cpus: usize,
    /// Rounds of each measurement.
    pub nr_rounds: usize,
}

/// Pages of those measurements whose axis is another.
const NR_PAGES: u64 = 512;
/// As few as a ranged flush takes.
const NR_FEW_PAGES: u64 = 16;
/// Of 16 pages: what a driver gets without much ado.
const FOLIO_ORDER: u32 = 4;
/// Of 2 MiB.
const NR_LEAVES: [u64; 3] = [1, 2, 8];
/// Mappings of the same file that show none of the pages.
const NR_BYSTANDERS: usize = 1000;

impl Effort {
    /// Everything, along all axes.
    pub fn plan(self) -> Vec<Sweep> {
        let mut plan = vec![self.over_pages()];
        plan.extend(self.over_mms());
        plan.extend(self.over_cpus());
        plan.extend(self.over_placements());
        if !self.quick {
            plan.extend(self.over_setups());
        }
        plan
    }

    fn choose<T: Clone>(self, quick: &[T], full: &[T]) -> Vec<T> {
        match self.quick {
            true => quick.to_vec(),
            false => full.to_vec(),
        }
    }

    fn over_pages(self) -> Sweep {
        let all: Vec<u64> = (0..=12).map(|power| 1 << power).collect();
        let numbers = self.choose(&[1, 16, 128, 512, 4096], &all);
        let layouts = [1, 2].into_iter();
        let pages = layouts.flat_map(|stride| numbers.iter().map(move |&nr| Pages { nr, stride }));
        Sweep {
            axis: "pages",
            topology: self.topology(1, Placement::All),
            setup: FileSetup::default(),
            pages: pages.collect(),
        }
    }

    fn over_mms(self) -> Vec<Sweep> {
        let numbers = self.choose(&[1, 4, 16], &[1, 2, 3, 4, 6, 8, 12, 16]);
        let sweep = |nr_mms| Sweep {
            axis: "mms",
            topology: self.topology(nr_mms, Placement::All),
            setup: FileSetup::default(),
            pages: fixed(),
        };
        numbers.into_iter().map(sweep).collect()
    }

    fn over_cpus(self) -> Vec<Sweep> {
        let numbers = self.choose(&[2, 4, 8], &[2, 3, 4, 5, 6, 7, 8]);
        let there_are = numbers.into_iter().filter(|&nr| nr <= self.nr_cpus);
        let sweep = |nr_cpus| Sweep {
            axis: "cpus",
            topology: Topology {
                nr_cpus,
                ..self.topology(1, Placement::All)
            },
            setup: FileSetup::default(),
            pages: fixed(),
        };
        there_are.map(sweep).collect()
    }

    fn over_placements(self) -> Vec<Sweep> {
        let placements = [Placement::All, Placement::One, Placement::Idle];
        let sweep = |placement| Sweep {
            axis: "placement",
            topology: self.topology(1, placement),
            setup: FileSetup::default(),
            pages: fixed(),
        };
        placements.into_iter().map(sweep).collect()
    }

    /// Pages that are mapped by their numbers, folios, bundles, leaves, and a file that is mapped in many places.
    fn over_setups(self) -> Vec<Sweep> {
        let pfnmap = FileSetup {
            flags: SETUP_PFNMAP,
            ..FileSetup::default()
        };
        let bystanders = FileSetup {
            nr_bystanders: NR_BYSTANDERS,
            ..FileSetup::default()
        };
        let folios = FileSetup {
            folio_order: FOLIO_ORDER,
            ..FileSetup::default()
        };
        let pfn_folios = FileSetup {
            folio_order: FOLIO_ORDER,
            ..pfnmap
        };
        let bundles = FileSetup {
            flags: SETUP_PFNMAP | SETUP_BUNDLES,
            ..folios
        };
        let leaves = FileSetup {
            flags: SETUP_PFNMAP | SETUP_HUGE,
            ..FileSetup::default()
        };
        // A folio goes as a whole: neighbours only.
        let run = run_of_many();
        let both = [run_of_many(), fixed()].concat();
        let setups = [
            ("pfnmap", pfnmap, both.clone()),
            ("bystanders", bystanders, both),
            ("folios", folios, run.clone()),
            ("pfn_folios", pfn_folios, run.clone()),
            ("pfn_bundles", bundles, run),
            ("leaves", leaves, whole_leaves()),
        ];
        let sweep = |(axis, setup, pages)| Sweep {
            axis,
            topology: self.topology(1, Placement::All),
            setup,
            pages,
        };
        setups.into_iter().map(sweep).collect()
    }

    fn topology(self, nr_mms: usize, placement: Placement) -> Topology {
        Topology {
            nr_mms,
            nr_cpus: self.nr_cpus,
            placement,
        }
    }
}

fn run_of_many() -> Vec<Pages> {
    vec![Pages {
        nr: NR_PAGES,
        stride: 1,
    }]
}

fn whole_leaves() -> Vec<Pages> {
    let pages = NR_LEAVES.map(|nr| Pages {
        nr: nr * PAGES_PER_TABLE,
        stride: 1,
    });
    pages.to_vec()
}

/// A few neighbours, and many that are not.
fn fixed() -> Vec<Pages> {
    let few = Pages {
        nr: NR_FEW_PAGES,
        stride: 1,
    };
    let many = Pages {
        nr: NR_PAGES,
        stride: 2,
    };
    vec![few, many]
}

#[cfg(test)]
mod tests {
    use rust_tlb_results::axes;

    use super::*;

    fn effort(quick: bool, nr_cpus: usize) -> Effort {
        Effort {
            quick,
            nr_cpus,
            nr_rounds: 1,
        }
    }

    #[test]
    fn the_quick_plan_is_a_part_of_the_full_one() {
        let plan = |quick| {
            let plan = effort(quick, 8).plan().into_iter();
            plan.flat_map(|s| {
                s.pages
                    .clone()
                    .into_iter()
                    .map(move |p| (s.axis, s.topology, p))
            })
            .collect::<Vec<_>>()
        };
        let full = plan(false);
        assert!(plan(true).iter().all(|point| full.contains(point)));
        assert!(plan(true).len() < full.len() / 2);
    }

    /// Results with another one would be refused, once all is measured.
    #[test]
    fn every_axis_is_in_the_schema() {
        for Sweep { axis, .. } in effort(false, 8).plan() {
            assert!(axes::ALL.iter().any(|known| known.name == axis), "{axis}");
        }
    }

    #[test]
    fn leaves_are_taken_as_a_whole() {
        let plan = effort(false, 8).plan().into_iter();
        let leaves: Vec<_> = plan.filter(|sweep| sweep.setup.is_huge()).collect();
        let [Sweep { axis, pages, .. }] = &leaves[..] else {
            panic!("{leaves:?}");
        };
        assert_eq!(*axis, "leaves");
        let is_whole =
            |pages: &Pages| pages.stride == 1 && pages.nr.is_multiple_of(PAGES_PER_TABLE);
        assert!(!pages.is_empty() && pages.iter().all(is_whole));
    }

    #[test]
    fn no_cpus_that_are_not_there() {
        assert!(effort(false, 3)
            .plan()
            .iter()
            .all(|sweep| sweep.topology.nr_cpus <= 3));
    }
}
