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
        SCOPE_MAX_DEPTH,
        SCOPE_NO_FILE, //
    },
    open_files,
    request,
    store::Store,
    strategy, //
};
use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    mm::tlb,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    }, //
};

/// A scope that open files are in.
pub(crate) struct OpenScope {
    flush: Arc<tlb::Scope>,
    strategy: u32,
    /// Of all files together. At 0 it has ended, and nobody enters it any more.
    nr_levels: Atomic<u32>,
}

impl OpenScope {
    /// Makes a scope, with the level of whoever makes it.
    fn new(strategy: u32) -> Result<Arc<Self>> {
        let policies = [strategy::policy(strategy)?, strategy::policy(strategy)?];
        let scope = Self {
            flush: tlb::Scope::new(policies, GFP_KERNEL_ACCOUNT)?,
            strategy,
            nr_levels: Atomic::new(1),
        };
        Ok(Arc::new(scope, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns a policy that leaves the flush to this scope.
    pub(crate) fn policy(&self) -> Result<KBox<tlb::AnyPolicy>> {
        Ok(KBox::new(
            tlb::Hoisted::new(self.flush.clone()),
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    fn nr_levels(&self) -> u32 {
        self.nr_levels.load(Relaxed)
    }

    /// Adds a level, unless the scope has ended.
    fn add_level(&self) -> Result {
        let mut nr = self.nr_levels();
        loop {
            let more = match nr {
                0 => return Err(EINVAL),
                _ => nr.checked_add(1).ok_or(EOVERFLOW)?,
            };
            match self.nr_levels.cmpxchg(nr, more, Relaxed) {
                Ok(_) => return Ok(()),
                Err(found) => nr = found,
            }
        }
    }

    /// Takes `nr` levels away, and returns how many are left.
    fn drop_levels(&self, nr: u32) -> u32 {
        // Full: whoever takes the last away, and flushes, comes after what those before recorded.
        self.nr_levels.fetch_sub(nr, Full) - nr
    }
}

/// The scope that an open file is in.
pub(crate) struct Membership {
    scope: Arc<OpenScope>,
    depth: u32,
}

impl Membership {
    /// Returns the scope, if there is one and `strategy` is its.
    pub(crate) fn check(this: Option<&Self>, strategy: u32) -> Result<Option<Arc<OpenScope>>> {
        match this {
            Some(this) if this.scope.strategy != strategy => Err(EINVAL),
            Some(this) => Ok(Some(this.scope.clone())),
            None => Ok(None),
        }
    }

    /// Enters `outer`, or one more level of the scope that the file is in, or a new one.
    fn enter(this: &mut Option<Self>, outer: Option<Arc<OpenScope>>, strategy: u32) -> Result {
        let depth = this.as_ref().map_or(0, |this| this.depth) + 1;
        if depth > SCOPE_MAX_DEPTH {
            return Err(EOVERFLOW);
        }
        let known = match (&*this, outer) {
            (Some(this), Some(outer)) if !Arc::ptr_eq(&this.scope, &outer) => return Err(EBUSY),
            (Some(this), _) => Some(this.scope.clone()),
            (None, outer) => outer,
        };
        let scope = match known {
            Some(scope) if scope.strategy != strategy => return Err(EINVAL),
            Some(scope) => {
                scope.add_level()?;
                scope
            }
            None => OpenScope::new(strategy)?,
        };
        *this = Some(Self { scope, depth });
        Ok(())
    }

    /// Leaves up to `nr` levels. Returns the scope, and how many are left of this file's and of
    /// all.
    fn leave(this: &mut Option<Self>, nr: u32) -> Result<(Arc<OpenScope>, u32, u32)> {
        let left = this.as_mut().ok_or(EINVAL)?;
        let nr = nr.min(left.depth);
        left.depth -= nr;
        let (depth, scope) = (left.depth, left.scope.clone());
        if depth == 0 {
            *this = None;
        }
        let nr_levels = scope.drop_levels(nr);
        Ok((scope, depth, nr_levels))
    }
}

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
    let mut pages = store.lock();
    Membership::enter(&mut pages.membership, outer, strategy)?;
    let entered = pages.membership.as_ref().ok_or(EINVAL)?;
    Ok(Outcome {
        depth: entered.depth,
        nr_levels: entered.scope.nr_levels(),
        nr_calls: 0,
    })
}

/// Returns the scope that another file is in. It may have ended when it is entered.
fn scope_of(other: &Store) -> Result<Arc<OpenScope>> {
    let pages = other.lock();
    let membership = pages.membership.as_ref().ok_or(EINVAL)?;
    Ok(membership.scope.clone())
}

/// Leaves up to `nr` levels; the last of all to leave flushes.
fn leave(store: ArcBorrow<'_, Store>, nr: u32) -> Result<Outcome> {
    let mut pages = store.lock();
    let (scope, depth, nr_levels) = Membership::leave(&mut pages.membership, nr)?;
    let mut nr_calls = 0;
    if nr_levels == 0 {
        nr_calls += scope.flush.flush().nr_calls as u64;
        pages.counters.nr_flush_calls += nr_calls;
        let report = pages.flush_deferred_with_tables(store, tlb::Why::Scope);
        nr_calls += report.nr_calls as u64;
    }
    Ok(Outcome {
        depth,
        nr_levels,
        nr_calls,
    })
}
