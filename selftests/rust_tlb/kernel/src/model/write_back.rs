// SPDX-License-Identifier: GPL-2.0

//! A driver that takes pages back with their contents, as the device does with `UNMAP_WRITE_BACK`,
//! while the CPUs go on. The batch, the phases, the walk and the policies are the real ones.

use super::{
    events::Meanwhile,
    ids::{MmId, Vpn},
    mappings::{Processes, Taken},
    policies::AnyPolicy,
};
use crate::{
    alloc::GFP_KERNEL,
    mm::tlb::batch::{Batch, Staging},
};

pub(super) type ModelBatch = Batch<Taken, AnyPolicy>;

/// How pages are unmapped before they are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Clear everything. A write through a translation that was clean will fault.
    Cpu,
    /// In two phases. It may not.
    Nobody,
}

/// Takes the pages `vpns` of each of `mms` back: unmaps them, saves them, releases them.
pub(super) fn take_back(
    mut batch: ModelBatch,
    trust: Trust,
    pages: (&[MmId], &[Vpn]),
    meanwhile: &Meanwhile,
) -> ModelBatch {
    meanwhile.pass();
    unmap(&mut batch, trust, pages, meanwhile);
    for (_, taken) in batch.flush_dirty().entries() {
        meanwhile.pass();
        meanwhile.with(|w| w.memory.save(taken.page, taken.frame));
    }
    meanwhile.pass();
    let mut flushed = batch.flush();
    for (_, taken) in flushed.drain() {
        meanwhile.with(|w| w.leaving.remove(&taken.page));
    }
    flushed.into_empty()
}

fn unmap(
    batch: &mut ModelBatch,
    trust: Trust,
    (mms, vpns): (&[MmId], &[Vpn]),
    meanwhile: &Meanwhile,
) {
    let processes = Processes { mms, meanwhile };
    let staging = stage(batch, meanwhile, mms, vpns);
    meanwhile.pass();
    match trust {
        Trust::Cpu => _ = staging.unmap(&processes),
        Trust::Nobody => {
            let quiesced = staging.write_protect(&processes).flush();
            meanwhile.pass();
            quiesced.unmap(&processes);
        }
    }
}

/// Goes through the first of two phases, and leaves it at that.
pub(super) fn give_up(
    batch: &mut ModelBatch,
    (mms, vpns): (&[MmId], &[Vpn]),
    meanwhile: &Meanwhile,
) {
    let processes = Processes { mms, meanwhile };
    drop(stage(batch, meanwhile, mms, vpns).write_protect(&processes));
}

/// Takes the pages out of where the driver's fault handler looks, and stages them.
fn stage<'b>(
    batch: &'b mut ModelBatch,
    meanwhile: &Meanwhile,
    mms: &[MmId],
    vpns: &[Vpn],
) -> Staging<'b, Taken, AnyPolicy> {
    batch.reserve(mms.len() * vpns.len(), GFP_KERNEL).unwrap();
    let mut staging = batch.stage();
    let pages = mms
        .iter()
        .flat_map(|&mm| vpns.iter().map(move |&vpn| (mm, vpn)));
    for page in pages {
        if let Some(frame) = meanwhile.with(|w| w.memory.take(page)) {
            meanwhile.with(|w| w.leaving.insert(page));
            assert!(staging.push(page.1, Taken { page, frame }).is_ok());
        }
    }
    staging
}
