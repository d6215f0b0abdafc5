// SPDX-License-Identifier: GPL-2.0

//! The same pages, taken back in each way in turn, over and over.

use core::time::Duration;
use std::time::Instant;

use anyhow::{Context, Result};

use super::check::Check;
use super::fixture::Fixture;
use super::pages::Pages;
use super::plan::{Effort, Sweep};
use super::row::{sum_up, Row};
use super::way::{Round, Way, CONTROLS, RELEASE, WAYS};

/// Rounds that have to do where they take long, and what is long for a measurement.
const MIN_ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(6);

/// Makes the measurements of `sweep`, hands each row to `emit`, and adds to `check`.
pub fn run(
    sweep: &Sweep,
    effort: Effort,
    rng: &mut fastrand::Rng,
    check: &mut Check,
    mut emit: impl FnMut(Pages, Vec<Row>) -> Result<()>,
) -> Result<()> {
    let span = sweep.pages.iter().map(|pages| pages.span()).max();
    let fixture = Fixture::new(sweep.topology, span.context("no pages")?, sweep.setup)?;
    let unmapped = Fixture::unmapped(sweep.setup)?;
    let ways = WAYS.into_iter().chain(CONTROLS);
    let ways: Vec<Way> = ways
        .filter(|way| way.works_for(sweep.topology.nr_mms, sweep.setup))
        .collect();
    for &pages in &sweep.pages {
        let mut take = |way: Way| {
            let before = fixture.nr_leaves()?;
            let round = way.round(&fixture, &unmapped, pages).context(way.name)?;
            sweep.expect_leaves(way, pages, fixture.nr_leaves()? - before)?;
            check.add(sweep.topology, way, &round);
            Ok(round)
        };
        let rounds = rounds(&ways, effort, rng, &mut take)?;
        emit(pages, rows(sweep, pages, &rounds))?;
    }
    check.close(&fixture)
}

/// All rounds of each way, in the order of `ways`; `take` is made to take them in a new order each
/// time.
fn rounds(
    ways: &[Way],
    effort: Effort,
    rng: &mut fastrand::Rng,
    take: &mut dyn FnMut(Way) -> Result<Round>,
) -> Result<Vec<(Way, Vec<Round>)>> {
    let mut all: Vec<(Way, Vec<Round>)> = ways.iter().map(|&way| (way, Vec::new())).collect();
    let mut order: Vec<usize> = (0..ways.len()).collect();
    let start = Instant::now();
    for turn in 0..=effort.nr_rounds {
        rng.shuffle(&mut order);
        for &index in &order {
            let (way, rounds) = &mut all[index];
            let round = take(*way)?;
            // The first warms up.
            if turn > 0 {
                rounds.push(round);
            }
        }
        if turn >= MIN_ROUNDS && start.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(all)
}

fn rows(sweep: &Sweep, pages: Pages, all: &[(Way, Vec<Round>)]) -> Vec<Row> {
    let rounds_of = |wanted: Way| {
        let rounds = all.iter().find(|(way, _)| *way == wanted);
        rounds.map_or(&[][..], |(_, rounds)| rounds)
    };
    let untouched = rounds_of(RELEASE);
    let row = |(way, rounds): &(Way, Vec<Round>)| {
        let control = way.control(sweep.setup).map(rounds_of);
        sum_up(sweep, pages, *way, rounds, control, untouched)
    };
    let compared = all.iter().filter(|(way, _)| !CONTROLS.contains(way));
    compared.map(row).collect()
}
