// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What a move of memory costs: rows of what two boots measured, one by time, one by instructions, and
//! their table.

use anyhow::{Context, Result};
use maud::{html, Markup};
use rust_tlb_results::names::Mover;
use rust_tlb_results::said;
use rust_tlb_results::written::Moves;

use super::chart::short;

/// What is the same in both boots.
fn place(row: &said::Moves) -> (Mover, u64, bool, u64) {
    (row.how, row.nr_pages, row.aligned, row.nr_cpus)
}

/// # Errors
///
/// If something was not measured by both clocks.
pub fn rows(timed: &[said::Moves], counted: &[said::Moves]) -> Result<Vec<Moves>> {
    let row = |timed: &said::Moves| {
        let mut counted = counted.iter();
        let same = counted.find(|counted| place(counted) == place(timed));
        Ok(join(
            timed,
            same.with_context(|| format!("not counted: {timed:?}"))?,
        ))
    };
    timed.iter().map(row).collect()
}

fn join(timed: &said::Moves, counted: &said::Moves) -> Moves {
    Moves {
        how: timed.how,
        nr_pages: timed.nr_pages,
        aligned: timed.aligned,
        nr_cpus: timed.nr_cpus,
        nr_samples: timed.nr_samples,
        nr_samples_counted: counted.nr_samples,
        rounds: timed.rounds.median as u64,
        rounds_min: timed.rounds.min as u64,
        rounds_max: timed.rounds.max as u64,
        ipis_received: timed.ipis_received.median as u64,
        ipis_received_min: timed.ipis_received.min as u64,
        ipis_received_max: timed.ipis_received.max as u64,
        ns_per_page: timed.ns_per_page.median,
        instructions_per_page: counted.ticks_per_page.median,
        instructions_per_page_min: counted.ticks_per_page.min,
        instructions_per_page_max: counted.ticks_per_page.max,
        // By a clock that counts them, an instruction is a nanosecond.
        locked_instructions: counted.locked_ns,
    }
}

/// The table of the page.
pub fn table(rows: &[Moves]) -> Markup {
    html! {
        p {
            "Anonymous memory, all pages of which are there, is moved by mremap(), which leaves the old mapping: "
            "without runs (kernel), and with CONFIG_MREMAP_BATCH_FLUSH (kernel_deferred); and pages of the device by "
            "its own call, which flushes page table by page table (device_locked), or once, at the end (device_deferred). "
            "Not aligned: the new address lies elsewhere in its page table than the old one. Locked is for how long "
            "a run held its locks, at most."
        }
        table {
            thead { tr {
                th { "how" } th.n { "pages" } th { "aligned" } th.n { "CPUs" } th.n { "rounds" } th.n { "IPIs" }
                th.n { "instructions per page" } th.n { "ns per page" } th.n { "locked, instructions" }
            } }
            tbody { @for row in rows { tr {
                td { (row.how) }
                td.n { (row.nr_pages) }
                td { (if row.aligned { "yes" } else { "no" }) }
                td.n { (row.nr_cpus) }
                td.n { (row.rounds) }
                td.n { (row.ipis_received) }
                td.n { (short(row.instructions_per_page)) }
                td.n { (short(row.ns_per_page)) }
                td.n { (row.locked_instructions.map_or("–".into(), short)) }
            } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use rust_tlb_results::spread::Spread;

    use super::*;

    fn measured(how: Mover, ticks: f64) -> said::Moves {
        let spread = |value| Spread::of([value]);
        said::Moves {
            how,
            nr_pages: 512,
            aligned: true,
            nr_cpus: 4,
            nr_samples: 3,
            rounds: spread(1.0),
            ipis_received: spread(3.0),
            ns_per_page: spread(2.0 * ticks),
            ticks_per_page: spread(ticks),
            locked_ns: None,
        }
    }

    #[test]
    fn instructions_are_of_the_boot_that_counts() {
        let timed = [measured(Mover::Kernel, 7.0)];
        let counted = [
            measured(Mover::KernelDeferred, 8.0),
            measured(Mover::Kernel, 9.0),
        ];
        let rows = rows(&timed, &counted).unwrap();
        assert_eq!(
            (rows[0].instructions_per_page, rows[0].ns_per_page),
            (9.0, 14.0)
        );
    }

    #[test]
    fn what_was_not_counted_is_missed() {
        let timed = [measured(Mover::Kernel, 7.0)];
        assert!(rows(&timed, &[measured(Mover::KernelDeferred, 8.0)]).is_err());
    }
}
