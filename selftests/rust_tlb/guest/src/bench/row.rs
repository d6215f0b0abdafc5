// SPDX-License-Identifier: GPL-2.0

//! The summary of one measurement.

pub use rust_tlb_results::said::Row;
use rust_tlb_results::spread::{quantile, sorted, Spread};

use super::pages::Pages;
use super::plan::Sweep;
use super::way::{Round, Way};

/// Sums up. `release` are rounds of what is not the strategy's own, if it is one of the device's, and
/// in `untouched` ones nobody's translations were flushed.
pub fn sum_up(
    sweep: &Sweep,
    pages: Pages,
    way: Way,
    rounds: &[Round],
    release: Option<&[Round]>,
    untouched: &[Round],
) -> Row {
    let nr_pages = pages.nr as f64;
    let spread = |value: fn(&Round) -> u64| Spread::of(rounds.iter().map(|r| value(r) as f64));
    let per_page = |rounds: &[Round], value: fn(&Round) -> u64| {
        Spread::of(rounds.iter().map(|r| value(r) as f64 / nr_pages))
    };
    let times = sorted(rounds.iter().map(|r| ns(r) as f64 / nr_pages));
    Row {
        axis: sweep.axis.into(),
        strategy: way.name.into(),
        layout: pages.layout(),
        nr_pages: pages.nr,
        nr_mms: sweep.topology.nr_mms as u64,
        nr_cpus: sweep.topology.nr_cpus as u64,
        placement: sweep.topology.placement,
        nr_samples: rounds.len() as u64,
        nr_taken: spread(|r| r.nr_taken).median,
        nr_flush_calls: release.map(|_| spread(|r| r.nr_calls).median),
        rounds: spread(|r| r.cost.events.remote_flush),
        ipis_received: spread(|r| r.cost.events.remote_flush_received),
        local_full_flushes: spread(|r| r.cost.events.local_flush_all),
        local_page_flushes: spread(|r| r.cost.events.local_flush_one),
        ns_per_page: per_page(rounds, ns),
        ns_per_page_p99: quantile(&times, 0.99),
        ns_per_page_release: release.map(|rounds| per_page(rounds, ns).median),
        ticks_per_page: per_page(rounds, ticks),
        // The least, to be taken from the least: in neither is a timer tick, if that can be.
        ticks_per_page_release: release.map(|rounds| per_page(rounds, ticks).min),
        victim_translations_kept: kept(rounds),
        victim_translations_kept_control: kept(untouched).median,
    }
}

fn kept(rounds: &[Round]) -> Spread {
    Spread::of(rounds.iter().map(|round| round.cost.kept))
}

fn ns(round: &Round) -> u64 {
    round.cost.elapsed.time.as_nanos() as u64
}

fn ticks(round: &Round) -> u64 {
    round.cost.elapsed.ticks
}
