// SPDX-License-Identifier: GPL-2.0

//! Who maps the pages, and on which CPUs they run.

pub use rust_tlb_results::names::Placement;

use crate::crew::Shape;

/// Who maps the pages: so many processes, the driver's among them, on so many CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cast {
    pub nr_mms: usize,
    pub nr_cpus: usize,
    pub placement: Placement,
}

/// Members that wait in the same way, in crews of the same shape.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub nr_crews: usize,
    pub shape: Shape,
}

impl Cast {
    /// Members that are busy all the time.
    pub fn busy(self) -> Part {
        let nr = match self.placement {
            Placement::All => self.nr_cpus - 1,
            Placement::One => 1,
            Placement::Idle => 0,
        };
        let processes = (self.nr_mms - 1).clamp(1, nr.max(1));
        Part {
            nr_crews: usize::from(nr > 0),
            shape: Shape {
                processes,
                threads: nr / processes,
            },
        }
    }

    /// Members that sleep.
    pub fn asleep(self) -> Part {
        let nr_busy = self.busy().shape.nr_members() * self.busy().nr_crews;
        let nr = match self.nr_mms {
            1 => self.nr_cpus - 1 - nr_busy,
            nr_mms => (nr_mms - 1).saturating_sub(nr_busy),
        };
        // Number 0 of every crew is on the second CPU.
        let (nr_crews, processes) = match self.placement {
            Placement::One => (nr, 1),
            _ => (usize::from(nr > 0), nr),
        };
        Part {
            nr_crews,
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

    /// Busy members, and sleeping ones.
    fn members(nr_mms: usize, nr_cpus: usize, placement: Placement) -> (usize, usize) {
        let cast = Cast {
            nr_mms,
            nr_cpus,
            placement,
        };
        let count = |part: Part| part.nr_crews * part.shape.nr_members();
        (count(cast.busy()), count(cast.asleep()))
    }

    #[test]
    fn a_thread_for_each_cpu() {
        assert_eq!(members(1, 8, Placement::All), (7, 0));
        assert_eq!(members(1, 8, Placement::One), (1, 6));
        assert_eq!(members(1, 8, Placement::Idle), (0, 7));
        assert_eq!(members(1, 2, Placement::All), (1, 0));
    }

    #[test]
    fn processes_have_more_threads_where_they_are_few() {
        assert_eq!(members(2, 8, Placement::All), (7, 0));
        assert_eq!(members(4, 8, Placement::All), (6, 0));
        assert_eq!(members(8, 8, Placement::All), (7, 0));
        assert_eq!(members(16, 8, Placement::All), (7, 8));
        assert_eq!(members(16, 4, Placement::All), (3, 12));
        assert_eq!(members(4, 8, Placement::Idle), (0, 3));
    }
}
