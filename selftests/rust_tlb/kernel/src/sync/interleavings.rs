// SPDX-License-Identifier: GPL-2.0

//! All interleavings of a few threads, by loom: which of them gets a lock, and when.

use std::cell::Cell;

thread_local! {
    static ARE_GONE_THROUGH: Cell<bool> = const { Cell::new(false) };
}

/// Whether locks that this thread makes are loom's. All threads of a model are one of the standard
/// library's.
pub(super) fn are_gone_through() -> bool {
    ARE_GONE_THROUGH.get()
}

/// Runs `model` once for each interleaving of the threads that it starts by `loom::thread`.
pub(crate) fn all(model: impl Fn() + Send + Sync + 'static) {
    loom::model(move || {
        ARE_GONE_THROUGH.set(true);
        model();
        ARE_GONE_THROUGH.set(false);
    });
}
