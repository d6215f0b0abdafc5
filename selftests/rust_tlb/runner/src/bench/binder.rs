// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What Rust Binder's shrinker costs: rows of what two boots measured, one by time, one by
//! instructions; their table, and what was aimed at.

use anyhow::{Context, Result};
use maud::{html, Markup};
use rust_tlb_results::names::Shrinker;
use rust_tlb_results::said;
use rust_tlb_results::spread::Spread;
use rust_tlb_results::written::{Scans, Target};

use super::chart::short;
use super::targets::target;

/// # Errors
///
/// If something was not measured by both clocks, or no transactions were made in the boot that
/// counts instructions.
pub fn rows(timed: &[said::Scans], counted: &[said::Scans]) -> Result<Vec<Scans>> {
    let row = |timed: &said::Scans| {
        let place = |row: &said::Scans| (row.how, row.nr_processes);
        let mut counted = counted.iter();
        let same = counted.find(|counted| place(counted) == place(timed));
        let same = same.with_context(|| format!("not counted: {timed:?}"))?;
        let transactions = same.transactions_per_s;
        let transactions = transactions.with_context(|| format!("no transactions: {same:?}"))?;
        Ok(join(timed, same, transactions))
    };
    timed.iter().map(row).collect()
}

fn join(timed: &said::Scans, counted: &said::Scans, transactions: Spread) -> Scans {
    Scans {
        how: timed.how,
        nr_processes: timed.nr_processes,
        nr_pages: timed.nr_pages,
        nr_samples: timed.nr_samples,
        nr_samples_counted: counted.nr_samples,
        rounds_per_scan: timed.rounds_per_scan.median as u64,
        rounds_per_scan_max: timed.rounds_per_scan.max as u64,
        ipis_per_scan: timed.ipis_per_scan.median as u64,
        ipis_per_scan_max: timed.ipis_per_scan.max as u64,
        instructions_per_page: counted.ticks_per_page.median,
        instructions_per_page_min: counted.ticks_per_page.min,
        instructions_per_page_max: counted.ticks_per_page.max,
        transactions_per_s: transactions.median,
        transactions_per_s_min: transactions.min,
        transactions_per_s_max: transactions.max,
    }
}

/// What was aimed at: a round per scan, and transactions that are not fewer.
pub fn targets(rows: &[Scans]) -> Vec<Target> {
    let after = rows.iter().filter(|row| row.how == Shrinker::After);
    after.flat_map(|after| judge(rows, after)).collect()
}

fn judge(rows: &[Scans], after: &Scans) -> [Target; 2] {
    let nr = after.nr_processes;
    let before = rows
        .iter()
        .find(|row| row.how == Shrinker::Before && row.nr_processes == nr);
    let slowdown = before.map(|before| before.transactions_per_s / after.transactions_per_s);
    let processes = match nr {
        1 => "1 process".into(),
        nr => format!("{nr} processes"),
    };
    [
        target(
            &format!("binder, {processes}: flush rounds of a scan"),
            1.0,
            Some(after.rounds_per_scan as f64),
        ),
        target(
            &format!("binder, {processes}: transactions per second, before / after"),
            SAME,
            slowdown,
        ),
    ]
}

/// As many, but for what counts of instructions differ by from run to run.
const SAME: f64 = 1.01;

/// The table of the page.
pub fn table(rows: &[Scans]) -> Markup {
    html! {
        p {
            "Rust Binder's shrinker takes all idle pages of all processes in one scan: page by page (before), and in "
            "one batch (after). One process has a busy thread on each other CPU; of 8, all are busy; 64 sleep. "
            "Instructions are those of the scan alone: what the kernel's other shrinkers take is measured right "
            "afterwards, where nothing is idle, and subtracted. Transactions are those of all processes together, "
            "while the shrinkers run every 5 ms; each buffer is checked, those that are kept once more later. Their "
            "second is a billion instructions of all CPUs together: what else the host does can't change them."
        }
        table {
            thead { tr {
                th { "how" } th.n { "processes" } th.n { "pages" } th.n { "rounds per scan" } th.n { "IPIs per scan" }
                th.n { "instructions per page" } th.n { "transactions per s" } th.n { "least" } th.n { "most" }
            } }
            tbody { @for row in rows { tr {
                td { (row.how) }
                td.n { (row.nr_processes) }
                td.n { (row.nr_pages) }
                td.n { (row.rounds_per_scan) }
                td.n { (row.ipis_per_scan) }
                td.n { (short(row.instructions_per_page)) }
                td.n { (short(row.transactions_per_s)) }
                td.n { (short(row.transactions_per_s_min)) }
                td.n { (short(row.transactions_per_s_max)) }
            } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(value: f64) -> Spread {
        Spread::of([value])
    }

    fn measured(how: Shrinker, ticks: f64, transactions: Option<f64>) -> said::Scans {
        said::Scans {
            how,
            nr_processes: 8,
            nr_pages: 96,
            nr_samples: 3,
            rounds_per_scan: spread(if how == Shrinker::After { 1.0 } else { 96.0 }),
            ipis_per_scan: spread(7.0),
            ticks_per_page: spread(ticks),
            transactions_per_s: transactions.map(spread),
        }
    }

    fn some_rows(before: f64, after: f64) -> Vec<Scans> {
        let timed = [
            measured(Shrinker::Before, 7.0, None),
            measured(Shrinker::After, 7.0, None),
        ];
        let counted = [
            measured(Shrinker::After, 8.0, Some(after)),
            measured(Shrinker::Before, 9.0, Some(before)),
        ];
        rows(&timed, &counted).unwrap()
    }

    #[test]
    fn instructions_are_of_the_boot_that_counts() {
        let rows = some_rows(500.0, 600.0);
        assert_eq!(rows[0].instructions_per_page, 9.0);
        assert_eq!(rows[1].instructions_per_page, 8.0);
        assert_eq!(rows[1].transactions_per_s, 600.0);
    }

    #[test]
    fn what_was_not_counted_is_missed() {
        let timed = [measured(Shrinker::After, 7.0, None)];
        assert!(rows(&timed, &[measured(Shrinker::Before, 8.0, Some(1.0))]).is_err());
        assert!(rows(&timed, &timed).is_err());
    }

    #[test]
    fn aims_can_be_met_and_missed() {
        let met = |rows: &[Scans]| -> Vec<bool> {
            let targets = targets(rows);
            targets.iter().map(|target| target.met).collect()
        };
        assert_eq!(met(&some_rows(500.0, 600.0)), [true, true]);
        assert_eq!(met(&some_rows(600.0, 500.0)), [true, false]);
        let mut rows = some_rows(500.0, 600.0);
        rows[1].rounds_per_scan = 2;
        assert_eq!(met(&rows), [false, true]);
        assert_eq!(met(&rows[1..]), [false, false]);
    }
}
