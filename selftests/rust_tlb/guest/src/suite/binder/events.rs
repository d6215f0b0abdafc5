// SPDX-License-Identifier: GPL-2.0

//! A scan as the trace events tell it.

use anyhow::{ensure, Context, Result};
use rust_tlb_trace::event::Event;

use super::{with_how, How, NR_PAGES, ONE};
use crate::barrier::Wait;
use crate::binder::service::fill;
use crate::ftrace::Tracing;
use crate::ktap::Options;

/// The project's events of this task: others flush, too.
fn own<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = &'a Event> {
    let pid = std::process::id();
    let is_own = move |event: &&Event| event.pid == pid;
    events
        .iter()
        .filter(is_own)
        .filter(move |event| event.name.strip_prefix("rust_tlb_") == Some(name))
}

pub fn a_scan_is_in_the_events(_: &Options) -> Result<()> {
    let tracing = Tracing::new(&["rust_tlb"])?.context("the kernel does not have the events")?;
    with_how(How::Batched, |ground| {
        let clients = ground.clients(ONE, Wait::Sleep, |client| {
            drop(fill(client.endpoint, NR_PAGES, 1)?);
            client.step()?;
            client.step()
        })?;
        clients.step()?;
        let ((), events) = tracing.record(|| Ok(ground.shrinkers.run()?))?;
        clients.step()?;
        clients.join()?;

        let nr = |name| own(&events, name).count();
        ensure!(nr("batch_open") == 1, "{events:?}");
        let unmapped = own(&events, "range_add").filter_map(|event| event.number("ptes"));
        let nr_unmapped: u64 = unmapped.sum();
        ensure!(nr_unmapped >= NR_PAGES.into(), "{nr_unmapped} unmapped");
        let whys: Vec<_> = own(&events, "flush_begin")
            .map(|event| event.text("why"))
            .collect();
        ensure!(whys == [Some("pressure")], "{whys:?}");
        let nr_released = nr("page_release") as u64;
        ensure!(nr_released == nr_unmapped, "{nr_released} released");
        Ok(())
    })
}
