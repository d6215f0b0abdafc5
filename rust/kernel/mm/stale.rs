// SPDX-License-Identifier: GPL-2.0

//! What may still be reachable through a stale translation, and is told when it is not any more.
//!
//! Pure: the host's tests run this very source.

#![cfg_attr(CONFIG_KUNIT, deny(unsafe_code))]
#![cfg_attr(not(CONFIG_KUNIT), forbid(unsafe_code))]

use super::place::Place;

/// Only a batch makes one. It proves the call that it is passed to.
pub struct Proof(pub(super) ());

/// What can be in a batch: a page, a folio of several that are one behind the other in memory, or a bundle
/// of several that are not. What wraps another hands all calls on to it.
pub trait Stale {
    /// Returns how many pages it is. That never changes.
    fn nr_pages(&self) -> usize;

    /// All PTEs at `pgoff` and the pages of the file behind it, `from` there, that map it were cleared.
    /// Other CPUs may still reach it, until [`Stale::flushed`].
    fn unmapped(&mut self, from: Place, pgoff: usize, proof: Proof);

    /// No translation to it is left of those that the batch took out.
    fn flushed(&mut self, proof: Proof);
}
