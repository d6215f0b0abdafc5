// SPDX-License-Identifier: GPL-2.0

//! Chosen: for callers who find out at run time which policy they want.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::{
    broadcast::Broadcast,
    per_page::PerPage,
    policy::{
        sealed,
        Direct,
        Flush,
        Kind,
        Machine,
        Report, //
    },
    precise::Precise,
    range::{
        PageRange,
        Pending, //
    }, //
};
#[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
use super::{
    unflushed::Unflushed,
    unnoted::Unnoted, //
};

/// A policy chosen at run time.
pub enum Chosen<M: Machine> {
    /// See [`Broadcast`].
    Broadcast(Broadcast<M>),
    /// See [`Precise`].
    Precise(Precise<M>),
    /// See [`PerPage`].
    PerPage(PerPage<M>),
    /// See [`Unflushed`].
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    Unflushed(Unflushed<M>),
    /// [`Broadcast`] on a machine that is [`Unnoted`].
    #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
    Unnoted(Broadcast<Unnoted<M>>),
}

impl<M: Machine> Chosen<M> {
    fn as_flush(&mut self) -> &mut dyn Flush<Mm = M::Mm> {
        match self {
            Self::Broadcast(policy) => policy,
            Self::Precise(policy) => policy,
            Self::PerPage(policy) => policy,
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            Self::Unflushed(policy) => policy,
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            Self::Unnoted(policy) => policy,
        }
    }

    fn as_flush_ref(&self) -> &dyn Flush<Mm = M::Mm> {
        match self {
            Self::Broadcast(policy) => policy,
            Self::Precise(policy) => policy,
            Self::PerPage(policy) => policy,
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            Self::Unflushed(policy) => policy,
            #[cfg(any(test, CONFIG_RUST_TLB_FAULTS))]
            Self::Unnoted(policy) => policy,
        }
    }
}

impl<M: Machine> Default for Chosen<M> {
    fn default() -> Self {
        Self::Broadcast(Broadcast::new())
    }
}

impl<M: Machine> sealed::Sealed for Chosen<M> {}

impl<M: Machine> Direct for Chosen<M> {}

impl<M: Machine> Flush for Chosen<M> {
    type Mm = M::Mm;

    fn kind(&self) -> Kind {
        self.as_flush_ref().kind()
    }

    fn flushes_each(&self) -> bool {
        self.as_flush_ref().flushes_each()
    }

    fn cleared(&mut self, mm: &M::Mm, page: PageRange) {
        self.as_flush().cleared(mm, page);
    }

    fn record(&mut self, mm: &M::Mm, pending: Pending) {
        self.as_flush().record(mm, pending);
    }

    fn owed(&self) -> Report {
        self.as_flush_ref().owed()
    }

    fn flush(&mut self) -> Report {
        self.as_flush().flush()
    }
}
