// SPDX-License-Identifier: GPL-2.0

//! Who maps the pages, and on which CPUs they run.

pub use rust_tlb_results::names::Placement;

use crate::workers::Shape;

/// Who maps the pages: so many processes, the driver's among them, on so many CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    pub nr_mms: usize,
    pub nr_cpus: usize,
    pub placement: Placement,
}

/// Workers that wait in the same way, in groups of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    pub nr_groups: usize,
    pub shape: Shape,
}

impl Topology {
    /// Workers that are busy all the time.
    pub fn busy(self) -> Groups {
        let nr = match self.placement {
            Placement::All => self.nr_cpus - 1,
            Placement::One => 1,
            Placement::Idle => 0,
        };
        let processes = (self.nr_mms - 1).clamp(1, nr.max(1));
        Groups {
            nr_groups: usize::from(nr > 0),
            shape: Shape {
                processes,
                threads: nr / processes,
            },
        }
    }

    /// Workers that sleep.
    pub fn asleep(self) -> Groups {
        let nr_busy = self.busy().shape.nr_workers() * self.busy().nr_groups;
        let nr = match self.nr_mms {
            1 => self.nr_cpus - 1 - nr_busy,
            nr_mms => (nr_mms - 1).saturating_sub(nr_busy),
        };
        // Number 0 of every group is on the second CPU.
        let (nr_groups, processes) = match self.placement {
            Placement::One => (nr, 1),
            _ => (usize::from(nr > 0), nr),
        };
        Groups {
            nr_groups,
            shape: Shape {
                processes,
                threads: 1,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Busy workers, and sleeping ones.
    fn workers(nr_mms: usize, nr_cpus: usize, placement: Placement) -> (usize, usize) {
        let topology = Topology {
            nr_mms,
            nr_cpus,
            placement,
        };
        let count = |groups: Groups| groups.nr_groups * groups.shape.nr_workers();
        (count(topology.busy()), count(topology.asleep()))
    }

    #[test]
    fn a_thread_for_each_cpu() {
        assert_eq!(workers(1, 8, Placement::All), (7, 0));
        assert_eq!(workers(1, 8, Placement::One), (1, 6));
        assert_eq!(workers(1, 8, Placement::Idle), (0, 7));
        assert_eq!(workers(1, 2, Placement::All), (1, 0));
    }

    #[test]
    fn processes_have_more_threads_where_they_are_few() {
        assert_eq!(workers(2, 8, Placement::All), (7, 0));
        assert_eq!(workers(4, 8, Placement::All), (6, 0));
        assert_eq!(workers(8, 8, Placement::All), (7, 0));
        assert_eq!(workers(16, 8, Placement::All), (7, 8));
        assert_eq!(workers(16, 4, Placement::All), (3, 12));
        assert_eq!(workers(4, 8, Placement::Idle), (0, 3));
    }
}
