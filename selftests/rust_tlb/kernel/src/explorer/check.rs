// SPDX-License-Identifier: GPL-2.0

//! What must hold in every state.

use super::{
    machine::bits,
    state::{Cached, Context, Cpu, Life, State, Work, INIT, NONE, PAGES_PER_TABLE},
    trace::{frame_name, name},
};

/// Returns what does not hold.
pub(super) fn broken(state: &State, nr_cpus: usize, keeps_promise: bool) -> Option<String> {
    state.cpus[..nr_cpus]
        .iter()
        .enumerate()
        .find_map(|(number, cpu)| {
            let wrong = of_cpu(state, cpu, keeps_promise)?;
            Some(format!("{} {wrong}", name(number as u8)))
        })
}

fn of_cpu(state: &State, cpu: &Cpu, keeps_promise: bool) -> Option<String> {
    let contexts = cpu.contexts.iter().zip(&cpu.cached);
    contexts
        .filter(|(context, _)| context.mm < INIT)
        .find_map(|(context, cached)| revoked(state, *context, cached))
        .or_else(|| has_two_sizes(cpu))
        .or_else(|| walks_freed_table(state, cpu))
        .or_else(|| reaches_freed_page(state, cpu))
        .or_else(|| reads_freed_table(state, cpu))
        .or_else(|| writes_to_saved_page(state, cpu, keeps_promise))
        .or_else(|| reaches_gone_page(state, cpu))
}

/// The claim that all rests on: a CPU whose generation is at least g holds nothing that g revoked. That
/// is a frame at one address: if it was moved, nothing is said of its old one.
fn revoked(state: &State, context: Context, cached: &Cached) -> Option<String> {
    let is_revoked = |generation: u8| generation != 0 && generation <= context.generation;
    let pages = cached.frames.iter().enumerate();
    let mut frames = pages.flat_map(|(page, frames)| {
        bits(*frames).filter(move |&frame| usize::from(state.frames[frame].page) == page)
    });
    let mut tables = cached
        .tables
        .iter()
        .flat_map(|tables| bits((*tables).into()));
    if let Some(frame) = frames.find(|&frame| is_revoked(state.frames[frame].revoked)) {
        return Some(format!(
            "is at generation {}, and may hold {}, which {} revoked",
            context.generation,
            frame_name(state, frame),
            state.frames[frame].revoked
        ));
    }
    let table = tables.find(|&table| is_revoked(state.tables[table].revoked))?;
    Some(format!(
        "is at generation {}, and may hold a paging-structure entry for table {table}, which {} revoked",
        context.generation, state.tables[table].revoked
    ))
}

/// A processor may take either of two translations that differ in size, or check itself and stop.
fn has_two_sizes(cpu: &Cpu) -> Option<String> {
    let differs = |cached: &Cached| {
        let mut leaves = bits(cached.leaves.into());
        leaves.any(|place| {
            let first = place * PAGES_PER_TABLE;
            let frames = &cached.frames[first..first + PAGES_PER_TABLE];
            frames.iter().any(|frames| *frames != 0)
        })
    };
    let any = cpu.cached.iter().any(differs);
    any.then(|| "may hold translations of two sizes for one address".into())
}

fn current(cpu: &Cpu) -> Option<&Cached> {
    (cpu.root != INIT).then(|| &cpu.cached[usize::from(cpu.asid)])
}

/// What user memory is accessed through, if any can be.
fn current_of_user(cpu: &Cpu) -> Option<&Cached> {
    let is_user = !cpu.loaded.is_lazy && cpu.work == Work::None;
    current(cpu).filter(|_| is_user)
}

/// Speculation needs no reason: also on a lazy CPU, and with interrupts off.
fn walks_freed_table(state: &State, cpu: &Cpu) -> Option<String> {
    let mut tables = current(cpu)?
        .tables
        .iter()
        .flat_map(|tables| bits((*tables).into()));
    let table = tables.find(|&table| state.tables[table].life == Life::Freed)?;
    Some(format!("may walk page table {table}, which is freed"))
}

/// A lazy CPU and one that has interrupts off access no user memory.
fn reaches_freed_page(state: &State, cpu: &Cpu) -> Option<String> {
    let mut frames = current_of_user(cpu)?
        .frames
        .iter()
        .flat_map(|frames| bits(*frames));
    let frame = frames.find(|&frame| state.frames[frame].life == Life::Freed)?;
    Some(format!(
        "may access {}, which is freed",
        frame_name(state, frame)
    ))
}

/// A CPU that keeps its promise writes through a clean translation only after another walk.
fn writes_to_saved_page(state: &State, cpu: &Cpu, keeps_promise: bool) -> Option<String> {
    let cached = current_of_user(cpu)?;
    let can_write = if keeps_promise {
        &cached.dirty
    } else {
        &cached.writable
    };
    let mut frames = can_write.iter().flat_map(|frames| bits(*frames));
    let frame = frames.find(|&frame| state.frames[frame].saved)?;
    Some(format!(
        "may write to {}, whose contents are saved",
        frame_name(state, frame)
    ))
}

/// What munmap has taken out: the process may rely on that.
fn reaches_gone_page(state: &State, cpu: &Cpu) -> Option<String> {
    let cached = current_of_user(cpu)?;
    let gone = bits(state.mms[usize::from(cpu.root)].gone.into());
    let mut frames = gone.flat_map(|page| bits(cached.frames[page]));
    let frame = frames.find(|&frame| state.frames[frame].life != Life::Mapped)?;
    Some(format!(
        "may access {}, which munmap said is gone",
        frame_name(state, frame)
    ))
}

/// By software, in an RCU section.
fn reads_freed_table(state: &State, cpu: &Cpu) -> Option<String> {
    let table = cpu.task.read;
    let is_freed =
        cpu.task.in_rcu && table != NONE && state.tables[usize::from(table)].life == Life::Freed;
    is_freed.then(|| format!("walks page table {table} in software, which is freed"))
}
