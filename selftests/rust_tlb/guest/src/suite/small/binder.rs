// SPDX-License-Identifier: GPL-2.0

//! Idle pages of Rust Binder, where there is little memory.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::fs;
use std::thread;

use anyhow::{ensure, Context, Result};

use super::{eat, expect_small_machine, meminfo, run_killable};
use crate::barrier::Wait;
use crate::binder::clients::Client;
use crate::binder::ground::Ground;
use crate::binder::service::{check, fill};
use crate::ktap::{skip, Options};
use crate::shared::Shared;
use crate::tlb_events::counter;
use crate::workers::Shape;

const SHAPE: Shape = Shape {
    processes: 16,
    threads: 1,
};
/// Of each process: idle, and in use.
const NR_IDLE: u32 = 240;
const NR_LIVE: u32 = 8;

const PAUSE: Duration = Duration::from_millis(300);

/// Has idle pages and pages in use, and checks those while there is pressure.
fn live(
    client: &Client<'_>,
    is_over: &Shared<AtomicU32>,
    nr_checks: &Shared<AtomicU64>,
) -> Result<()> {
    let first = client.process as u64;
    let kept = fill(client.endpoint, NR_LIVE, first)?;
    drop(fill(client.endpoint, NR_IDLE, !first)?);
    client.step()?;
    while is_over[0].load(Ordering::Acquire) == 0 && !client.stopped() {
        check(&kept, NR_LIVE, first)?;
        // Uses some of what was idle, or was taken.
        drop(fill(client.endpoint, 2, first)?);
        nr_checks[client.process].fetch_add(1, Ordering::Relaxed);
        // Others need the CPU, too.
        thread::sleep(PAUSE);
    }
    // All of it can still be used.
    drop(fill(client.endpoint, NR_IDLE, first)?);
    check(&kept, NR_LIVE, first)
}

/// Mapped pages of files and devices: without what eats memory, which is shared.
fn nr_mapped() -> Result<i64> {
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let count = |name| counter(&vmstat, name).context("a counter is missing in /proc/vmstat");
    Ok(count("nr_mapped")? as i64 - count("nr_shmem")? as i64)
}

pub fn idle_pages_of_binder_make_room_and_live_ones_stay(_: &Options) -> Result<()> {
    expect_small_machine()?;
    let Some(ground) = Ground::new()? else {
        return skip("the kernel has no CONFIG_ANDROID_BINDER_IPC_RUST");
    };
    let is_over = Shared::new(1)?;
    let nr_checks = Shared::new(SHAPE.processes)?;
    let clients = ground.clients(SHAPE, Wait::Sleep, |client| {
        live(client, &is_over, &nr_checks)
    })?;
    clients.step()?;
    let before = nr_mapped()?;
    // The programs' own pages are fewer than the other half.
    let goal = SHAPE.processes as i64 * i64::from(NR_IDLE) / 2;
    run_killable(|| eat(meminfo("MemTotal")?, || Ok(before - nr_mapped()? >= goal)))?;
    println!("# {} pages taken", before - nr_mapped()?);
    is_over[0].store(1, Ordering::Release);
    clients.join()?;
    let all_checked = nr_checks.iter().all(|nr| nr.load(Ordering::Relaxed) > 0);
    ensure!(all_checked, "a process checked nothing");
    Ok(())
}
