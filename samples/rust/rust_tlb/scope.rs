// SPDX-License-Identifier: GPL-2.0

//! Scopes: unmaps of one or several open files that share a flush.
//!
//! Lock order: the pages of an open file → the locks of the shared flush. Of two open files, the
//! pages are never locked at the same time.

use crate::{
    abi::{
        Scope,
        SCOPE_ENTER,
        SCOPE_LEAVE,
        SCOPE_NO_FILE, //
    },
    membership::{
        Membership,
        OpenScope, //
    },
    open_files,
    request,
    store::Store,
    strategy, //
};
use kernel::{
    mm::tlb,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// The ioctl.
pub(crate) fn update(store: ArcBorrow<'_, Store>, arg: &mut Scope) -> Result {
    request::all_zero(&[u64::from(arg.reserved)])?;
    let done = match arg.op {
        SCOPE_ENTER => enter(store, arg)?,
        SCOPE_LEAVE if arg.strategy != 0 || arg.outer != SCOPE_NO_FILE => return Err(EINVAL),
        SCOPE_LEAVE => leave(store, 1)?,
        _ => return Err(EINVAL),
    };
    (arg.depth, arg.nr_levels, arg.nr_flush_calls) = (done.depth, done.nr_levels, done.nr_calls);
    Ok(())
}

/// Leaves all levels of the scope that the file is in, if it is in one.
pub(crate) fn leave_all(store: ArcBorrow<'_, Store>) {
    // That it is in none is no error here.
    let _ = leave(store, u32::MAX);
}

/// What entering or leaving came to.
struct Outcome {
    depth: u32,
    nr_levels: u32,
    nr_calls: u64,
}

fn enter(store: ArcBorrow<'_, Store>, arg: &Scope) -> Result<Outcome> {
    let strategy = strategy::known(arg.strategy)?;
    if !strategy::defers(strategy) {
        return Err(EINVAL);
    }
    let outer = match arg.outer {
        SCOPE_NO_FILE => None,
        fd => {
            let other = open_files::find(fd)?;
            Some(scope_of(&other)?)
        }
    };
    let mut state = store.lock();
    Membership::enter(&mut state.membership, outer, strategy)?;
    let entered = state.membership.as_ref().ok_or(EINVAL)?;
    Ok(Outcome {
        depth: entered.depth,
        nr_levels: entered.scope.nr_levels(),
        nr_calls: 0,
    })
}

/// Returns the scope that another file is in. It may have ended when it is entered.
fn scope_of(other: &Store) -> Result<Arc<OpenScope>> {
    let state = other.lock();
    let membership = state.membership.as_ref().ok_or(EINVAL)?;
    Ok(membership.scope.clone())
}

/// Leaves up to `nr` levels; the last of all to leave flushes.
fn leave(store: ArcBorrow<'_, Store>, nr: u32) -> Result<Outcome> {
    let mut state = store.lock();
    let (scope, depth, nr_levels) = Membership::leave(&mut state.membership, nr)?;
    let mut nr_calls = 0;
    if nr_levels == 0 {
        nr_calls += scope.flush.flush().nr_calls as u64;
        state.counters.nr_flush_calls += nr_calls;
        let mappings = store.mapping().over(store);
        let report = state.flush_deferred_with_tables(&mappings, tlb::Why::Scope);
        nr_calls += report.nr_calls as u64;
    }
    Ok(Outcome {
        depth,
        nr_levels,
        nr_calls,
    })
}
