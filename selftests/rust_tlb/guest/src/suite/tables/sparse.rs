// SPDX-License-Identifier: GPL-2.0

//! The workload of the bench, smaller: gigabytes of mapping, of which a page per 2 MiB is used.

use anyhow::{ensure, Result};

use crate::bench::page_tables::{self, Row};
use crate::kernel_module;
use crate::ktap::{skip, Options};
use crate::page_tables::TABLE_KB;

/// Tables that may be left, of the levels above, and of the test itself.
const FEW_KB: u64 = 64 * TABLE_KB;
/// Rounds of a call, and of others meanwhile: far from one per table.
const FEW_ROUNDS: u64 = 60;

pub fn a_sparse_mapping_gives_its_tables_back(_: &Options) -> Result<()> {
    if kernel_module::path().is_none() {
        return skip("no module file is known");
    }
    let mut names = Vec::new();
    page_tables::run(true, |row| {
        println!("# {row:?}");
        names.push(row.how);
        check(&row)
    })?;
    ensure!(
        names == ["madvise", "unmap", "unmap_async", "none"],
        "{names:?}"
    );
    Ok(())
}

fn check(row: &Row) -> Result<()> {
    let of_all = row.nr_pages * TABLE_KB;
    ensure!(row.vm_pte_before_kb >= of_all, "not all are mapped");
    let is_few = |kb: u64| kb < row.vm_pte_before_kb - of_all + FEW_KB;
    let (held, after) = (is_few(row.vm_pte_held_kb), is_few(row.vm_pte_after_kb));
    let is_freed = row.how != "none";
    // The worker may have come before anyone could look.
    ensure!(
        held == is_freed || row.how == "unmap_async",
        "when it returns"
    );
    ensure!(after == is_freed, "in the end");
    ensure!(row.how == "madvise" || row.rounds < FEW_ROUNDS, "rounds");
    Ok(())
}
