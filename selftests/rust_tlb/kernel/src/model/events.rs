// SPDX-License-Identifier: GPL-2.0

//! What happens elsewhere, between one step of a driver and the next.

use super::{
    ids::{Cpu, MmId, Vpn},
    machine::Shared,
    world::World,
};
use std::cell::RefCell;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Read(Cpu, Vpn),
    Write(Cpu, Vpn),
    /// Writes where the CPU needs no walk, stale or not.
    WriteWhatIsCached(Cpu),
    Switch(Cpu, MmId),
    GoLazy(Cpu),
    /// mprotect of a page: read-only, or writable.
    BeginMprotect(MmId, Vpn, bool),
    BeginMunmap(MmId, Vpn),
    /// The end of what was begun.
    EndFlush(MmId),
    /// From beginning to end.
    Munmap(MmId, Vpn),
}

impl Event {
    fn happen(&self, world: &mut World) {
        match *self {
            Event::Read(cpu, vpn) => _ = world.read(cpu, vpn),
            Event::Write(cpu, vpn) => _ = world.write(cpu, vpn),
            Event::WriteWhatIsCached(cpu) => world.write_what_is_cached(cpu),
            Event::Switch(cpu, mm) => world.switch(cpu, mm),
            Event::GoLazy(cpu) => world.go_lazy(cpu),
            Event::BeginMprotect(mm, vpn, writable) => world.begin_mprotect(mm, vpn, writable),
            Event::BeginMunmap(mm, vpn) => world.begin_munmap(mm, vpn),
            Event::EndFlush(mm) => world.end_flush(mm),
            Event::Munmap(mm, vpn) => world.munmap(mm, vpn),
        }
    }
}

/// A world, and what happens in it between one step of the driver and the next, in order.
pub(super) struct Meanwhile {
    world: Shared,
    events: RefCell<std::vec::IntoIter<Vec<Event>>>,
}

impl Meanwhile {
    pub(super) fn new(world: &Shared, events: &[Vec<Event>]) -> Self {
        Self {
            world: world.clone(),
            events: RefCell::new(Vec::from(events).into_iter()),
        }
    }

    /// Nothing happens.
    pub(super) fn quiet(world: &Shared) -> Self {
        Self::new(world, &[])
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        self.world.with(f)
    }

    /// The next step is about to be taken.
    pub(super) fn pass(&self) {
        let events = self.events.borrow_mut().next().unwrap_or_default();
        self.with(|w| events.iter().for_each(|event| event.happen(w)));
    }
}
