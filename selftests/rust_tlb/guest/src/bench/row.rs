// SPDX-License-Identifier: GPL-2.0

//! The summary of one measurement.

use serde::Serialize;

use super::cast::Placement;
use super::plan::Sweep;
use super::way::{Pages, Round, Way};

/// One row of the results: medians, each with the least and the most.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub axis: &'static str,
    pub strategy: &'static str,
    pub layout: &'static str,
    pub nr_pages: u64,
    pub nr_mms: usize,
    pub nr_cpus: usize,
    pub placement: Placement,
    pub nr_samples: usize,
    /// Of the pages, those that were taken back.
    pub nr_taken: f64,
    pub nr_flush_calls: Option<f64>,
    pub rounds: Spread,
    pub ipis_received: Spread,
    pub local_full_flushes: Spread,
    pub local_page_flushes: Spread,
    pub ns_per_page: Spread,
    pub ns_per_page_p99: f64,
    /// Of which are not the strategy's, but the device's.
    pub ns_per_page_release: Option<f64>,
    pub ticks_per_page: Spread,
    pub ticks_per_page_release: Option<f64>,
    pub victim_translations_kept: Spread,
    /// As much as is kept where nothing of the victim's is unmapped.
    pub victim_translations_kept_control: f64,
}

/// The median of some values, their least and their greatest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// # Panics
    ///
    /// If there are no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let sorted = sorted(values);
        Self {
            median: quantile(&sorted, 0.5),
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        }
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The smallest value that has at least the part `q` of all at or below it.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

impl Row {
    /// Sums up. `release` are rounds of what is not the strategy's own, if it is one of the device's, and
    /// in `untouched` ones nobody's translations were flushed.
    pub fn new(
        sweep: &Sweep,
        pages: Pages,
        way: Way,
        rounds: &[Round],
        release: Option<&[Round]>,
        untouched: &[Round],
    ) -> Self {
        let nr_pages = pages.nr as f64;
        let spread = |value: fn(&Round) -> u64| Spread::of(rounds.iter().map(|r| value(r) as f64));
        let a_page = |rounds: &[Round], value: fn(&Round) -> u64| {
            Spread::of(rounds.iter().map(|r| value(r) as f64 / nr_pages))
        };
        let times = sorted(rounds.iter().map(|r| ns(r) as f64 / nr_pages));
        Self {
            axis: sweep.axis,
            strategy: way.name,
            layout: pages.layout(),
            nr_pages: pages.nr,
            nr_mms: sweep.cast.nr_mms,
            nr_cpus: sweep.cast.nr_cpus,
            placement: sweep.cast.placement,
            nr_samples: rounds.len(),
            nr_taken: spread(|r| r.nr_taken).median,
            nr_flush_calls: release.map(|_| spread(|r| r.nr_calls).median),
            rounds: spread(|r| r.cost.events.remote_flush),
            ipis_received: spread(|r| r.cost.events.remote_flush_received),
            local_full_flushes: spread(|r| r.cost.events.local_flush_all),
            local_page_flushes: spread(|r| r.cost.events.local_flush_one),
            ns_per_page: a_page(rounds, ns),
            ns_per_page_p99: quantile(&times, 0.99),
            ns_per_page_release: release.map(|rounds| a_page(rounds, ns).median),
            ticks_per_page: a_page(rounds, |r| r.cost.elapsed.ticks),
            ticks_per_page_release: release
                .map(|rounds| a_page(rounds, |r| r.cost.elapsed.ticks).median),
            victim_translations_kept: kept(rounds),
            victim_translations_kept_control: kept(untouched).median,
        }
    }
}

fn kept(rounds: &[Round]) -> Spread {
    Spread::of(rounds.iter().map(|round| round.cost.kept))
}

fn ns(round: &Round) -> u64 {
    round.cost.elapsed.time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_few_values() {
        let spread = |values: &[f64]| {
            let Spread { median, min, max } = Spread::of(values.iter().copied());
            [median, min, max]
        };
        assert_eq!(spread(&[3.0]), [3.0, 3.0, 3.0]);
        assert_eq!(spread(&[5.0, 1.0, 2.0]), [2.0, 1.0, 5.0]);
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), [2.0, 1.0, 4.0]);
    }

    #[test]
    fn the_99th_percentile_of_few_is_the_greatest() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.99), 198.0);
        assert_eq!(quantile(&values[..15], 0.99), 15.0);
    }
}
