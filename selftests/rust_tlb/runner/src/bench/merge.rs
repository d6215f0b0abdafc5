// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Makes one row of what two boots measured in the same place: one by time, one by instructions; and
//! of what the oracle saw.

use anyhow::{ensure, Context, Result};
use rust_tlb_results::said::{Row as Measured, Stale};
use rust_tlb_results::written::Row;

use super::said::Said;

/// The rows, in the order in which they were measured by time.
pub fn rows(said: &Said) -> Result<Vec<Row>> {
    ensure!(!said.timed.is_empty(), "nothing was measured");
    let row = |timed: &Measured| {
        let counted = said.counted.iter().find(|row| is_same(timed, row));
        let counted = counted.with_context(|| format!("not counted: {timed:?}"))?;
        Ok(join(timed, counted, stale(&said.stale, timed)))
    };
    said.timed.iter().map(row).collect()
}

fn is_same(a: &Measured, b: &Measured) -> bool {
    let numbers = |row: &Measured| (row.nr_pages, row.nr_mms, row.nr_cpus);
    let names = |row: &Measured| (row.layout, row.placement);
    numbers(a) == numbers(b)
        && names(a) == names(b)
        && (&a.axis, &a.strategy) == (&b.axis, &b.strategy)
}

/// By threads of one process, or by processes, as in the row; [`None`] if the oracle did not look.
fn stale(seen: &[Stale], row: &Measured) -> Option<u64> {
    let by_processes = row.nr_mms > 1;
    let same = |seen: &&Stale| seen.strategy == row.strategy && seen.by_processes == by_processes;
    let looked = |seen: &&Stale| same(seen) && seen.nr_reads > 0;
    seen.iter().find(looked).map(|seen| seen.stale_accesses)
}

fn join(timed: &Measured, counted: &Measured, stale_accesses: Option<u64>) -> Row {
    Row {
        axis: timed.axis.clone(),
        strategy: timed.strategy.clone(),
        layout: timed.layout,
        nr_pages: timed.nr_pages,
        nr_mms: timed.nr_mms,
        nr_cpus: timed.nr_cpus,
        placement: timed.placement,
        nr_samples: timed.nr_samples,
        nr_samples_counted: counted.nr_samples,
        nr_taken: timed.nr_taken as u64,
        nr_flush_calls: timed.nr_flush_calls.map(|nr| nr as u64),
        rounds: timed.rounds.median as u64,
        rounds_min: timed.rounds.min as u64,
        rounds_max: timed.rounds.max as u64,
        ipis_received: timed.ipis_received.median as u64,
        ipis_received_min: timed.ipis_received.min as u64,
        ipis_received_max: timed.ipis_received.max as u64,
        local_full_flushes: timed.local_full_flushes.median as u64,
        local_full_flushes_min: timed.local_full_flushes.min as u64,
        local_full_flushes_max: timed.local_full_flushes.max as u64,
        local_page_flushes: timed.local_page_flushes.median as u64,
        local_page_flushes_min: timed.local_page_flushes.min as u64,
        local_page_flushes_max: timed.local_page_flushes.max as u64,
        stale_accesses,
        ns_per_page: timed.ns_per_page.median,
        ns_per_page_min: timed.ns_per_page.min,
        ns_per_page_max: timed.ns_per_page.max,
        ns_per_page_p99: timed.ns_per_page_p99,
        ns_per_page_release: timed.ns_per_page_release,
        instructions_per_page: counted.ticks_per_page.median,
        instructions_per_page_min: counted.ticks_per_page.min,
        instructions_per_page_max: counted.ticks_per_page.max,
        instructions_per_page_release: counted.ticks_per_page_release,
        victim_translations_kept: timed.victim_translations_kept.median,
        victim_translations_kept_min: timed.victim_translations_kept.min,
        victim_translations_kept_max: timed.victim_translations_kept.max,
        victim_translations_kept_control: timed.victim_translations_kept_control,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn time_is_of_one_boot_and_instructions_are_of_the_other() {
        let mut said = sample::said();
        said.timed[0].ticks_per_page.median = 1.0;
        said.counted[0].ns_per_page.median = 1.0;
        let rows = rows(&said).unwrap();
        assert_eq!(rows.len(), said.timed.len());
        assert_eq!(rows[0].ns_per_page, 100.0);
        assert_eq!(rows[0].instructions_per_page, 5000.0);
    }

    #[test]
    fn what_was_not_counted_is_missed() {
        let mut said = sample::said();
        said.counted.pop();
        assert!(rows(&said).is_err());
        assert!(rows(&Said::default()).is_err());
    }

    #[test]
    fn who_did_not_look_saw_nothing() {
        let mut said = sample::said();
        let of_zap = |said: &Said| rows(said).unwrap()[0].stale_accesses;
        assert_eq!(of_zap(&said), Some(0));
        said.stale[0].stale_accesses = 7;
        assert_eq!(of_zap(&said), Some(7));
        said.stale[0].nr_reads = 0;
        assert_eq!(of_zap(&said), None);
        assert_eq!(rows(&said).unwrap()[1].stale_accesses, None);
    }
}
