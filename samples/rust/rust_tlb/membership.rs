// SPDX-License-Identifier: GPL-2.0

//! A scope, and an open file's place in it: which levels there are, and who shares the flush.

use crate::{
    abi::SCOPE_MAX_DEPTH,
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
        Arc, //
    }, //
};

/// A scope that open files are in.
pub(crate) struct OpenScope {
    pub(crate) flush: Arc<tlb::Scope>,
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

    pub(crate) fn nr_levels(&self) -> u32 {
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
    pub(crate) scope: Arc<OpenScope>,
    pub(crate) depth: u32,
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
    pub(crate) fn enter(
        this: &mut Option<Self>,
        outer: Option<Arc<OpenScope>>,
        strategy: u32,
    ) -> Result {
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
    pub(crate) fn leave(this: &mut Option<Self>, nr: u32) -> Result<(Arc<OpenScope>, u32, u32)> {
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
