// SPDX-License-Identifier: GPL-2.0

//! The bench measures what it says: its counters against the module's and the kernel's.

use anyhow::{ensure, Result};

use crate::bench::check::Check;
use crate::bench::fixture::FileSetup;
use crate::bench::pages::Pages;
use crate::bench::plan::{Effort, Sweep};
use crate::bench::row::Row;
use crate::bench::sweep;
use crate::bench::topology::{Placement, Topology};
use crate::cpu;
use crate::ktap::Options;

crate::tests! {
    its_counters_agree_with_the_kernels within 120,
    a_broadcast_is_a_round within 120,
}

/// A few neighbours, and some that are not.
const PAGES: [Pages; 2] = [Pages { nr: 16, stride: 1 }, Pages { nr: 64, stride: 2 }];

/// Measures each strategy on one process that is busy on all CPUs.
fn measure(options: &Options) -> Result<(Vec<Row>, Check)> {
    cpu::pin_driver()?;
    let nr_cpus = cpu::nr_cpus();
    ensure!(nr_cpus >= 2, "a second CPU is needed");
    let sweep = Sweep {
        axis: "pages",
        topology: Topology {
            nr_mms: 1,
            nr_cpus,
            placement: Placement::All,
        },
        setup: FileSetup::default(),
        pages: PAGES.to_vec(),
    };
    let effort = Effort {
        quick: true,
        nr_cpus,
        nr_rounds: 3,
    };
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let (mut all, mut check) = (Vec::new(), Check::default());
    sweep::run(&sweep, effort, &mut rng, &mut check, |_, rows| {
        all.extend(rows);
        Ok(())
    })?;
    Ok((all, check))
}

fn its_counters_agree_with_the_kernels(options: &Options) -> Result<()> {
    let (_, check) = measure(options)?;
    for verdict in check.verdicts() {
        println!("# {verdict:?}");
        ensure!(verdict.agree, "{verdict:?}");
    }
    Ok(())
}

fn a_broadcast_is_a_round(options: &Options) -> Result<()> {
    let (rows, _) = measure(options)?;
    let rounds = |strategy: &str, nr_pages| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row.strategy == strategy && row.nr_pages == nr_pages);
        row.map(|row| row.rounds.median)
    };
    for pages in PAGES {
        let found = ["broadcast", "page"].map(|strategy| rounds(strategy, pages.nr));
        let expected = [Some(1.0), Some(pages.nr as f64)];
        ensure!(found == expected, "{pages:?}: {found:?}");
    }
    Ok(())
}
